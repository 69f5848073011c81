//! The whole loop on fakes.

mod bindings;
mod passes;
mod reads;
mod replacements;
mod stops;
mod trials;
mod unmerged;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use huddle_model::command::LoopCommand;
use huddle_model::ksm::KsmState;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix, Weigh};
use huddle_model::pinning::PinOutcome;
use huddle_model::plan::PlanVm;
use huddle_model::text::is_plain;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::vm::{Owner, TaskId, Vcpu, VmmKind};
use tokio::sync::{mpsc, oneshot};

use self::passes::{Broken, Idle, Often};
use super::command::Request;
use super::publish::{Delivery, Publisher, Subscriber};
use super::*;
use huddle_host::discover::Discovery;
use huddle_host::pin::PinReport;
use huddle_host::stages::StageError;
use huddle_sharing::{Measurement, Unmeasured};

fn vm(name: &str, pid: i32) -> Vm {
    let task = TaskId { id: pid, start_ticks: 1 };
    Vm {
        name: name.into(),
        id: task.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::Process,
        vcpus: vec![Vcpu {
            index: 0,
            id: task.into(),
            process: Some(task),
            thread_name: Some("CPU 0/KVM".into()),
            affinity: "0-1".parse().unwrap(),
            last_cpu: None,
            limits: Default::default(),
        }],
        memory: Vec::new(),
        allowed_cpus: "0-1".parse().unwrap(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

/// Returns these VMs in turn, the last one repeatedly.
struct FakeVms(VecDeque<Result<Vec<Vm>, &'static str>>);

impl VmSource for FakeVms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        let now = if self.0.len() > 1 { self.0.pop_front().unwrap() } else { self.0[0].clone() };
        Ok(Discovery { vms: now?, ..Discovery::default() })
    }
}

/// Every VM shares 10 frames with the next; `ends` ends during the scan, and `hidden` may not be read.
#[derive(Default)]
struct FakeSharing {
    ends: Option<&'static str>,
    hidden: Option<&'static str>,
}

impl SharingSource for FakeSharing {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        let is_gone = |vm: &Vm| Some(vm.name.as_str()) == self.ends;
        let is_unmeasured = |vm: &Vm| is_gone(vm) || Some(vm.name.as_str()) == self.hidden;
        let left: Vec<&Vm> = vms.iter().filter(|vm| !is_unmeasured(vm)).collect();
        let rows = left
            .iter()
            .map(|vm| MatrixVm::of(vm, Some(MemoryUse { frames_used: 100, ..MemoryUse::default() })));
        let frames = vec![vec![10; left.len()]; left.len()];
        let unmeasured = vms.iter().filter(|vm| is_unmeasured(vm)).map(|vm| Unmeasured {
            vm: vm.name.clone(),
            is_gone: is_gone(vm),
            reason: if is_gone(vm) { "ended" } else { "may not be read" }.into(),
        });
        Ok(Measurement {
            unmeasured: unmeasured.collect(),
            ..Measurement::of(SharingMatrix::measured(Method::Merged, rows.collect(), &frames, 0.0, 1.0))
        })
    }
}

struct FakeHost;

impl HostSource for FakeHost {
    fn topology(&mut self) -> Result<Topology, StageError> {
        let domain = |id: u32| CacheDomain {
            id: DomainId(id),
            cpus: [id].into_iter().collect(),
            size_bytes: None,
            nodes: Default::default(),
        };
        Ok(Topology::new(Some(2), vec![domain(0), domain(1)])?)
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        Err("no KSM here".into())
    }

    fn node_pages(&mut self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Err(format!("the NUMA nodes of process {} are unknown", process.id).into())
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        Ok(1.0)
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        Ok(7)
    }
}

/// Logs the calls.
#[derive(Clone, Default)]
struct FakePinner(Arc<Mutex<Vec<String>>>);

impl Pinner for FakePinner {
    fn apply(&mut self, vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError> {
        self.0.lock().unwrap().push(format!("apply {} of {}", plan.placement.len(), vms.len()));
        Ok(PinReport {
            outcome: PinOutcome { changed: 1, unchanged: 0, skipped: 0 },
            in_force: Assignment::of(plan),
            notes: Vec::new(),
        })
    }

    fn undo(&mut self) -> UndoReport {
        self.0.lock().unwrap().push("undo".into());
        UndoReport { restored: 1, notes: Vec::new(), failures: Vec::new() }
    }

    fn resume(&mut self) -> Vec<String> {
        self.0.lock().unwrap().push("resume".into());
        Vec::new()
    }
}

impl PageMerger for FakePinner {
    fn merge(&mut self, _: &Stop) -> Result<Vec<String>, StageError> {
        self.0.lock().unwrap().push("merge".into());
        Ok(Vec::new())
    }

    fn undo(&mut self) -> UndoReport {
        self.0.lock().unwrap().push("unmerge".into());
        UndoReport { restored: 2, ..UndoReport::default() }
    }
}

struct FakeClock;

impl Clock for FakeClock {
    fn now_unix_us(&self) -> u64 {
        1_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn engine(vms: Vec<Result<Vec<Vm>, &'static str>>, pinner: &FakePinner) -> Engine {
    Engine {
        vms: Box::new(FakeVms(vms.into())),
        sharing: Box::new(FakeSharing::default()),
        merger: None,
        host: Box::new(FakeHost),
        observer: None,
        pinner: Some(Box::new(pinner.clone())),
        apply: true,
        clock: Box::new(FakeClock),
        policy: Policy::Paper,
        weigh: Weigh::All,
        limits: PlanLimits::default(),
        trials: None,
        memory: Memory::default(),
    }
}

fn no_commands() -> mpsc::Receiver<Request> {
    mpsc::channel(1).1
}

/// The view after a round.
fn round(engine: &mut Engine) -> View {
    engine.round();
    engine.memory.view.clone().unwrap()
}

/// The view after a command, and its answer.
fn command(engine: &mut Engine, command: &LoopCommand) -> Result<(View, String), String> {
    let (_, answer) = engine.command(command)?;
    Ok((engine.memory.view.clone().unwrap(), answer?))
}

/// Waits for such a view.
async fn seen(mut subscriber: Subscriber<Step>, is_such: impl Fn(&View) -> bool) {
    let mut view = None;
    while !view.as_ref().is_some_and(&is_such) {
        match subscriber.next().await.unwrap() {
            Delivery::View { view: complete, .. } => view = Some(*complete),
            Delivery::Next(step) => View::follow(&mut view, &step[..]),
        }
    }
}

/// Numbers its windows and writes into the pinner's log when they end.
struct FakeObserver {
    log: FakePinner,
    windows: u64,
}

impl Observer for FakeObserver {
    fn observe(&mut self, vms: &[Vm], _topology: Option<&Topology>) -> Availability<Observation> {
        self.log.0.lock().unwrap().push(format!("observe {}", vms.len()));
        self.windows += 1;
        if self.windows == 1 {
            return Availability::Unavailable("the first".into());
        }
        Availability::Available(Observation {
            window: self.windows - 1,
            round: 0,
            trial: None,
            vms: Vec::new(),
            begin_unix_us: 0,
            end_unix_us: 1,
            vcpus: Vec::new(),
            merging: Vec::new(),
            occupancy: Availability::Unavailable("none".into()),
            reported: Vec::new(),
            events: Vec::new(),
            programs: Vec::new(),
            losses: Availability::Unavailable("none".into()),
            own_cpu_us: Availability::Available(1),
            reading_cpu_us: Availability::Available(1),
        })
    }
}

fn watched(pinner: &FakePinner, vms: Vec<Vm>) -> Engine {
    let observer = FakeObserver { log: pinner.clone(), windows: 0 };
    Engine { observer: Some(Box::new(observer)), ..engine(vec![Ok(vms)], pinner) }
}

#[test]
fn plans_know_what_the_last_window_saw() {
    let view = huddle_testing::sample_observed::observed(3, 2);
    let (topology, seen) = (view.round.topology.value().unwrap(), view.observation.value().unwrap());
    let place = |vm: &Vm| PlanVm::of(vm, topology).observed(vm, seen);
    let first = place(&view.round.vms[0]);
    let run_ns: u64 = seen.vcpus.iter().filter(|vcpu| vcpu.vm == "vm0").flat_map(run_ns).sum();
    assert!(run_ns > 0);
    assert!(
        (first.cpus_busy.unwrap() - run_ns as f64 / 1e9).abs() < 1e-9,
        "windows last a second: {first:?}"
    );
    assert_eq!(first.working_set_bytes, Some(4 << 20));
    // This one was not observed.
    let other = place(&vm("other", 99));
    assert_eq!((other.cpus_busy, other.working_set_bytes), (None, None));

    let limits = PlanLimits { load_per_cpu: Some(0.5), local_memory: Some(0.5), ..PlanLimits::default() };
    let pinner = FakePinner::default();
    let mut engine = Engine { limits, ..watched(&pinner, vec![vm("a", 1), vm("b", 2)]) };
    let first = round(&mut engine);
    let reasons = &first.round.plan.value().unwrap().reasons;
    assert!(reasons.iter().any(|reason| reason.contains("a: its CPU load is unknown")), "{reasons:?}");
}

fn run_ns(vcpu: &huddle_model::observation::VcpuObservation) -> Vec<u64> {
    vcpu.residency.value().unwrap().iter().map(|on| on.run_ns.unwrap()).collect()
}

#[test]
fn a_window_ends_before_the_placement_changes_and_belongs_to_the_old_one() {
    let pinner = FakePinner::default();
    let mut engine = watched(&pinner, vec![vm("a", 1), vm("b", 2)]);
    assert!(engine.observe().is_none(), "before the first round there is nothing to watch");
    assert_eq!(round(&mut engine).observation.reason(), Some("the first"));
    let between = engine.observe().unwrap();
    let [Update::Window(Availability::Available(seen))] = &between[..] else { panic!("{between:?}") };
    assert_eq!((seen.round, seen.window), (1, 1), "the window and nothing else");
    let second = engine.round();
    let [Update::Window(Availability::Available(seen)), Update::Round(round)] = &second[..] else {
        panic!("{second:?}")
    };
    assert_eq!((round.number, seen.round, seen.window), (2, 1, 2));
    let log = ["observe 2", "apply 2 of 2", "observe 2", "observe 2", "apply 2 of 2"];
    assert_eq!(*pinner.0.lock().unwrap(), log);
}

#[tokio::test]
async fn windows_are_published_between_rounds_and_after_the_trigger_broke() {
    let pinner = FakePinner::default();
    let engine = watched(&pinner, vec![vm("a", 1)]);
    let publisher = Publisher::new(100);
    let seen_windows = Mutex::new(Vec::new());
    let publish = |step: &Step| {
        publisher.publish(step, Arc::clone(step));
        let view = publisher.view().unwrap();
        seen_windows
            .lock()
            .unwrap()
            .push((view.round.number, view.observation.value().map(|seen| seen.window)));
    };
    let stop =
        seen(publisher.subscribe(), |view| view.observation.value().is_some_and(|seen| seen.window >= 3));
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::ZERO,
        rounds: None,
        window: Duration::from_millis(20),
    };
    let end = run(engine, Box::new(Broken), stop, publish, no_commands(), options).await.unwrap();
    assert_eq!(end.rounds, 1);
    // The second is the event that passes are no longer reported.
    let last = vec![(1, None), (1, None), (1, Some(1)), (1, Some(2)), (1, Some(3)), (1, Some(4))];
    assert_eq!(*seen_windows.lock().unwrap(), last, "the window that the stop cut short is published too");
}

fn kinds(view: &View) -> Vec<(EventKind, Option<&str>)> {
    view.events.iter().map(|event| (event.kind, event.vm.as_ref().map(|vm| vm.name.as_str()))).collect()
}

#[test]
fn a_round_goes_through_all_stages() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)]), Ok(vec![vm("b", 2)])], &pinner);
    let view = round(&mut engine);
    assert_eq!(
        view.round.plan.value().unwrap().shared_within,
        Some(0),
        "one vCPU per CPU: the pair is separated"
    );
    assert_eq!(*pinner.0.lock().unwrap(), ["apply 2 of 2"]);
    assert_eq!(
        kinds(&view),
        [(EventKind::VmAppeared, Some("a")), (EventKind::VmAppeared, Some("b")), (EventKind::Pinned, None)]
    );
    assert_eq!(view.round.ksm.reason(), Some("no KSM here"));
    assert!(kinds(&round(&mut engine)).contains(&(EventKind::VmVanished, Some("a"))));
}

