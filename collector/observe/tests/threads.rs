//! Watched threads on the real scheduler: residency compared with the threads' own CPU time, moves and
//! switches compared with the kernel's counts. Needs root and BTF; skipped with a message where they are
//! missing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod observe_support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use huddle_host::{HostRoot, task};
use huddle_model::availability::Availability;
use huddle_model::vm::TaskId;
use huddle_observe::probes::program::Program;
use huddle_observe::probes::threads::{ThreadProbe, ThreadReading, WatchError};
use huddle_observe::probes::{ProbeConfig, Probes};
use libtest_mimic::Failed;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};
use observe_support::{Test, missing, run};

fn main() {
    let tests: &[Test] = &[
        ("residency_sums_to_cpu_time", residency_sums_to_cpu_time),
        ("a_running_thread_is_counted_from_when_watching_starts", running_at_the_start),
        ("moves_and_switches_equal_the_kernels_counts", moves_and_switches),
        ("samples_of_the_clock_follow_the_cpu_time", samples),
        ("running_out_of_slots_is_an_error_and_a_reused_id_is_not_counted", limits),
    ];
    // Sequential: they load both CPUs.
    run(missing(), true, tests);
}

/// Probes with the watching part taken out.
fn probe(programs: &[Program], config: ProbeConfig) -> Result<(ThreadProbe, Probes), Failed> {
    let config = ProbeConfig { programs: programs.to_vec(), ..config };
    let mut probes = Probes::load(&HostRoot::real(), &config).unwrap();
    match std::mem::replace(&mut probes.threads, Availability::Unavailable("moved out".into())) {
        Availability::Available(threads) => Ok((threads, probes)),
        Availability::Unavailable(reason) => Err(format!("{reason}: {:?}", probes.programs.status()).into()),
    }
}

fn thread_cpu_ns() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap()).as_nanos() as u64
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn identify(tid: i32) -> TaskId {
    task::thread(&HostRoot::real(), own_pid(), tid).unwrap().id
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn usable_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// A thread that waits to be started, works, reports the CPU time of its work, and waits to be released.
struct Worker {
    thread: TaskId,
    /// Dropped to release the thread.
    go: Option<mpsc::Sender<()>>,
    done: mpsc::Receiver<u64>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    fn new(work: impl FnOnce() + Send + 'static) -> Self {
        let (tell_tid, tid) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let (sender, done) = mpsc::channel();
        let handle = std::thread::spawn(move || {
            tell_tid.send(gettid().as_raw()).unwrap();
            if wait.recv().is_err() {
                return;
            }
            let before_ns = thread_cpu_ns();
            work();
            sender.send(thread_cpu_ns() - before_ns).unwrap();
            let _ = wait.recv();
        });
        let thread = identify(tid.recv().unwrap());
        let worker = Self { thread, go: Some(go), done, handle: Some(handle) };
        worker.blocked();
        worker
    }

    /// Waits until the thread sleeps off its CPU. The state alone is not enough: it says sleeping before the
    /// thread has left its CPU, and on a busy machine that may take a while.
    fn blocked(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let look = || {
            let stat = task::thread(&HostRoot::real(), own_pid(), self.thread.id).unwrap();
            (stat.state, switches(self.thread))
        };
        let mut before = look();
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = look();
            if now == before && now.0 == 'S' {
                return;
            }
            assert!(Instant::now() < deadline, "the worker does not go to sleep");
            before = now;
        }
    }

    fn start(&self) {
        self.go.as_ref().unwrap().send(()).unwrap();
    }

    /// The CPU time of its work, once it has left its CPU: the CPU time of a running thread is known only up
    /// to the last tick of the kernel, and its own clock is ahead of that.
    fn finish(&self) -> u64 {
        let work_ns = self.done.recv().unwrap();
        self.blocked();
        work_ns
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.go = None;
        let _ = self.handle.take().unwrap().join();
    }
}

fn run_ns(reading: &ThreadReading) -> u64 {
    let cpus = reading.cpus.value().unwrap_or_else(|| panic!("{:?}", reading.cpus));
    cpus.iter().map(|cpu| cpu.run_ns.unwrap()).sum()
}

fn reading_of(probe: &ThreadProbe, thread: TaskId) -> ThreadReading {
    let readings = probe.read(&HostRoot::real()).unwrap();
    readings.into_iter().find(|reading| reading.thread == thread).unwrap()
}

