//! What it costs to keep the matrix current by events, against measuring it afresh, and how far off it is.
//!
//! `cargo bench --profile dev -p huddle-engine --bench events -- [--gib N] [--vms N] [--rounds N]
//! [--percent N]`, as root. Tenants are processes that this program starts from itself. Pairs of them share a quarter of
//! their memory, merged by KSM (its settings are changed meanwhile and put back). Each round they rewrite
//! N % (1 by default) of the merged pages, spread evenly: every other one alike in both of a pair, so that KSM merges it
//! again, the rest with what nobody else has. Then
//! 1. `after writes`: the graph is brought up to date, and compared with a fresh scan;
//! 2. `after KSM's pass`: the same once KSM has seen everything.
//!
//! Costs are processor time of this thread (nothing here sleeps), as a ratio to that of a full scan on one
//! thread in the same round, and to that of merely reading all page tables, which no scan can undercut.
//! The programs run in the threads of tenants and of ksmd, and on every page fault of the host: their runs
//! and time between two updates are the kernel's statistics, which add their own clock readings. `not
//! updated` is how far the matrix of before would be off: a drift that is not clearly below that shows
//! nothing. `merged ranges`: reading again only the
//! page tables of what was merged, the way that needs no events.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark: what fails, panics")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use huddle_host::{HostRoot, task};
use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{GuestRegion, MemoryKind, Vm, VmId, VmmKind};
use huddle_observe::probes::cost::CostMeter;
use huddle_observe::probes::graph::frame_changes;
use huddle_sharing::MergedScan;
use huddle_sharing::events::{Drift, EventsConfig, EventsGraph};
use huddle_testing::figures::{median, spread};
use huddle_testing::ksm;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use nix::time::ClockId;

const PAGE: usize = 4096;
/// Merged pages, of all.
const SHARED_PERCENT: usize = 25;
const LIMIT_COST: f64 = 0.1;
const LIMIT_DRIFT: f64 = 0.01;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "tenant") {
        tenant(&args[1..]);
    }
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, default: usize| option(name).map_or(default, |text| text.parse().unwrap());
    let (gib, rounds) = (number("--gib", 12), number("--rounds", 5));
    let vms = number("--vms", 4).next_multiple_of(2);
    // One of this many merged pages is rewritten each round.
    let rewrite_every = 100 / number("--percent", 1).clamp(1, 50);
    if let Some(reason) = ksm::missing() {
        println!("events cannot be measured here: {reason}");
        std::process::exit(3);
    }
    measure(gib, vms, rounds, rewrite_every);
}