#[test]
fn a_limit_stays_with_its_vm_and_its_loss_is_reported() {
    let whose = |name, pid, uid| Vm { owner: Some(Owner { uid, name: None }), ..vm(name, pid) };
    let (web, db) = (whose("web", 10, 64055), whose("db", 20, 64055));
    let rounds = vec![
        Ok(vec![web.clone(), db.clone()]),
        // A VM of another owner with the same name, listed first.
        Ok(vec![whose("web-5", 5, 1000), web, db.clone()]),
        // Only the other one is left with the name.
        Ok(vec![whose("web", 5, 1000), db.clone()]),
        Ok(vec![whose("web", 5, 1000), db]),
    ];
    let mut engine = engine(rounds, &FakePinner::default());
    engine.limits.apart = vec![vec!["web".into(), "db".into()]];
    let lost = |view: &View| {
        let events = view.round.events.iter().filter(|event| event.kind == EventKind::LimitLost);
        events.map(|event| event.message.clone()).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let view = round(&mut engine);
        assert_eq!(lost(&view), [""; 0]);
        let plan = view.round.plan.value().unwrap();
        let domain = |name| plan.domain_of(name, 0).unwrap().id;
        assert_ne!(domain("web"), domain("db"), "{plan:?}");
    }
    let reported = lost(&round(&mut engine));
    assert!(reported.len() == 1 && reported[0].contains("belongs to somebody else"), "{reported:?}");
    assert_eq!(lost(&round(&mut engine)), [""; 0], "once");
}

