//! What huddle costs as a whole: `huddle matrix` from start to end, beside a raw read of the pagemaps of the same memory,
//! which no scan by pagemap can undercut; and a round of `huddle run` over 64 VMs, by page tables and by pagemap.
//!
//! `cargo bench --profile dev -p huddle --bench command -- [--gib N] [--runs N] [--program PATH]`, as root. `--program`
//! measures another build, such as that of `cargo xtask dist`. Processor time in user space and in the kernel, of all threads.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use huddle_testing::cpu_time::cpu_ns;
use huddle_testing::figures::{median, spread};
use huddle_testing::ksm::Ksm;
use huddle_testing::memory::{mergeable, page_bytes};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// Most of a raw read that a whole `huddle matrix` may take.
const LIMIT_COMMAND: f64 = 0.25;
/// Most of a round by pagemap that one by page tables may take.
const LIMIT_ROUND: f64 = 0.1;
const VMS_OF_COMMAND: usize = 4;
const VMS_OF_ROUNDS: usize = 64;
/// Rounds that are counted of each loop.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "tenant") {
        tenant(arguments[1].parse().unwrap());
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let option =
        |name: &str| arguments.iter().position(|argument| argument == name).map(|at| &arguments[at + 1]);
    let gib: usize = option("--gib").map_or(8, |text| text.parse().unwrap());
    let runs: usize = option("--runs").map_or(7, |text| text.parse().unwrap());
    let program =
        option("--program").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_huddle")), PathBuf::from);
    let met = [whole_command(&program, gib, runs), rounds_of_a_loop(&program, gib)];
    if met.contains(&false) {
        println!("a limit is MISSED");
    }
}

fn whole_command(program: &Path, gib: usize, runs: usize) -> bool {
    let tenants = Tenants::start(gib, VMS_OF_COMMAND);
    let state = tempfile::tempdir().unwrap();
    let (mut raw, mut whole, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        raw.push(used(UsageWho::RUSAGE_SELF, || tenants.read_pagemaps()));
        whole.push(used(UsageWho::RUSAGE_CHILDREN, || {
            let output = tenants.command(program, "matrix", state.path()).stdout(Stdio::null()).status();
            assert!(output.unwrap().success());
        }));
        ratios.push(whole[whole.len() - 1] / raw[raw.len() - 1]);
    }
    let is_met = median(&ratios) <= LIMIT_COMMAND;
    println!("huddle matrix over {gib} GiB in {VMS_OF_COMMAND} VMs, {runs} runs, ms: {}", spread(&whole, 1));
    println!("raw read of the pagemaps, ms: {}", spread(&raw, 1));
    println!("whole command / raw read: {} (limit {LIMIT_COMMAND})", spread(&ratios, 3));
    is_met
}

fn rounds_of_a_loop(program: &Path, gib: usize) -> bool {
    let tenants = Tenants::start(gib, VMS_OF_ROUNDS);
    // Each pass of KSM is a round. It finds nothing to merge, and soon passes over what it has seen several times.
    let ksm = Ksm::start();
    ksm.set("smart_scan", "1");
    ksm.set("pages_to_scan", "200000");
    wait_for_quick_passes(&ksm);
    let [by_tables, by_pagemap] = ["auto", "pagemap"]
        .map(|read_by| tenants.round(program, &format!("[sharing]\nread_by = \"{read_by}\"\n")));
    let ratio = by_tables / by_pagemap;
    println!(
        "a round of huddle run over {gib} GiB in {VMS_OF_ROUNDS} VMs, with a window of observation, ms: {by_tables:.1} \
         by page tables, {by_pagemap:.1} by pagemap: {ratio:.3} (limit {LIMIT_ROUND})"
    );
    ratio <= LIMIT_ROUND
}

/// Waits until each interval of the loop has a pass: so each round has one window of observation.
fn wait_for_quick_passes(ksm: &Ksm) {
    for _ in 0..120 {
        let before = ksm.number("full_scans");
        std::thread::sleep(Duration::from_secs(1));
        if ksm.number("full_scans") >= before + 2 {
            return;
        }
    }
    println!("passes of KSM take longer than the interval: rounds have several windows");
}

/// Milliseconds of processor time that `work` adds to what this process, or its children that have ended, used.
fn used(who: UsageWho, work: impl FnOnce()) -> f64 {
    let now = || {
        let usage = getrusage(who).unwrap();
        let ms = |time: TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
        ms(usage.user_time()) + ms(usage.system_time())
    };
    let before = now();
    work();
    now() - before
}

/// Processes with mergeable memory, each page with content of its own.
struct Tenants(Vec<(Child, u64, u64)>);

impl Tenants {
    fn start(gib: usize, count: usize) -> Self {
        let pages = (gib << 30) / page_bytes() / count;
        let start = |_| {
            let mut child = Command::new("/proc/self/exe")
                .args(["tenant", &pages.to_string()])
                .stdout(Stdio::piped())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            (child, line.trim().parse().unwrap(), (pages * page_bytes()) as u64)
        };
        Self((0..count).map(start).collect())
    }

    /// Reads the entries of all pages, and does nothing with them.
    fn read_pagemaps(&self) {
        let mut buffer = vec![0; 128 << 10];
        for (child, start, bytes) in &self.0 {
            let pagemap = File::open(format!("/proc/{}/pagemap", child.id())).unwrap();
            let page = page_bytes() as u64;
            let (mut at, end) = (start / page * 8, (start + bytes) / page * 8);
            while at < end {
                let wanted = (buffer.len() as u64).min(end - at) as usize;
                at += pagemap.read_at(&mut buffer[..wanted], at).unwrap() as u64;
            }
            std::hint::black_box(&buffer);
        }
    }

    fn command(&self, program: &Path, command: &str, state: &Path) -> Command {
        let mut huddle = Command::new(program);
        huddle.arg(command).env("HUDDLE_STATE_DIR", state.join("state")).env("HUDDLE_HOST_LOCK", state);
        for (number, (child, ..)) in self.0.iter().enumerate() {
            huddle.arg("--vm").arg(format!("vm{number}={}", child.id()));
        }
        huddle
    }

    /// Milliseconds of processor time of a round of the loop, after the first ones.
    fn round(&self, program: &Path, config: &str) -> f64 {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = self.command(program, "run", state.path());
        command.args(["--dry-run", "--min-interval", "1", "--config"]).arg(&file);
        let mut huddle = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(huddle.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut rounds = |count: usize| {
            (0..count).for_each(|_| assert!(log.any(|line| line.contains(" round ")), "the loop ended"));
        };
        // What is found out once is in the first.
        rounds(2);
        let before = cpu_ns(huddle.id());
        rounds(ROUNDS);
        let used = cpu_ns(huddle.id()) - before;
        kill(Pid::from_raw(huddle.id().cast_signed()), Signal::SIGINT).unwrap();
        std::thread::spawn(move || log.for_each(drop));
        assert!(huddle.wait().unwrap().success());
        Duration::from_nanos(used).as_secs_f64() * 1e3 / ROUNDS as f64
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        for (child, ..) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Maps mergeable memory, writes to each page, says where it is, and waits for the end of its input.
fn tenant(pages: usize) -> ! {
    let words = mergeable(pages);
    let own = u64::from(std::process::id());
    words
        .chunks_exact_mut(page_bytes() / 8)
        .enumerate()
        .for_each(|(page, words)| words[0] = own << 32 | page as u64);
    println!("{}", words.as_ptr() as u64);
    let _ = std::io::stdin().lines().count();
    std::process::exit(0)
}
