//! What a window of a host with many VMs costs the engine and one attached viewer while sharing does not change:
//! bytes allocated, and bytes on the socket, compared with what it cost when the loop sent complete snapshots
//! (`huddle/attach/1`, reduced here to a deep copy of everything and its JSON).
//!
//! `cargo bench --profile dev -p huddle-engine --bench updates [-- --vms N]`; ends with status 1 where a
//! part is more than a twentieth of what it was.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use huddle_engine::attach::{Hello, PROTOCOL, Server, Sources};
use huddle_engine::publish::Publisher;
use huddle_engine::{Engine, Memory};
use huddle_host::discover::Discovery;
use huddle_host::stages::{Clock, HostSource, Observer, SharingSource, StageError, VmSource};
use huddle_model::availability::Availability;
use huddle_model::counters::{CounterRole, Counts, GroupReading};
use huddle_model::event::Event;
use huddle_model::ksm::KsmState;
use huddle_model::matrix::{MatrixParts, MatrixVm, MemoryUse, Method, SharingMatrix, Weigh};
use huddle_model::observation::{
    CountedEvent, CpuResidency, LossObservation, MergeObservation, Observation, VcpuObservation,
};
use huddle_model::pinning::Pinning;
use huddle_model::plan::{Plan, PlanLimits, Policy};
use huddle_model::rates::CounterDelta;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::update::{Step, Update};
use huddle_model::view::View;
use huddle_model::vm::{TaskId, Vcpu, Vm, VmmKind};
use huddle_sharing::Measurement;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is the system's allocator's; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps to what `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to what `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps to what `System` asks for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated while it runs, on any thread.
fn allocated<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let done = work();
    (done, ALLOCATED.load(Ordering::Relaxed) - before)
}

const WINDOWS: u64 = 5;
/// Parts of what it was that a window may cost at most.
const LIMIT: f64 = 1.0 / 20.0;
const DOMAINS: u32 = 64;
const CPUS_EACH: u32 = 16;

fn vm(at: usize) -> Vm {
    let process = TaskId { id: 1000 + at as i32, start_ticks: 5 };
    Vm {
        name: format!("tenant-{at:04}"),
        id: process.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::QemuKvm,
        vcpus: vec![Vcpu {
            index: 0,
            id: TaskId { id: 100_000 + at as i32, start_ticks: 6 }.into(),
            process: Some(process),
            thread_name: Some("CPU 0/KVM".into()),
            affinity: (0..DOMAINS * CPUS_EACH).collect(),
            last_cpu: Some(at as u32 % (DOMAINS * CPUS_EACH)),
            limits: Default::default(),
        }],
        memory: Vec::new(),
        allowed_cpus: (0..DOMAINS * CPUS_EACH).collect(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

struct Vms(usize);

impl VmSource for Vms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        Ok(Discovery { vms: (0..self.0).map(vm).collect(), ..Discovery::default() })
    }
}

/// Most pairs share some hundreds of frames of a few ten thousand.
struct Sharing;

impl SharingSource for Sharing {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        let used = |at: usize| 20_000 + 1_501 * (at as u64 % 7);
        let memory = |at| Some(MemoryUse { frames_used: used(at), ..MemoryUse::default() });
        let rows = vms.iter().enumerate().map(|(at, vm)| MatrixVm::of(vm, memory(at)));
        let shared = |i: usize, j: usize| {
            if i == j { 0 } else { 100 + ((i.min(j) * 31 + i.max(j) * 17) % 900) as u64 }
        };
        let frames: Vec<Vec<u64>> =
            (0..vms.len()).map(|i| (0..vms.len()).map(|j| shared(i, j)).collect()).collect();
        Ok(Measurement::of(SharingMatrix::measured(Method::Merged, rows.collect(), &frames, 12.0, 1.0)))
    }
}

struct Host;

impl HostSource for Host {
    fn topology(&mut self) -> Result<Topology, StageError> {
        let domain = |id: u32| CacheDomain {
            id: DomainId(id),
            cpus: (id * CPUS_EACH..(id + 1) * CPUS_EACH).collect(),
            size_bytes: Some(32 << 20),
            nodes: [id / 16].into(),
        };
        Ok(Topology::new(Some(3), (0..DOMAINS).map(domain).collect())?)
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        Ok(KsmState { run: 1, ..KsmState::default() })
    }

    fn node_pages(&mut self, _process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Ok(BTreeMap::new())
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        Ok(1.0)
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        Ok(1)
    }
}

/// A window of counters, residency and merging of every VM, made up beforehand: what it costs to read it is
/// another question.
struct Observed(Vec<Observation>);

impl Observer for Observed {
    fn observe(&mut self, _vms: &[Vm], _topology: Option<&Topology>) -> Availability<Observation> {
        self.0.pop().map_or_else(|| Availability::Unavailable("no more".into()), Availability::Available)
    }
}

