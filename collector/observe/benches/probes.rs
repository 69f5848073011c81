//! Cost of the probes, from the kernel's own BPF statistics, and cost of a reading in this process.
//!
//! `cargo bench -p huddle-observe --bench probes`; with `--profile dev` it builds faster, and the cost
//! of the programs is the same. Needs root. The kernel's statistics contain two readings of its clock
//! per run, so a program that does nothing does not cost zero here.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use huddle_host::{HostRoot, task};
use huddle_model::availability::Availability;
use huddle_model::vm::TaskId;
use huddle_observe::probes::cost::{CostMeter, ProgramCost};
use huddle_observe::probes::program::Program;
use huddle_observe::probes::threads::ThreadProbe;
use huddle_observe::probes::{ProbeConfig, Probes};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};

/// Number of intervals; the result is the median of their mean costs.
const INTERVALS: usize = 41;
const INTERVAL: Duration = Duration::from_millis(50);
/// vCPU threads of the host in the goal for this process.
const VCPUS: usize = 64;
const LIMIT_WATCHED_NS: f64 = 500.0;
const LIMIT_OTHER_NS: f64 = 100.0;
const LIMIT_PROCESS_PERCENT: f64 = 1.0;

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let config =
        ProbeConfig { programs: vec![Program::SchedSwitch, Program::SchedMigrateTask], ..Default::default() };
    let mut probes = Probes::load(&HostRoot::real(), &config).unwrap();
    let moved = Availability::Unavailable("moved out".into());
    let mut watcher = match std::mem::replace(&mut probes.threads, moved) {
        Availability::Available(watcher) => watcher,
        Availability::Unavailable(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let _meter = CostMeter::start().unwrap();
    let pair = PingPong::start();

    // The same switches twice, first with neither thread watched, then with both watched: the most expensive
    // case, since one leaves and the other enters in one run.
    let other_ns = median_cost(&probes, Program::SchedSwitch);
    for thread in pair.threads {
        watcher.watch(&HostRoot::real(), own_pid(), thread).unwrap();
    }
    let before = (watched_switches(&watcher), cost(&probes, Program::SchedSwitch).runs);
    let mixed_ns = median_cost(&probes, Program::SchedSwitch);
    let after = (watched_switches(&watcher), cost(&probes, Program::SchedSwitch).runs);
    let share = (after.0 - before.0) as f64 / (after.1 - before.1) as f64;
    let watched_ns = (mixed_ns - (1.0 - share) * other_ns) / share;
    drop(pair);
    println!("sched_switch, no thread watched:   {other_ns:6.0} ns median (limit {LIMIT_OTHER_NS} ns)");
    println!(
        "sched_switch, two watched threads: {watched_ns:6.0} ns median (limit {LIMIT_WATCHED_NS} ns); \
         {:.0} % of the switches were theirs, {mixed_ns:.0} ns over all",
        share * 100.0
    );
    let percent = reading_percent(&mut watcher);
    println!("reading {VCPUS} threads at 1 Hz: {percent:.3} % of one core (limit {LIMIT_PROCESS_PERCENT} %)");
    for (program, cost) in probes.programs.costs() {
        println!("{:20} {:9} runs, {:12} ns", program.name(), cost.runs, cost.run_ns);
    }
    let losses = probes.losses.value().map(|losses| losses.read().unwrap());
    println!("losses: {losses:?}");
    let missed =
        watched_ns > LIMIT_WATCHED_NS || other_ns > LIMIT_OTHER_NS || percent > LIMIT_PROCESS_PERCENT;
    if missed {
        println!("a limit is exceeded");
        std::process::exit(1);
    }
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn identify(tid: i32) -> TaskId {
    task::thread(&HostRoot::real(), own_pid(), tid).unwrap().id
}

fn cost(probes: &Probes, program: Program) -> ProgramCost {
    probes.programs.costs().get(&program).copied().unwrap_or_default()
}

/// Median over intervals of the mean cost of one run.
fn median_cost(probes: &Probes, program: Program) -> f64 {
    let mut means = Vec::new();
    let mut before = cost(probes, program);
    while means.len() < INTERVALS {
        std::thread::sleep(INTERVAL);
        let after = cost(probes, program);
        let runs = after.runs - before.runs;
        if runs > 0 {
            means.push((after.run_ns - before.run_ns) as f64 / runs as f64);
        }
        before = after;
    }
    means.sort_by(f64::total_cmp);
    means[INTERVALS / 2]
}

fn watched_switches(watcher: &ThreadProbe) -> u64 {
    let readings = watcher.read(&HostRoot::real()).unwrap();
    let cpus = readings.iter().flat_map(|reading| reading.cpus.value().unwrap());
    cpus.map(|cpu| cpu.switches.unwrap()).sum()
}

/// CPU time of reading `VCPUS` busy threads once, in percent of a second.
fn reading_percent(watcher: &mut ThreadProbe) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, tid) = mpsc::channel();
    let busy: Vec<JoinHandle<()>> = (0..VCPUS)
        .map(|_| {
            let (stop, sender) = (stop.clone(), sender.clone());
            std::thread::spawn(move || {
                sender.send(gettid().as_raw()).unwrap();
                while !stop.load(SeqCst) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for _ in 0..VCPUS {
        watcher.watch(&HostRoot::real(), own_pid(), identify(tid.recv().unwrap())).unwrap();
    }
    let (readings, before_ns) = (20, thread_cpu_ns());
    for _ in 0..readings {
        assert!(watcher.read(&HostRoot::real()).unwrap().len() >= VCPUS);
    }
    let each_ns = (thread_cpu_ns() - before_ns) as f64 / f64::from(readings);
    stop.store(true, SeqCst);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    each_ns / 1e9 * 100.0
}

fn thread_cpu_ns() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap()).as_nanos() as u64
}

/// Two threads on one CPU that wake each other in turn through pipes.
struct PingPong {
    threads: [TaskId; 2],
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl PingPong {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (from_a, mut to_b) = std::io::pipe().unwrap();
        let (from_b, to_a) = std::io::pipe().unwrap();
        to_b.write_all(b"x").unwrap();
        let (sender, tid) = mpsc::channel();
        let side = |mut from: std::io::PipeReader, mut to: std::io::PipeWriter| {
            let (stop, sender) = (stop.clone(), sender.clone());
            std::thread::spawn(move || {
                let mut set = CpuSet::new();
                set.set(0).unwrap();
                sched_setaffinity(Pid::from_raw(0), &set).unwrap();
                sender.send(gettid().as_raw()).unwrap();
                let mut byte = [0];
                while !stop.load(SeqCst) && from.read_exact(&mut byte).is_ok() {
                    // The other side may have ended first.
                    let _ = to.write_all(&byte);
                }
            })
        };
        let handles = vec![side(from_a, to_a), side(from_b, to_b)];
        let threads = [0, 1].map(|_| identify(tid.recv().unwrap()));
        Self { threads, stop, handles }
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        for handle in self.handles.drain(..) {
            handle.join().unwrap();
        }
    }
}