#[test]
fn event_messages_are_one_plain_line() {
    let mut engine = engine(vec![Ok(vec![vm("a\nb\u{202e}", 1)])], &FakePinner::default());
    let events = round(&mut engine).round.events.clone();
    assert!(
        !events.is_empty() && events.iter().all(|event| event.message.chars().all(is_plain)),
        "{events:?}"
    );
}

#[test]
fn a_vm_that_ends_during_the_scan_is_reported_once_and_not_pinned() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
    engine.sharing = Box::new(FakeSharing { ends: Some("a"), ..FakeSharing::default() });
    let view = round(&mut engine);
    assert_eq!(view.round.vms.len(), 1);
    assert_eq!(kinds(&view)[0], (EventKind::VmVanished, Some("a")));
    assert_eq!(*pinner.0.lock().unwrap(), ["apply 1 of 1"]);
}

#[test]
fn a_stage_that_fails_makes_its_part_unavailable_and_the_loop_goes_on() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Err("proc is not mounted"), Ok(vec![vm("a", 1)]), Ok(Vec::new())], &pinner);
    let failed = round(&mut engine);
    assert!(failed.round.matrix.reason().unwrap().contains("proc is not mounted"));
    assert!(failed.round.plan.reason().unwrap().contains("proc is not mounted"));
    assert!(kinds(&failed).contains(&(EventKind::StageFailed, None)));
    assert!(pinner.0.lock().unwrap().is_empty(), "nothing is pinned without a plan");
    assert!(round(&mut engine).round.plan.value().is_some());
    assert_eq!(round(&mut engine).round.matrix.reason(), Some("no VM runs on this host"));
}