fn observation(window: u64, vms: usize) -> Observation {
    let reading = |at_ns: u64, counts: Counts| GroupReading {
        begin_ns: at_ns,
        end_ns: at_ns + 1_000,
        time_enabled_ns: at_ns,
        time_running_ns: at_ns,
        counts,
    };
    let counts = |n: u64| Counts {
        cycles: Some(3 * n),
        instructions: Some(2 * n),
        llc_references: Some(n / 50),
        llc_misses: Some(n / 200),
    };
    let vcpu = |at: usize| VcpuObservation {
        vm: format!("tenant-{at:04}"),
        vcpu: 0,
        id: TaskId { id: 100_000 + at as i32, start_ticks: 6 }.into(),
        process: Some(TaskId { id: 1000 + at as i32, start_ticks: 5 }),
        counters: CounterDelta::between(
            &reading(1, counts(0)),
            &reading(1_000_000_001, counts(700_000_000 + at as u64 * 1_003 + window)),
        ),
        residency: Availability::Available(vec![CpuResidency {
            cpu: at as u32 % 64,
            run_ns: Some(700_000_000 + at as u64),
            switches: Some(200),
            clock_samples: Some(70),
            miss_samples: None,
        }]),
        run_ns_anywhere: None,
        migrations: Availability::Available(3),
        domain_migrations: Availability::Available(0),
        guest_entries: Availability::Available(5_000),
        guest_ns: Availability::Available(650_000_000),
        exits: Availability::Available(BTreeMap::from([(1, 300), (12, 1_200), (30, 90), (48, 40)])),
    };
    let merging = |at: usize| MergeObservation {
        vm: format!("tenant-{at:04}"),
        id: TaskId { id: 1000 + at as i32, start_ticks: 5 }.into(),
        merged_now: Availability::Available(20_000),
        merges: Availability::Available(40),
        breaks: Availability::Available(7),
        failed: Availability::Available(0),
    };
    Observation {
        window,
        round: 1,
        trial: None,
        vms: (0..vms).map(|at| vm(at).reference()).collect(),
        begin_unix_us: window * 1_000_000,
        end_unix_us: (window + 1) * 1_000_000,
        vcpus: (0..vms).map(vcpu).collect(),
        merging: (0..vms).map(merging).collect(),
        occupancy: Availability::Unavailable("this processor has no resctrl monitoring".into()),
        reported: Vec::new(),
        events: CounterRole::ALL
            .into_iter()
            .map(|role| CountedEvent { role, event: Availability::Available(role.name().into()) })
            .collect(),
        programs: Vec::new(),
        losses: Availability::Available(LossObservation::default()),
        own_cpu_us: Availability::Available(4_000),
        reading_cpu_us: Availability::Available(2_500),
    }
}

struct Now;

