//! Merges and breaks per process on the real KSM, against `ksm_merging_pages`. The tenants are this
//! program again, each a process of its own. Needs root, BTF and KSM; skipped with a message where they are
//! missing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod observe_support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_host::{HostRoot, task};
use huddle_model::availability::Availability;
use huddle_model::vm::TaskId;
use huddle_observe::probes::ksm::{BreakCount, KsmProbe, ProcessMerges, merging_pages};
use huddle_observe::probes::program::Program;
use huddle_observe::probes::{ProbeConfig, Probes};
use libtest_mimic::Failed;
use observe_support::{KsmLock, MergeableMemory, Test, missing, run};

/// Set in a tenant process: the number of the data group whose contents it holds.
const ROLE: &str = "HUDDLE_TEST_TENANT_GROUP";
const PAGES: usize = 2000;

fn main() {
    if let Ok(group) = std::env::var(ROLE) {
        tenant(group.parse().unwrap());
    }
    let tests: &[Test] = &[
        ("merges_equal_ksm_merging_pages_and_breaks_equal_rewritten_pages", merges_and_breaks),
        ("events_of_more_processes_than_fit_are_counted_as_lost", too_many),
    ];
    run(missing(), false, tests);
}

/// Holds `PAGES` pages that its group holds too; for each line with a number, overwrites that many of them
/// with unique data.
fn tenant(group: usize) -> ! {
    let memory = MergeableMemory::new(PAGES, |page| group * PAGES + page);
    println!("ready");
    for line in std::io::stdin().lines() {
        let rewrite: usize = line.unwrap().trim().parse().unwrap();
        for page in 0..rewrite {
            memory.write(page, (1 + std::process::id() as usize) * 1_000_000 + page);
        }
        println!("written");
        std::io::stdout().flush().unwrap();
    }
    std::process::exit(0);
}

struct Tenant {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    task: TaskId,
}

impl Tenant {
    fn start(group: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, group.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let task = task::process(&HostRoot::real(), child.id().cast_signed()).unwrap().id;
        let mut tenant = Self { child, input, output: BufReader::new(output), task };
        tenant.expect("ready");
        tenant
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    fn rewrite(&mut self, pages: usize) {
        writeln!(self.input, "{pages}").unwrap();
        self.input.flush().unwrap();
        self.expect("written");
    }

    fn merging_pages(&self) -> u64 {
        merging_pages(&HostRoot::real(), self.task.id).unwrap()
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn merges(probe: &KsmProbe) -> BTreeMap<TaskId, ProcessMerges> {
    probe.read().unwrap().into_iter().map(|row| (row.process, row)).collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The part that counts merges, taken out of the probes.
fn probe(limits: ProbeConfig) -> Result<(KsmProbe, Probes), Failed> {
    let programs = [
        Program::KsmMergeOnePage,
        Program::KsmMergeWithKsmPage,
        Program::KsmRemoveRmapItem,
        Program::KsmRemoveKsmPage,
    ];
    let config = ProbeConfig { programs: programs.to_vec(), ..limits };
    let mut probes = Probes::load(&HostRoot::real(), &config).unwrap();
    match std::mem::replace(&mut probes.ksm, Availability::Unavailable("moved out".into())) {
        Availability::Available(probe) => Ok((probe, probes)),
        Availability::Unavailable(reason) => Err(reason.into()),
    }
}

fn merges_and_breaks() -> Result<(), Failed> {
    let ksm = KsmLock::take();
    let mut tenants: Vec<Tenant> = [0, 0, 1, 1].map(Tenant::start).into();
    let (mut probe, probes) = probe(ProbeConfig::default())?;
    let mut breaks: Vec<BreakCount> =
        tenants.iter().map(|tenant| BreakCount::new(0, tenant.merging_pages())).collect();
    ksm.set("smart_scan", 0);
    ksm.set("sleep_millisecs", 10);
    ksm.set("pages_to_scan", 10_000);
    ksm.set("run", 1);
    wait_until("all pages are merged", || tenants.iter().all(|t| t.merging_pages() >= PAGES as u64));
    ksm.set("run", 0);

    let seen = merges(&probe);
    for (tenant, breaks) in tenants.iter().zip(&mut breaks) {
        let row = seen.get(&tenant.task).ok_or("a tenant is known by pid and start time")?;
        assert_eq!(tenant.merging_pages(), row.merged_pages, "{row:?}");
        assert!(row.merged_pages >= PAGES as u64);
        assert_eq!(breaks.update(row.merged_pages, tenant.merging_pages()), 0);
    }

    // One tenant of each group writes to merged pages; ksmd detects it on its next visit.
    let rewritten = 300;
    let before = tenants[0].merging_pages();
    for index in [0, 2] {
        tenants[index].rewrite(rewritten);
    }
    assert_eq!(tenants[0].merging_pages(), before, "the kernel counts a break at ksmd's next visit");
    ksm.set("run", 1);
    let target = before - rewritten as u64;
    wait_until("ksmd has seen the breaks", || {
        [0, 2].iter().all(|index| tenants[*index].merging_pages() <= target)
    });
    ksm.set("run", 0);
    let seen = merges(&probe);
    for (index, (tenant, breaks)) in tenants.iter().zip(&mut breaks).enumerate() {
        let row = seen[&tenant.task];
        let broken = breaks.update(row.merged_pages, tenant.merging_pages());
        // Written data is unique, so no page is merged again.
        assert_eq!(broken, if index % 2 == 0 { rewritten as u64 } else { 0 }, "{row:?}");
    }

    let gone = seen[&tenants[3].task];
    drop(tenants.pop());
    probe.forget(&gone).unwrap();
    probe.forget(&gone).unwrap();
    assert!(!merges(&probe).contains_key(&gone.process));
    assert_eq!(probes.losses.value().unwrap().read().unwrap().total(), 0);
    Ok(())
}

fn too_many() -> Result<(), Failed> {
    let ksm = KsmLock::take();
    let tenants = [0, 0, 1, 1].map(Tenant::start);
    let (probe, probes) = probe(ProbeConfig { max_ksm_processes: 1, ..ProbeConfig::default() })?;
    ksm.set("smart_scan", 0);
    ksm.set("pages_to_scan", 10_000);
    ksm.set("run", 1);
    wait_until("all pages are merged", || tenants.iter().all(|t| t.merging_pages() >= PAGES as u64));
    ksm.set("run", 0);
    let kept: u64 = merges(&probe).values().map(|row| row.merged_pages + row.failed_merges).sum();
    let lost = probes.losses.value().unwrap().read().unwrap().ksm_events;
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
    assert!(kept + lost >= 4 * PAGES as u64, "{kept} kept, {lost} lost: every merge is one or the other");
    Ok(())
}