#[test]
fn a_dry_run_pins_nothing_and_is_no_failure() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    engine.apply = false;
    let view = round(&mut engine);
    assert_eq!(view.pinning, Pinning::DryRun);
    assert!(!kinds(&view).contains(&(EventKind::StageFailed, None)));
    assert!(pinner.0.lock().unwrap().is_empty());
}

/// Cannot pin, as with a journal on a full disk.
struct Full;

impl Pinner for Full {
    fn apply(&mut self, _: &[Vm], _: &Plan) -> Result<PinReport, StageError> {
        Err("cannot write the journal: No space left on device".into())
    }

    fn undo(&mut self) -> UndoReport {
        UndoReport { failures: vec!["cannot put back vCPU 0".into()], ..UndoReport::default() }
    }
}

#[test]
fn a_command_that_fails_is_answered_as_an_error() {
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &FakePinner::default());
    engine.pinner = Some(Box::new(Full));
    assert!(round(&mut engine).pinning.failure().unwrap().contains("No space left"));
    for command in [LoopCommand::Apply, LoopCommand::SetPolicy(Policy::Sharing)] {
        let (step, answer) = engine.command(&command).unwrap();
        let why = answer.unwrap_err();
        assert!(why.contains("pinning failed") && why.contains("No space left"), "{why}");
        let [.., Update::Round(round)] = &step[..] else { panic!("{step:?}") };
        let events: Vec<_> = round.events.iter().map(|event| (event.kind, event.message.as_str())).collect();
        assert!(
            events.iter().any(|(kind, text)| *kind == EventKind::StageFailed && text.contains("No space"))
        );
    }
    let (_, answer) = engine.command(&LoopCommand::Restore).unwrap();
    assert!(answer.unwrap_err().contains("NOT EVERYTHING WAS UNDONE: cannot put back vCPU 0"));
}