impl Clock for Now {
    fn now_unix_us(&self) -> u64 {
        1_700_000_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn engine(vms: usize) -> Engine {
    let windows = (0..=WINDOWS + 1).rev().map(|window| observation(window, vms)).collect();
    Engine {
        vms: Box::new(Vms(vms)),
        sharing: Box::new(Sharing),
        merger: None,
        host: Box::new(Host),
        observer: Some(Box::new(Observed(windows))),
        pinner: None,
        apply: false,
        clock: Box::new(Now),
        // What placing costs is another question.
        policy: Policy::None,
        weigh: Weigh::All,
        limits: PlanLimits::default(),
        trials: None,
        memory: Memory::default(),
    }
}

/// What the loop published before: everything, in each window.
#[derive(Clone, Serialize)]
struct Snapshot {
    round: u64,
    begin_unix_us: u64,
    end_unix_us: u64,
    ksm: Availability<KsmState>,
    topology: Availability<Topology>,
    vms: Vec<Vm>,
    matrix: Availability<OwnMatrix>,
    plan: Availability<Plan>,
    pinned: Pinning,
    observation: Availability<Observation>,
    events: Vec<Event>,
    own_cpu_us: Availability<u64>,
}

/// A matrix whose copies share nothing.
#[derive(Serialize)]
#[serde(transparent)]
struct OwnMatrix(SharingMatrix);

impl Clone for OwnMatrix {
    fn clone(&self) -> Self {
        let matrix = &self.0;
        let row = |i: usize| (0..matrix.len()).map(move |j| (i, j));
        let frames = |i| row(i).map(|(i, j)| matrix.shared_frames(i, j).unwrap_or(0)).collect();
        let parts = MatrixParts {
            method: matrix.method(),
            vms: matrix.vms().to_vec(),
            shared_frames: Some((0..matrix.len()).map(frames).collect()),
            shared_file_frames: None,
            reads: None,
            groups: None,
            rate: (0..matrix.len()).map(|i| row(i).map(|(i, j)| matrix.rate(i, j)).collect()).collect(),
            duration_ms: matrix.duration_ms(),
            coverage: matrix.coverage(),
            page_size: matrix.page_size(),
            frame_reading: matrix.frame_reading().cloned(),
        };
        Self(SharingMatrix::from_parts(parts).unwrap())
    }
}

impl Snapshot {
    fn of(view: &View) -> Self {
        let round = &view.round;
        Self {
            round: round.number,
            begin_unix_us: round.begin_unix_us,
            end_unix_us: round.end_unix_us,
            ksm: round.ksm.clone(),
            topology: round.topology.clone().map(|topology| Topology::clone(&topology)),
            vms: round.vms.to_vec(),
            matrix: round.matrix.clone().map(|matrix| OwnMatrix(SharingMatrix::clone(&matrix))),
            plan: round.plan.clone().map(|plan| Plan::clone(&plan)),
            pinned: view.pinning.clone(),
            observation: view.observation.clone().map(|seen| Observation::clone(&seen)),
            events: view.events.to_vec(),
            own_cpu_us: round.own_cpu_us.clone(),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--vms");
    let vms: usize = at.map_or(2000, |at| arguments[at + 1].parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(vms);
    let first = engine.round();
    let mut view = None;
    View::follow(&mut view, &first[..]);
    let view = view.unwrap();

    // Before: each window copies the results of the round, and a viewer gets all of them.
    let last = Snapshot::of(&view);
    let (line, before_bytes) = allocated(|| {
        let snapshot = Arc::new(Snapshot { own_cpu_us: Availability::Available(2), ..last.clone() });
        let mut line = serde_json::to_vec(&BTreeMap::from([("snapshot", &*snapshot)])).unwrap();
        line.push(b'\n');
        let line: Arc<[u8]> = line.into();
        line
    });
    let before_line = line.len() as u64;
    drop((line, last));

    // Now: the engine's own steps, published, and sent by the real server over a real socket.
    let cost = serve_windows(engine, &first, &dir.path().join("attach.sock"));
    let (bytes, line) = (cost.allocated / WINDOWS, cost.sent / WINDOWS);
    println!("a window of {vms} VMs in which no sharing changes, with one viewer attached:");
    let mut is_within = true;
    for (what, before, now) in [("allocated", before_bytes, bytes), ("on the socket", before_line, line)] {
        let part = now as f64 / before as f64;
        is_within &= part <= LIMIT;
        println!(
            "{what}: {:.2} MB, was {:.1} MB with complete snapshots: 1/{:.1}, {} 1/{:.0}",
            now as f64 / 1e6,
            before as f64 / 1e6,
            1.0 / part,
            if part <= LIMIT { "within" } else { "ABOVE" },
            1.0 / LIMIT,
        );
    }
    if is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Cost {
    allocated: u64,
    sent: u64,
}

/// Runs windows of the engine until a viewer has read all of them. What the viewer itself allocates is not
/// counted: it reads into one buffer that is allocated before.
fn serve_windows(mut engine: Engine, first: &Step, socket: &std::path::Path) -> Cost {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let publisher = Publisher::new(64);
        publisher.publish(first, Arc::clone(first));
        let hello =
            Hello { protocol: PROTOCOL.into(), version: "of a benchmark".into(), pid: 1, can_pin: false };
        let (_recording, recorded) = watch::channel(None);
        let sources = Sources { steps: publisher.subscribe(), recording: recorded };
        let (commands, _requests) = mpsc::channel(1);
        let serving = tokio::spawn(Server::bind(socket).unwrap().serve(hello, sources, commands));
        let (lines, mut read) = mpsc::channel(16);
        let path = socket.to_owned();
        let viewer = std::thread::spawn(move || {
            let stream = UnixStream::connect(path).unwrap();
            writeln!(&stream, r#"{{"hello":{{"protocol":"{PROTOCOL}","version":"of a benchmark"}}}}"#)
                .unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = Vec::with_capacity(512 << 20);
            while stream.read_until(b'\n', &mut line).unwrap() > 0 {
                let is_update = line.starts_with(br#"{"updates""#);
                let is_view = line.starts_with(br#"{"view""#);
                if is_update || is_view {
                    lines.blocking_send((is_update, line.len() as u64)).unwrap();
                }
                line.clear();
            }
        });
        assert!(matches!(read.recv().await, Some((false, _))), "one complete view comes first");
        let before = ALLOCATED.load(Ordering::Relaxed);
        let mut sent = 0;
        for _ in 0..WINDOWS {
            let step = engine.observe().unwrap();
            assert!(matches!(&step[..], [Update::Window(Availability::Available(_))]));
            publisher.publish(&step, Arc::clone(&step));
            let (is_update, bytes) = read.recv().await.unwrap();
            assert!(is_update);
            sent += bytes;
        }
        let allocated = ALLOCATED.load(Ordering::Relaxed) - before;
        drop(publisher);
        serving.await.unwrap();
        viewer.join().unwrap();
        Cost { allocated, sent }
    })
}