fn measure(gib: usize, count: usize, rounds: usize, rewrite_every: usize) {
    let pages = (gib << 30) / PAGE / count / 512 * 512;
    let shared = pages * SHARED_PERCENT / 100;
    let ksm = ksm::Ksm::start();
    let mut tenants: Vec<Tenant> = (0..count).map(|at| Tenant::start(at / 2, pages, shared)).collect();
    tenants.iter_mut().for_each(|tenant| tenant.expect("ready"));
    let vms: Vec<Vm> = tenants.iter().map(|tenant| tenant.vm.clone()).collect();
    let pids: Vec<i32> = vms.iter().map(|vm| vm.process().unwrap().id).collect();
    ksm.merge(&pids);

    let scan = MergedScan::new(HostRoot::real()).with_threads(NonZeroUsize::MIN);
    let mut graph = match EventsGraph::start(
        HostRoot::real(),
        EventsConfig::default(),
        &*frame_changes(HostRoot::real()),
    ) {
        Ok(graph) => graph,
        Err(error) => {
            println!("events cannot be measured here: {error}");
            std::process::exit(3);
        }
    };
    let _meter = CostMeter::start().unwrap();
    let before_mib = resident_mib();
    let (baseline, found) = timed(|| graph.baseline(&vms).unwrap());
    let graph_mib = resident_mib() - before_mib;
    let first = scan.measure(&vms).unwrap().matrix;
    assert_eq!(Drift::between(&found.measurement.matrix, &first).unwrap().frames, 0, "a wrong baseline");
    assert_eq!(first.shared_frames(0, 1), Some(shared as u64));
    let mut buffer = vec![1; 128 << 10];
    let mut columns: [Vec<f64>; 13] = Default::default();
    let (mut scans, mut baselines) = (Vec::new(), vec![baseline * 1e3]);
    for round in 0..rounds {
        let kept = graph.bring_up_to_date().unwrap().measurement.matrix;
        let programs_before = graph.cost();
        let migrated_before = migrated();
        tenants.iter_mut().for_each(|tenant| tenant.rewrite(round, rewrite_every));
        let (written, update) = timed(|| graph.bring_up_to_date().unwrap());
        assert_eq!(update.stale, None);
        assert!(
            update.changes.write_faults as usize >= count * shared / rewrite_every,
            "{:?}",
            update.changes
        );
        let fresh = scan.measure(&vms).unwrap().matrix;
        let written_drift = Drift::between(&update.measurement.matrix, &fresh).unwrap();

        ksm.set("run", "1");
        ksm.merge(&pids);
        let (passed, update) = timed(|| graph.bring_up_to_date().unwrap());
        let (cost, runs) = (graph.cost(), graph.cost().runs - programs_before.runs);
        let programs_ns = (cost.run_ns - programs_before.run_ns) as f64;
        assert_eq!(update.stale, None);
        assert!(update.changes.merges as usize >= count * shared / rewrite_every / 2, "{:?}", update.changes);
        let (full, fresh) = timed(|| scan.measure(&vms).unwrap().matrix);
        let drift = Drift::between(&update.measurement.matrix, &fresh).unwrap();
        let not_updated = Drift::between(&kept, &fresh).unwrap();
        let (ranges, ()) = timed(|| read_tables(&vms, 1, &mut buffer));
        let (bare, ()) = timed(|| read_tables(&vms, 2, &mut buffer));
        let row = [
            written / full,
            passed / full,
            (written + passed) / full,
            runs as f64,
            programs_ns / runs.max(1) as f64,
            ranges / full,
            (written + passed) / bare,
            100.0 * written_drift.share,
            100.0 * drift.share,
            100.0 * not_updated.share,
            100.0 * update.sample.wrong_share().unwrap_or(f64::NAN),
            (migrated() - migrated_before) as f64,
            (written + passed + programs_ns / 1e9) / full,
        ];
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        scans.push(full * 1e3);
    }
    let (again, found) = timed(|| graph.baseline(&vms).unwrap());
    baselines.push(again * 1e3);
    let rewritten = count * shared / rewrite_every;
    println!(
        "{gib} GiB in {count} tenants, {} pages merged, {rewritten} of them rewritten a round, {rounds} rounds; median [min to max]\n",
        count * shared
    );
    println!("| | |\n|---|---|");
    let line =
        |what: &str, values: &[f64], digits: usize| println!("| {what} | {} |", spread(values, digits));
    line("full scan, ms", &scans, 1);
    line("baseline, ms", &baselines, 1);
    println!("| memory of the graph, MiB | {graph_mib:.0} |");
    line("brought up to date after writes / full scan", &columns[0], 3);
    line("brought up to date after KSM's pass / full scan", &columns[1], 3);
    line("both / full scan", &columns[2], 3);
    line("both and the programs / full scan", &columns[12], 3);
    line("runs of the programs (all page faults of the host)", &columns[3], 0);
    line("ns a run", &columns[4], 0);
    line("merged ranges / full scan", &columns[5], 3);
    line("both / merely reading all page tables", &columns[6], 3);
    line("drift after writes, % of frames", &columns[7], 3);
    line("drift after KSM's pass, % of frames", &columns[8], 3);
    line("not updated, % of frames", &columns[9], 3);
    line("sampled drift, % of pages", &columns[10], 3);
    line("pages that the kernel moved (compaction, not reported)", &columns[11], 0);
    println!(
        "| drift page by page after all rounds | {} of {} pages |",
        found.before.wrong, found.before.looked_at
    );
    let verdict = |value: f64, limit: f64| if value <= limit { "met" } else { "MISSED" };
    println!(
        "\ncost {:.3} of a full scan (limit {LIMIT_COST}): {}; drift {:.4} % (limit {} %): {}",
        median(&columns[2]),
        verdict(median(&columns[2]), LIMIT_COST),
        median(&columns[8]),
        LIMIT_DRIFT * 100.0,
        verdict(median(&columns[8]) / 100.0, LIMIT_DRIFT)
    );
}