fn within_one_percent(measured_ns: u64, truth_ns: u64) {
    let difference = measured_ns.abs_diff(truth_ns) as f64 / truth_ns as f64;
    println!("residency {measured_ns} ns, CPU time {truth_ns} ns, off by {:.3} %", difference * 100.0);
    assert!(difference < 0.01, "residency {measured_ns} ns, CPU time {truth_ns} ns");
}

fn residency_sums_to_cpu_time() -> Result<(), Failed> {
    let (mut probe, probes) = probe(&[Program::SchedSwitch], ProbeConfig::default())?;
    let cpus = usable_cpus();
    let wander = cpus.clone();
    let workers = [
        Worker::new(|| spin(Duration::from_millis(1500))),
        // Blocks often.
        Worker::new(|| {
            for _ in 0..300 {
                spin(Duration::from_millis(3));
                std::thread::sleep(Duration::from_millis(1));
            }
        }),
        // Yields often.
        Worker::new(|| {
            let end = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < end {
                spin(Duration::from_micros(200));
                std::thread::yield_now();
            }
        }),
        // Moves between CPUs.
        Worker::new(move || {
            for turn in 0..100 {
                pin(wander[turn % wander.len()]);
                spin(Duration::from_millis(10));
            }
        }),
    ];
    let root = HostRoot::real();
    for worker in &workers {
        probe.watch(&root, own_pid(), worker.thread).unwrap();
        probe.watch(&root, own_pid(), worker.thread).unwrap();
    }
    assert_eq!(probe.watched().count(), workers.len());
    workers.iter().for_each(Worker::start);
    std::thread::sleep(Duration::from_millis(700));
    let half_way: Vec<u64> = workers.iter().map(|w| run_ns(&reading_of(&probe, w.thread))).collect();
    for (worker, half_way_ns) in workers.iter().zip(half_way) {
        let truth_ns = worker.finish();
        let reading = reading_of(&probe, worker.thread);
        within_one_percent(run_ns(&reading), truth_ns);
        assert!(half_way_ns > 0 && half_way_ns < run_ns(&reading));
    }
    let wandered = reading_of(&probe, workers[3].thread).cpus.value().unwrap().len();
    assert_eq!(wandered, cpus.len());
    assert_eq!(probes.losses.value().unwrap().read().unwrap().total(), 0);
    Ok(())
}

fn running_at_the_start() -> Result<(), Failed> {
    let (mut probe, _probes) = probe(&[Program::SchedSwitch], ProbeConfig::default())?;
    let (stop, cpu_ns, tid) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicI32::new(0)));
    let handle = std::thread::spawn({
        let (stop, cpu_ns, tid) = (stop.clone(), cpu_ns.clone(), tid.clone());
        move || {
            tid.store(gettid().as_raw(), SeqCst);
            while !stop.load(SeqCst) {
                cpu_ns.store(thread_cpu_ns(), SeqCst);
            }
        }
    });
    while tid.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    let (thread, blocked) = (identify(tid.load(SeqCst)), Worker::new(|| ()));
    let before_ns = cpu_ns.load(SeqCst);
    for thread in [thread, blocked.thread] {
        probe.watch(&HostRoot::real(), own_pid(), thread).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1000));
    // This thread may be delayed between the two readings, so the reference is read before and after.
    let least_ns = cpu_ns.load(SeqCst) - before_ns;
    let measured_ns = run_ns(&reading_of(&probe, thread));
    let most_ns = cpu_ns.load(SeqCst) - before_ns;
    assert_eq!(run_ns(&reading_of(&probe, blocked.thread)), 0, "a blocked thread does not run");
    stop.store(true, SeqCst);
    handle.join().unwrap();
    within_one_percent(measured_ns, measured_ns.clamp(least_ns, most_ns));
    Ok(())
}

/// A number of `/proc/self/task/TID/sched` or `status`.
fn kernel_count(file: &str, thread: TaskId, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/{file}", thread.id)).unwrap();
    let line = text.lines().find(|line| line.split([':', ' ']).next() == Some(name)).unwrap();
    line.rsplit([':', ' ', '\t']).next().unwrap().parse().unwrap()
}

/// Switches away from a thread, voluntarily or not.
fn switches(thread: TaskId) -> u64 {
    let names = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
    names.iter().map(|name| kernel_count("status", thread, name)).sum()
}