#[test]
fn commands_are_rounds_of_their_own() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
    assert!(engine.command(&LoopCommand::Apply).is_err(), "before the first round");
    let first = round(&mut engine);
    let (view, answer) = command(&mut engine, &LoopCommand::SetPolicy(Policy::None)).unwrap();
    assert!(answer.contains("none") && view.round.number == 2, "{answer}");
    assert_eq!(view.round.plan.value().unwrap().policy, Policy::None);
    let matrix = |view: &View| view.round.matrix.value().map(Arc::clone).unwrap();
    assert!(Arc::ptr_eq(&matrix(&view), &matrix(&first)), "nothing was measured");
    let (view, _) = command(&mut engine, &LoopCommand::Restore).unwrap();
    assert_eq!(view.pinning, Pinning::DryRun);
    assert_eq!(round(&mut engine).pinning, Pinning::DryRun, "and it stays so");
    let (view, _) = command(&mut engine, &LoopCommand::Apply).unwrap();
    assert!(view.pinning.outcome().is_some());
    let log = ["apply 2 of 2", "apply 0 of 2", "undo", "resume", "apply 0 of 2"];
    assert_eq!(*pinner.0.lock().unwrap(), log);
    engine.pinner = None;
    assert!(engine.command(&LoopCommand::Restore).unwrap_err().contains("--dry-run"));
}

/// Restoring undoes merging too; applying resumes it, as it resumes pinning.
#[test]
fn merging_pauses_with_a_restore_and_resumes_with_an_apply() {
    let log = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &FakePinner::default());
    engine.merger = Some(Box::new(log.clone()));
    let logged = || std::mem::take(&mut *log.0.lock().unwrap());
    round(&mut engine);
    assert_eq!(logged(), ["merge"]);
    let (_, answer) = command(&mut engine, &LoopCommand::Restore).unwrap();
    assert_eq!(answer, "3 changes undone; nothing is pinned or merged from now on");
    command(&mut engine, &LoopCommand::SetPolicy(Policy::Sharing)).unwrap();
    round(&mut engine);
    assert_eq!(logged(), ["unmerge"], "nothing is merged after a restore");
    command(&mut engine, &LoopCommand::Apply).unwrap();
    round(&mut engine);
    assert_eq!(logged(), ["merge"], "and again after an apply");
    // A dry run keeps what is merged, and merging goes on.
    command(&mut engine, &LoopCommand::DryRun).unwrap();
    round(&mut engine);
    assert_eq!(engine.undo().unwrap().restored, 3);
    assert_eq!(logged(), ["merge", "unmerge"], "the end undoes it");
}

#[test]
fn rounds_that_change_nothing_share_their_parts() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
    let (first, second) = (round(&mut engine).round, round(&mut engine).round);
    let is_one = |round: &Round, other: &Round| {
        Arc::ptr_eq(round.topology.value().unwrap(), other.topology.value().unwrap())
            && Arc::ptr_eq(round.matrix.value().unwrap(), other.matrix.value().unwrap())
            && Arc::ptr_eq(round.plan.value().unwrap(), other.plan.value().unwrap())
            && Arc::ptr_eq(&round.vms, &other.vms)
    };
    assert!(is_one(&first, &second), "{first:?} {second:?}");
}

#[tokio::test]
async fn a_viewer_is_answered_while_the_loop_waits() {
    let pinner = FakePinner::default();
    let engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let (commands, requests) = mpsc::channel(1);
    let (reply, answer) = oneshot::channel();
    commands.send(Request { command: LoopCommand::DryRun, reply }).await.unwrap();
    let stop = async { assert!(answer.await.unwrap().unwrap().contains("nothing is pinned")) };
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::ZERO,
        rounds: None,
        window: Duration::from_secs(60),
    };
    run(engine, Box::new(Broken), stop, |_| {}, requests, options).await.unwrap();
}

#[test]
fn a_vm_that_may_not_be_read_is_reported_once_and_the_others_are_placed() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
    engine.sharing = Box::new(FakeSharing { hidden: Some("a"), ..FakeSharing::default() });
    let view = round(&mut engine);
    let reported = |view: &View| {
        let of_a = view.round.events.iter().filter(|event| event.message.starts_with("a is left out: "));
        of_a.map(|event| event.kind).collect::<Vec<_>>()
    };
    assert_eq!(reported(&view), [EventKind::Note]);
    let plan = view.round.plan.value().unwrap();
    assert!(plan.placement.iter().all(|placed| placed.vm == "b") && !plan.placement.is_empty());
    assert_eq!(reported(&round(&mut engine)), [], "it is said once");
    engine.sharing = Box::new(FakeSharing::default());
    let readable = round(&mut engine);
    assert_eq!(readable.round.plan.value().unwrap().placement.len(), 2);
}