/// Reads the entries of the first `regions` regions (the first is what was merged) of every tenant, and
/// does nothing with them: the least that could cost.
fn read_tables(vms: &[Vm], regions: usize, buffer: &mut [u8]) {
    for vm in vms {
        let pagemap = File::open(format!("/proc/{}/pagemap", vm.process().unwrap().id)).unwrap();
        for region in &vm.memory[..regions] {
            let (mut at, end) = (region.start / PAGE as u64 * 8, region.end / PAGE as u64 * 8);
            while at < end {
                let wanted = (buffer.len() as u64).min(end - at) as usize;
                at += pagemap.read_at(&mut buffer[..wanted], at).unwrap() as u64;
            }
        }
        std::hint::black_box(&buffer);
    }
}

/// Seconds of processor time of this thread.
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let processor = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()).as_secs_f64();
    let before = processor();
    let result = work();
    (processor() - before, result)
}

/// Pages of the whole host that the kernel has moved to other frames.
fn migrated() -> u64 {
    let vmstat = std::fs::read_to_string("/proc/vmstat").unwrap();
    let line = vmstat.lines().find_map(|line| line.strip_prefix("pgmigrate_success "));
    line.map_or(0, |number| number.parse().unwrap())
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    pages * PAGE as f64 / 1048576.0
}

struct Tenant {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    vm: Vm,
}

impl Tenant {
    fn start(group: usize, pages: usize, shared: usize) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg("tenant")
            .args([group, pages, shared].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let start: u64 = line.trim().parse().unwrap();
        let process = task::process(&HostRoot::real(), child.id().cast_signed()).unwrap().id;
        let (middle, end) = (start + (shared * PAGE) as u64, start + (pages * PAGE) as u64);
        let region = |start, end, kind| GuestRegion { process: Some(process), start, end, kind };
        let vm = Vm {
            name: format!("tenant{}", child.id()),
            id: VmId::Process(process),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::Process,
            vcpus: Vec::new(),
            memory: vec![
                region(start, middle, MemoryKind::Mergeable),
                region(middle, end, MemoryKind::Anonymous),
            ],
            allowed_cpus: CpuSet::default(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        };
        Self { child, input, output, vm }
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    fn rewrite(&mut self, round: usize, rewrite_every: usize) {
        writeln!(self.input, "{round} {rewrite_every}").unwrap();
        self.input.flush().unwrap();
        self.expect("written");
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Maps memory and writes a word to each page, the same in each tenant of a group for those that are
/// mergeable. Then rewrites some for each line with the number of the round.
fn tenant(args: &[String]) -> ! {
    let numbers: Vec<usize> = args.iter().map(|arg| arg.parse().unwrap()).collect();
    let [group, pages, shared] = numbers[..] else { unreachable!("the arguments are our own") };
    let length = NonZeroUsize::new(pages * PAGE).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    println!("{}", map.as_ptr() as u64);
    // SAFETY: the range is the mapping made above; the advice does not change its content.
    unsafe { madvise(map, length.get(), MmapAdvise::MADV_NOHUGEPAGE) }.unwrap();
    // SAFETY: the mapping is writable, page-aligned, `pages * PAGE` long, and only used through this.
    let words = unsafe { std::slice::from_raw_parts_mut(map.cast::<u64>().as_ptr(), length.get() / 8) };
    let own = std::process::id() as u64;
    for page in 0..pages {
        let seed = if page < shared { group as u64 } else { own };
        words[page * PAGE / 8] = ((seed + 1) << 32) + page as u64;
    }
    // SAFETY: as above; merged or not, the content is the same.
    unsafe { madvise(map, shared * PAGE, MmapAdvise::MADV_MERGEABLE) }.unwrap();
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let numbers: Vec<usize> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let [round, rewrite_every] = numbers[..] else { unreachable!("the lines are our own") };
        // Other pages each round, so that each time they are merged ones.
        for (at, page) in (round % rewrite_every..shared).step_by(rewrite_every).enumerate() {
            let seed = if at % 2 == 0 { group as u64 } else { own };
            words[page * PAGE / 8] = ((seed + 1) << 32) + page as u64;
            words[page * PAGE / 8 + 1] = round as u64 + 1;
        }
        println!("written");
        std::io::stdout().flush().unwrap();
    }
    std::process::exit(0)
}