fn moves_and_switches() -> Result<(), Failed> {
    let cpus = usable_cpus();
    if cpus.len() < 2 {
        println!("skipped: one CPU alone cannot show moves");
        return Ok(());
    }
    let (mut probe, _probes) =
        probe(&[Program::SchedSwitch, Program::SchedMigrateTask], ProbeConfig::default())?;
    let worker = Worker::new({
        let cpus = cpus.clone();
        move || {
            for turn in 0..200 {
                pin(cpus[turn % cpus.len()]);
                spin(Duration::from_micros(300));
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    });
    let domains: BTreeMap<u32, u32> = cpus.iter().map(|cpu| (*cpu as u32, *cpu as u32)).collect();
    probe.set_domains(&domains).unwrap();
    let count = || (switches(worker.thread), kernel_count("sched", worker.thread, "se.nr_migrations"));
    // The worker may be switched at any time; a reading between two equal counts is of one moment.
    let before = loop {
        let before = count();
        probe.watch(&HostRoot::real(), own_pid(), worker.thread).unwrap();
        if count() == before {
            break before;
        }
        probe.unwatch(worker.thread).unwrap();
    };
    worker.start();
    worker.finish();
    let (after, reading) = loop {
        let (after, reading) = (count(), reading_of(&probe, worker.thread));
        if count() == after {
            break (after, reading);
        }
    };
    let switches: u64 = reading.cpus.value().unwrap().iter().map(|cpu| cpu.switches.unwrap()).sum();
    assert_eq!((switches, reading.migrations.unwrap()), (after.0 - before.0, after.1 - before.1));
    assert!(reading.migrations.unwrap() >= 100, "{reading:?}");
    assert_eq!(reading.domain_migrations, reading.migrations, "here each CPU is a domain");
    assert_eq!(reading.guest.entries, None, "an unattached program's count is not zero");
    Ok(())
}

fn samples() -> Result<(), Failed> {
    let config = ProbeConfig { clock_samples_hz: 997, ..ProbeConfig::default() };
    let (mut probe, _probes) = probe(&[Program::SampleClock], config)?;
    let worker = Worker::new(|| spin(Duration::from_secs(2)));
    probe.watch(&HostRoot::real(), own_pid(), worker.thread).unwrap();
    worker.start();
    let truth_ns = worker.finish();
    let reading = reading_of(&probe, worker.thread);
    let cpus = reading.cpus.value().unwrap();
    let samples: u64 = cpus.iter().map(|cpu| cpu.clock_samples.unwrap()).sum();
    let expected = truth_ns as f64 * 997e-9;
    println!("{samples} samples, {expected:.0} expected");
    assert!((samples as f64 - expected).abs() < expected * 0.2, "{samples} samples, {expected} expected");
    assert!(cpus.iter().all(|cpu| cpu.run_ns.is_none()));
    Ok(())
}

fn limits() -> Result<(), Failed> {
    let config = ProbeConfig { max_threads: 2, ..ProbeConfig::default() };
    let (mut probe, _probes) = probe(&[Program::SchedSwitch], config)?;
    let workers: Vec<Worker> = (0..3).map(|_| Worker::new(|| spin(Duration::from_millis(50)))).collect();
    let root = HostRoot::real();
    let other = TaskId { start_ticks: workers[0].thread.start_ticks + 7, ..workers[0].thread };
    let error = probe.watch(&root, own_pid(), other).unwrap_err();
    assert!(matches!(error, WatchError::Reused { .. }), "{error}");
    assert_eq!(probe.watched().count(), 0);
    let gone = TaskId { id: own_pid(), start_ticks: 1 };
    assert!(probe.watch(&root, 1, gone).unwrap_err().to_string().contains("cannot be watched"));

    probe.watch(&root, own_pid(), workers[0].thread).unwrap();
    probe.watch(&root, own_pid(), workers[1].thread).unwrap();
    assert!(matches!(probe.watch(&root, own_pid(), workers[2].thread), Err(WatchError::Full { limit: 2 })));

    // A slot that was used before starts from zero.
    workers[0].start();
    let first_ns = workers[0].finish();
    assert!(run_ns(&reading_of(&probe, workers[0].thread)) >= first_ns);
    probe.unwatch(workers[0].thread).unwrap();
    let error = probe.watch(&root, own_pid(), workers[2].thread).unwrap_err();
    assert!(error.to_string().contains("2 threads"), "a slot rests for a second: {error}");
    std::thread::sleep(Duration::from_millis(1100));
    probe.watch(&root, own_pid(), workers[2].thread).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(run_ns(&reading_of(&probe, workers[2].thread)), 0);
    Ok(())
}
