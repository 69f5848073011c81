//! Counters of all vCPUs of a VM: software events against known numbers and against perf(1). Needs root; prints what it
//! skips.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod observe_support;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use huddle_host::{HostRoot, descriptors, task};
use huddle_model::counters::{CounterRole, GroupReading};
use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{Vcpu, Vm, VmmKind};
use huddle_observe::perf::{EventSet, EventSpec, VcpuCounters, VcpuReading};
use huddle_testing::output::say;
use libtest_mimic::Failed;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use observe_support::worker::{Worker, switches};
use observe_support::{MergeableMemory, Test, not_root, run};

/// The variable with which this program starts itself as the counted process.
const WORK: &str = "HUDDLE_TEST_COUNTED";

fn main() {
    if std::env::var_os(WORK).is_some() {
        return work();
    }
    let tests: &[Test] = &[
        ("faults_and_switches_of_vcpus_are_exact", exact),
        ("threads_come_and_go", come_and_go),
        ("counters_leave_descriptors_for_others", few_descriptors),
        ("zeros_of_an_event_that_never_counted_are_unavailable", never_counted),
        ("software_events_agree_with_perf_stat", software_against_perf),
        ("hardware_events_count_or_have_a_reason", hardware_counts_or_a_reason),
    ];
    run(not_root(), false, tests);
}

fn vm(name: &str, pid: i32, threads: &[i32]) -> Vm {
    let root = HostRoot::real();
    let process = task::process(&root, pid).unwrap().id;
    let vcpu = |(index, tid): (u32, &i32)| Vcpu {
        index,
        id: task::thread(&root, pid, *tid).unwrap().id.into(),
        process: Some(process),
        thread_name: Some("vcpu".into()),
        affinity: CpuSet::new(),
        last_cpu: None,
        limits: Default::default(),
    };
    Vm {
        name: name.into(),
        id: process.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::Process,
        vcpus: (0..).zip(threads).map(vcpu).collect(),
        memory: Vec::new(),
        allowed_cpus: CpuSet::new(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn own_vm(name: &str, workers: &[&Worker]) -> Vm {
    let threads: Vec<i32> = workers.iter().map(|worker| worker.tid).collect();
    vm(name, std::process::id().cast_signed(), &threads)
}

/// Software events in place of hardware events, as a user would configure them.
fn counters(choices: &[&str]) -> VcpuCounters {
    let mut set = EventSet::only([]);
    for choice in choices {
        set.choose(&HostRoot::real(), &choice.parse().unwrap()).unwrap();
    }
    VcpuCounters::new(HostRoot::real(), set)
}

fn reading(row: &VcpuReading) -> GroupReading {
    *row.reading.value().unwrap_or_else(|| panic!("{row:?}"))
}

fn faulting(pages: usize) -> Worker {
    let mut worker = Worker::new(move || {
        let memory = MergeableMemory::untouched(pages);
        for page in 0..pages {
            memory.touch(page);
        }
    });
    // A warm-up, so that code and stack are in memory.
    worker.run();
    worker
}

fn exact() -> Result<(), Failed> {
    let mut workers = [faulting(300), faulting(500)];
    let vms = [own_vm("a", &[&workers[0]]), own_vm("b", &[&workers[1]])];
    let mut counters = counters(&["llc_misses=page-faults", "llc_references=context-switches"]);
    let names: Vec<_> = counters.events().iter().map(|counted| counted.event.value().cloned()).collect();
    assert_eq!(names, [None, None, Some("context-switches".into()), Some("page-faults".into())]);
    counters.sync(&vms);
    let mut at_one_moment = |workers: &[Worker; 2]| loop {
        let now = || [0, 1].map(|index: usize| switches(workers[index].tid));
        let before = now();
        let rows = counters.read();
        if now() == before {
            return (rows, before);
        }
    };
    workers.iter_mut().for_each(Worker::run);
    let (first, switched) = at_one_moment(&workers);
    let used: Vec<u64> = workers.iter().map(|worker| worker.usage[0].load(SeqCst)).collect();
    for _ in 0..20 {
        workers.iter_mut().for_each(Worker::run);
    }
    let (last, switched_after) = at_one_moment(&workers);
    for (index, pages) in [(0, 300), (1, 500)] {
        let (row, worker) = (&last[index], &workers[index]);
        assert_eq!((row.vm.as_str(), row.vcpu, row.thread.id), (["a", "b"][index], 0, worker.tid));
        let (from, to) = (reading(&first[index]), reading(row));
        let faults = to.counts.llc_misses.unwrap() - from.counts.llc_misses.unwrap();
        assert_eq!(faults, 20 * pages, "page faults of worker {index}");
        assert_eq!(faults, worker.usage[0].load(SeqCst) - used[index], "the thread's own count");
        let switches = to.counts.llc_references.unwrap() - from.counts.llc_references.unwrap();
        assert_eq!(switches, switched_after[index] - switched[index], "context switches of worker {index}");
        assert!(switches > 0 && to.counts.cycles.is_none());
        assert!(to.begin_ns >= from.end_ns && to.end_ns >= to.begin_ns);
        assert!(to.time_enabled_ns > from.time_enabled_ns && !row.delta.is_multiplexed());
        let reason = row.delta.count(CounterRole::Cycles).reason();
        assert!(reason.unwrap().contains("cycles are not counted"), "{row:?}");
    }
    // Counts of one reading since the previous one.
    workers[0].run();
    let rows = counters.read();
    let faults = |row: &VcpuReading| row.delta.count(CounterRole::LlcMisses).value().copied();
    assert_eq!(faults(&rows[0]), Some(300.0));
    // The other one waited: it did not run, or only until its wait.
    assert!(faults(&rows[1]).is_none_or(|faults| faults == 0.0), "{:?}", rows[1]);
    Ok(())
}

fn come_and_go() -> Result<(), Failed> {
    let mut counted = Counted::start();
    let pid = counted.pid();
    let mut counters = counters(&["llc_misses=page-faults", "cycles=task-clock"]);
    assert!(counters.read().is_empty());
    let vms = [vm("one", pid, &[pid])];
    counters.sync(&vms);
    counted.work();
    let first = reading(&counters.read()[0]);
    // A second sync keeps the group and its totals.
    counters.sync(&vms);
    counted.work();
    let row = counters.read().remove(0);
    assert!(reading(&row).counts.llc_misses > first.counts.llc_misses);
    assert!(*row.delta.count(CounterRole::LlcMisses).value().unwrap() > 0.0);
    let rates = row.delta.rates();
    assert!(rates.mpki.value().is_none() && rates.misses_per_s.value().is_some(), "{rates:?}");

    counted.end();
    let row = counters.read().remove(0);
    assert_eq!(row.reading.reason(), Some(format!("thread {pid} has ended").as_str()));
    assert_eq!(row.delta.count(CounterRole::LlcMisses).reason(), row.reading.reason());
    counters.sync(&vms);
    let row = counters.read().remove(0);
    assert!(row.reading.reason().is_some(), "ended threads are not counted: {row:?}");
    counters.sync(&[]);
    assert!(counters.read().is_empty());
    Ok(())
}

/// The time stamp counter and system management interrupts, which x86 can count on any thread (arch/x86/events/msr.c, Linux
/// 6.18): an event that counts beside one that opens and reads 0.
fn never_counted() -> Result<(), Failed> {
    let smi = "/sys/bus/event_source/devices/msr/events/smi";
    if !Path::new(smi).exists() {
        say(&format!("skipped: no {smi}"));
        return Ok(());
    }
    let mut counters =
        counters(&["instructions=msr/tsc/", "llc_misses=msr/smi/", "llc_references=page-faults"]);
    let mut counted = Counted::start();
    counters.sync(&[vm("counted", counted.pid(), &[counted.pid()])]);
    counters.read();
    counted.work();
    let row = counters.read().remove(0);
    let raw = reading(&row).counts;
    assert!(raw.instructions.is_some_and(|ticks| ticks > 1_000_000), "{raw:?}");
    if raw.llc_misses != Some(0) {
        say(&format!("skipped: this host had system management interrupts: {raw:?}"));
        return Ok(());
    }
    let reason = row.delta.count(CounterRole::LlcMisses).reason().unwrap();
    assert!(reason.contains("msr/smi/ has counted nothing yet, on any vCPU"), "{reason}");
    let rates = row.delta.rates();
    assert_eq!((rates.mpki.reason(), rates.misses_per_s.reason()), (Some(reason), Some(reason)));
    assert!(*row.delta.count(CounterRole::Instructions).value().unwrap() > 0.0);
    let event = |counters: &VcpuCounters, role| {
        counters.events().into_iter().find(|counted| counted.role == role).unwrap().event
    };
    assert_eq!(event(&counters, CounterRole::LlcMisses).reason(), Some(reason));
    assert_eq!(event(&counters, CounterRole::Instructions).value().map(String::as_str), Some("msr/tsc/"));
    // A software event's zeros are real: nothing is faulted while the thread waits.
    counters.read();
    let row = counters.read().remove(0);
    assert!(
        row.delta.count(CounterRole::LlcReferences).value().is_none_or(|faults| *faults == 0.0),
        "{row:?}"
    );
    assert_eq!(event(&counters, CounterRole::LlcReferences).value().map(String::as_str), Some("page-faults"));
    Ok(())
}

/// More vCPUs than there are descriptors: some are counted, the others have the reason, and files can be opened.
fn few_descriptors() -> Result<(), Failed> {
    let workers: Vec<Worker> = (0..150).map(|_| Worker::new(|| ())).collect();
    let workers: Vec<&Worker> = workers.iter().collect();
    let vms = [own_vm("large", &workers)];
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // Two for each vCPU are too many.
    let limit = used + descriptors::RESERVE + 200;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    let mut counters = counters(&["llc_misses=page-faults", "cycles=task-clock"]);
    counters.sync(&vms);
    let rows = counters.read();
    let files: Vec<_> = (0..descriptors::RESERVE - 4).map(|_| File::open("/dev/null")).collect();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(files.iter().all(Result::is_ok), "the reserve is taken");
    let (counted, refused): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.reading.value().is_some());
    assert!(counted.len() > 50 && !refused.is_empty(), "{} and {}", counted.len(), refused.len());
    let reason = format!("the limit of {limit} open files is reached");
    assert!(refused.iter().all(|row| row.reading.reason().unwrap().contains(&reason)), "{:?}", refused[0]);
    Ok(())
}

/// The counted process: for each command it faults some pages and computes for a while.
fn work() {
    let (mut orders, mut answers) = (std::io::stdin(), std::io::stdout());
    let mut byte = [0];
    while orders.read(&mut byte).unwrap() == 1 {
        let memory = MergeableMemory::untouched(2_000);
        for page in 0..2_000 {
            memory.touch(page);
        }
        let mut state = 1_u64;
        for _ in 0..150_000_000_u64 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        answers.write_all(&byte).unwrap();
        answers.flush().unwrap();
    }
}

/// A single-threaded process that waits, works on command, and waits again: counters started and stopped
/// while it waits cover the same interval.
struct Counted {
    child: Child,
    order: Option<ChildStdin>,
    answer: ChildStdout,
}

impl Counted {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(WORK, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (order, answer) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut counted = Self { child, order, answer };
        // A warm-up, so that it has started and its code is in memory.
        counted.work();
        counted
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn work(&mut self) {
        self.order.as_mut().unwrap().write_all(&[0]).unwrap();
        self.answer.read_exact(&mut [0]).unwrap();
        // The answer is written before it waits again.
        while task::process(&HostRoot::real(), self.pid()).unwrap().state != 'S' {
            std::thread::yield_now();
        }
    }

    fn end(&mut self) {
        drop(self.order.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end();
    }
}

/// `perf stat -p` that counts from [`PerfStat::start`] to [`PerfStat::finish`].
struct PerfStat {
    child: Child,
    dir: tempfile::TempDir,
    control: File,
    acknowledged: BufReader<File>,
}

impl PerfStat {
    /// Starts to count; `None`, with a message, where perf(1) is missing or cannot be controlled.
    fn start(pid: i32, events: &str) -> Option<Self> {
        let works = Command::new("perf").args(["stat", "-e", "task-clock", "true"]).output();
        match works {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                say(&format!(
                    "skipped: perf does not work: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
                return None;
            }
            Err(error) => {
                say(&format!("skipped: perf(1) is not installed ({error})"));
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let (control, acknowledge) = (dir.path().join("control"), dir.path().join("ack"));
        for path in [&control, &acknowledge] {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let fifo = format!("fifo:{},{}", control.display(), acknowledge.display());
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-D", "-1", "-e", events, "-p", &pid.to_string(), "--control", &fifo])
            .arg("-o")
            .arg(dir.path().join("out"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Read and write, so that opening does not block.
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
        let (control, acknowledged) = (open(&control), BufReader::new(open(&acknowledge)));
        let mut perf = Self { child, dir, control, acknowledged };
        perf.send("enable");
        Some(perf)
    }

    fn send(&mut self, command: &str) {
        self.control.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.acknowledged.read_line(&mut line).unwrap();
        // perf 6.1 ends each answer with a zero byte after the newline.
        assert_eq!(line.trim_matches('\0').trim_end(), "ack");
    }

    /// Stops counting; the count of each event by perf's name.
    fn finish(mut self) -> Vec<(String, f64)> {
        self.send("disable");
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let text = std::fs::read_to_string(self.dir.path().join("out")).unwrap();
        let rows = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            Some((fields.get(2)?.to_string(), fields[0].parse().ok()?))
        });
        rows.collect()
    }
}

impl Drop for PerfStat {
    fn drop(&mut self) {
        // Ended already unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The counts of one interval by huddle and by perf(1).
fn both(counters: &mut VcpuCounters, events: &str) -> Option<(VcpuReading, Vec<(String, f64)>)> {
    let mut counted = Counted::start();
    counters.sync(&[vm("counted", counted.pid(), &[counted.pid()])]);
    let perf = PerfStat::start(counted.pid(), events)?;
    counters.read();
    counted.work();
    let row = counters.read().remove(0);
    Some((row, perf.finish()))
}

fn software_against_perf() -> Result<(), Failed> {
    let mut counters = counters(&["llc_misses=page-faults", "cycles=task-clock"]);
    let Some((row, perf)) = both(&mut counters, "page-faults,task-clock") else { return Ok(()) };
    let of = |name: &str| {
        let row = perf.iter().find(|(event, _)| event.starts_with(name));
        row.unwrap_or_else(|| panic!("{name} is not in {perf:?}")).1
    };
    let faults = *row.delta.count(CounterRole::LlcMisses).value().unwrap();
    // perf prints milliseconds.
    let (clock_ns, perf_clock_ns) =
        (*row.delta.count(CounterRole::Cycles).value().unwrap(), of("task-clock") * 1e6);
    let ratio = clock_ns / perf_clock_ns;
    say(&format!("page faults: {faults}, by perf {}; task-clock over perf's: {ratio:.5}", of("page-faults")));
    assert_eq!(faults, of("page-faults"));
    assert!(faults >= 2_000.0);
    assert!((ratio - 1.0).abs() < 0.02, "{clock_ns} ns against {perf_clock_ns} ns by perf");
    Ok(())
}

/// That a PMU's counts are right is tested where they are known: in an emulated host (`collector/tests/boot_linux`,
/// `the_counters_are_what_is_known` and `rates_of_stand_ins_are_exact_and_shown`).
fn hardware_counts_or_a_reason() -> Result<(), Failed> {
    let set = EventSet::only([
        (CounterRole::Instructions, EventSpec::named("instructions").unwrap()),
        (CounterRole::Cycles, EventSpec::named("cycles").unwrap()),
    ]);
    let mut counters = VcpuCounters::new(HostRoot::real(), set);
    let has_pmu = counters.events().iter().any(|counted| counted.event.value().is_some());
    let mut counted = Counted::start();
    counters.sync(&[vm("counted", counted.pid(), &[counted.pid()])]);
    counters.read();
    counted.work();
    let row = counters.read().remove(0);
    if has_pmu {
        let instructions = row.delta.count(CounterRole::Instructions).value();
        assert!(instructions.is_some_and(|count| *count > 150e6), "{row:?}");
    } else {
        assert!(row.reading.reason().is_some(), "no PMU, no numbers: {row:?}");
    }
    Ok(())
}
