//! Commands of viewers while placements are tried: four VMs, of which those in opposite domains share.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use huddle_model::assignment::Assignment;
use huddle_model::command::LoopCommand;
use huddle_model::ksm::KsmState;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix, Weigh};
use huddle_model::observation::ReportObservation;
use huddle_model::pinning::PinOutcome;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::trial::{Objective, Outcome, TrialSettings};
use huddle_model::vm::{TaskId, Vcpu, VmmKind};

use super::super::*;
use huddle_host::discover::Discovery;
use huddle_host::pin::PinReport;
use huddle_host::stages::StageError;
use huddle_sharing::Measurement;

/// a and c share, and b and d; a and b begin on domain 0, c and d on domain 1.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn vms() -> Vec<Vm> {
    let vm = |(pid, name): (i32, &str)| {
        let task = TaskId { id: pid, start_ticks: 1 };
        let affinity = if pid <= 2 { "0-3" } else { "4-7" };
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
                thread_name: Some("reader".into()),
                affinity: affinity.parse().unwrap(),
                last_cpu: None,
                limits: Default::default(),
            }],
            memory: Vec::new(),
            allowed_cpus: "0-7".parse().unwrap(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        }
    };
    (1..).zip(NAMES).map(vm).collect()
}

/// The VMs; the first may have a second vCPU.
#[derive(Clone, Default)]
struct FakeVms(Arc<AtomicBool>);

impl VmSource for FakeVms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        let mut vms = vms();
        if self.0.load(Ordering::Relaxed) {
            let mut second = vms[0].vcpus[0].clone();
            second.index = 1;
            second.id = TaskId { id: 100, start_ticks: 1 }.into();
            vms[0].vcpus.push(second);
        }
        Ok(Discovery { vms, ..Discovery::default() })
    }
}

struct FakeSharing;

impl SharingSource for FakeSharing {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        let rows = vms
            .iter()
            .map(|vm| MatrixVm::of(vm, Some(MemoryUse { frames_used: 1000, ..MemoryUse::default() })));
        let shared = |i: usize, j: usize| if i < 4 && j < 4 && i % 2 == j % 2 { 800 } else { 0 };
        let frames: Vec<Vec<u64>> =
            (0..vms.len()).map(|i| (0..vms.len()).map(|j| shared(i, j)).collect()).collect();
        Ok(Measurement::of(SharingMatrix::measured(Method::Merged, rows.collect(), &frames, 0.0, 1.0)))
    }
}

struct FakeHost;

impl HostSource for FakeHost {
    fn topology(&mut self) -> Result<Topology, StageError> {
        let domain = |id: u32| CacheDomain {
            id: DomainId(id),
            cpus: (id * 4..id * 4 + 4).collect(),
            size_bytes: Some(1 << 20),
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

/// What is pinned, in order of VM: `a0 b1`, or `nothing`; and every change of placement.
#[derive(Clone, Default)]
pub(super) struct Pinned(Arc<Mutex<Vec<String>>>);

impl Pinned {
    pub(super) fn now(&self) -> String {
        self.0.lock().unwrap().last().cloned().unwrap_or_else(|| "nothing".into())
    }

    fn changes(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn set(&self, text: String) {
        if self.now() != text {
            self.0.lock().unwrap().push(text);
        }
    }
}

impl Pinner for Pinned {
    fn apply(&mut self, _vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError> {
        let mut places: Vec<String> =
            plan.placement.iter().map(|placed| format!("{}{}", placed.vm, placed.domain)).collect();
        places.sort();
        self.set(if places.is_empty() { "nothing".into() } else { places.join(" ") });
        Ok(PinReport {
            outcome: PinOutcome { changed: 1, unchanged: 0, skipped: 0 },
            in_force: Assignment::of(plan),
            notes: Vec::new(),
        })
    }

    fn undo(&mut self) -> UndoReport {
        self.set("nothing".into());
        UndoReport { restored: 1, notes: Vec::new(), failures: Vec::new() }
    }
}

/// One second per window, shared with the observer.
#[derive(Clone, Default)]
struct Seconds(Arc<AtomicU64>);

impl Clock for Seconds {
    fn now_unix_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// Windows of a second in which all do more while a and c are together.
struct Reports {
    seconds: Seconds,
    pinned: Pinned,
}

impl Observer for Reports {
    fn observe(&mut self, _vms: &[Vm], _topology: Option<&Topology>) -> Availability<Observation> {
        let second = self.seconds.0.fetch_add(1, Ordering::Relaxed);
        let now = self.pinned.now();
        let together = now.contains("a0") == now.contains("c0") && now.contains("a1") == now.contains("c1");
        let operations = if now != "nothing" && together { 2000 } else { 1000 } + second % 3;
        let report = |name: &&str| ReportObservation { vm: (*name).to_owned(), operations, latency_us: None };
        Availability::Available(Observation {
            window: second,
            round: 0,
            trial: None,
            vms: Vec::new(),
            begin_unix_us: second * 1_000_000,
            end_unix_us: (second + 1) * 1_000_000,
            vcpus: Vec::new(),
            merging: Vec::new(),
            occupancy: Availability::Unavailable("none".into()),
            reported: NAMES.iter().map(report).collect(),
            events: Vec::new(),
            programs: Vec::new(),
            losses: Availability::Unavailable("none".into()),
            own_cpu_us: Availability::Available(1),
            reading_cpu_us: Availability::Available(1),
        })
    }
}

const TOGETHER: [&str; 2] = ["a0 b1 c0 d1", "a1 b0 c1 d0"];

fn engine(limits: PlanLimits) -> (Engine, Pinned) {
    let (pinned, seconds) = (Pinned::default(), Seconds::default());
    let engine = Engine {
        vms: Box::new(FakeVms::default()),
        sharing: Box::new(FakeSharing),
        merger: None,
        host: Box::new(FakeHost),
        observer: Some(Box::new(Reports { seconds: seconds.clone(), pinned: pinned.clone() })),
        pinner: Some(Box::new(pinned.clone())),
        apply: true,
        clock: Box::new(seconds),
        policy: Policy::Sharing,
        weigh: Weigh::All,
        limits,
        trials: Some(TrialRunner::new(
            Objective::Reported,
            TrialSettings::default(),
            Duration::ZERO,
            Duration::ZERO,
        )),
        memory: Memory::default(),
    };
    (engine, pinned)
}

/// An engine in the middle of a trial, with the proposal in force.
pub(super) fn trying() -> (Engine, Pinned) {
    let (mut engine, pinned) = engine(PlanLimits::default());
    engine.round();
    engine.round();
    for _ in 0..10 {
        if TOGETHER.contains(&pinned.now().as_str()) {
            assert!(is_in_trial(&observe(&mut engine)));
            return (engine, pinned);
        }
        engine.observe();
    }
    panic!("no trial began: {}", pinned.now());
}

fn viewed(engine: &Engine) -> View {
    engine.memory.view.clone().unwrap()
}

/// The view after a round, a window, a command.
fn round(engine: &mut Engine) -> View {
    engine.round();
    viewed(engine)
}

fn observe(engine: &mut Engine) -> View {
    engine.observe().unwrap();
    viewed(engine)
}

fn command(engine: &mut Engine, command: &LoopCommand) -> (View, String) {
    let (_, answer) = engine.command(command).unwrap();
    (viewed(engine), answer.unwrap())
}

fn phase(view: &View) -> Phase {
    view.comparison.value().unwrap().phase.clone()
}

fn is_in_trial(view: &View) -> bool {
    matches!(phase(view), Phase::Trial { .. })
}

/// Checks that there is one decision: the trial was aborted for `what`. No event repeats it.
fn assert_aborted(view: &View, what: &str) {
    let [decision] = &view.decisions[..] else { panic!("{:?}", view.decisions) };
    assert_eq!(decision.outcome, Outcome::Aborted);
    assert_eq!(decision.reason, format!("a viewer asked for {what}"));
    assert!(!view.events.iter().any(|event| event.message.contains(&decision.reason)), "{:?}", view.events);
}

#[test]
fn vms_that_must_be_apart_are_separated_at_once_and_without_a_trial() {
    // Where they begin.
    let apart = vec![vec!["a".to_owned(), "b".to_owned()]];
    let (mut engine, pinned) = engine(PlanLimits { apart, ..PlanLimits::default() });
    // The first round already, and no block in which they would be together again.
    let first = round(&mut engine);
    let now = pinned.now();
    assert!(TOGETHER.contains(&now.as_str()), "{now}");
    let [decision] = &first.decisions[..] else { panic!("{:?}", first.decisions) };
    assert_eq!(decision.outcome, Outcome::Kept, "{decision}");
    assert!(decision.reason.contains("a and b are to be kept apart"), "{decision}");
    for _ in 0..10 {
        engine.observe();
        engine.round();
    }
    assert_eq!(pinned.now(), now, "it is not undone, and not reported again");
}

/// Runs windows and rounds until there is a new decision.
pub(super) fn next_decision(engine: &mut Engine) -> huddle_model::trial::Decision {
    for _ in 0..40 {
        engine.round();
        for _ in 0..5 {
            let decisions = observe(engine).decisions;
            // What a dry run would have done is reported too.
            let new = decisions.iter().skip(1).find(|decision| !decision.reason.contains("a dry run"));
            if let Some(decision) = new {
                return decision.clone();
            }
        }
    }
    panic!("nothing was decided");
}

#[test]
fn restore_aborts_a_trial_and_nothing_is_pinned_until_apply() {
    let (mut engine, pinned) = trying();
    let (view, _) = command(&mut engine, &LoopCommand::Restore);
    assert_aborted(&view, "everything to be undone");
    assert_eq!((pinned.now(), view.pinning), ("nothing".into(), Pinning::DryRun));
    let changes = pinned.changes();
    for _ in 0..10 {
        engine.observe();
        assert_eq!(phase(&round(&mut engine)), Phase::DryRun);
    }
    assert_eq!(pinned.changes(), changes, "nothing was switched");

    let (view, answer) = command(&mut engine, &LoopCommand::Apply);
    assert!(answer.contains("tried"), "{answer}");
    assert_eq!(pinned.now(), "nothing", "it is tried first: {:?}", view.pinning);
    let decision = next_decision(&mut engine);
    assert_eq!(decision.outcome, Outcome::Kept, "{decision}");
    assert!(TOGETHER.contains(&pinned.now().as_str()), "{}", pinned.now());
}

#[test]
fn a_dry_run_leaves_what_was_kept_and_not_what_was_only_tried() {
    let (mut engine, pinned) = trying();
    let (view, _) = command(&mut engine, &LoopCommand::DryRun);
    assert_aborted(&view, "a dry run");
    assert_eq!(pinned.now(), "nothing", "nothing had been kept yet");
    engine.command(&LoopCommand::Apply).unwrap().1.unwrap();
    assert_eq!(next_decision(&mut engine).outcome, Outcome::Kept);

    let kept = pinned.now();
    let changes = pinned.changes();
    engine.command(&LoopCommand::DryRun).unwrap().1.unwrap();
    engine.command(&LoopCommand::SetPolicy(Policy::Opposed)).unwrap().1.unwrap();
    for _ in 0..10 {
        engine.observe();
        engine.round();
    }
    assert_eq!((pinned.now(), pinned.changes()), (kept.clone(), changes));
    engine.command(&LoopCommand::SetPolicy(Policy::Sharing)).unwrap().1.unwrap();
    engine.command(&LoopCommand::Apply).unwrap().1.unwrap();
    assert_eq!((pinned.now(), pinned.changes()), (kept, changes), "what was kept is still in force");
}

#[test]
fn another_policy_is_tried_before_it_is_kept() {
    let (mut engine, pinned) = trying();
    let (view, answer) = command(&mut engine, &LoopCommand::SetPolicy(Policy::Paper));
    assert!(answer.contains("tried before it is kept"), "{answer}");
    assert_aborted(&view, "policy paper");
    assert_eq!(view.round.plan.value().unwrap().policy, Policy::Paper);
    assert_eq!(pinned.now(), "nothing", "the proposal is not pinned at once");
    let decision = next_decision(&mut engine);
    assert!(decision.proposal.starts_with("policy paper"), "{decision}");
    assert_eq!(decision.outcome, Outcome::Kept);

    let (_, answer) = command(&mut engine, &LoopCommand::SetPolicy(Policy::None));
    assert!(answer.contains("left to the kernel"), "{answer}");
    assert_eq!(pinned.now(), "nothing");
    engine.round();
    engine.observe();
    assert_eq!(pinned.now(), "nothing");
}

#[test]
fn apply_while_applied_does_not_abort_the_trial() {
    let (mut engine, _) = trying();
    let (view, _) = command(&mut engine, &LoopCommand::Apply);
    assert!(is_in_trial(&view), "{:?}", view.comparison);
    assert!(view.decisions.is_empty());
}

#[test]
fn a_vm_with_another_number_of_vcpus_ends_the_trial() {
    let (mut engine, pinned) = trying();
    let more = FakeVms::default();
    more.0.store(true, Ordering::Relaxed);
    engine.vms = Box::new(more);
    let view = round(&mut engine);
    let [decision] = &view.decisions[..] else { panic!("{:?}", view.decisions) };
    assert_eq!(
        (decision.outcome, decision.reason.as_str()),
        (Outcome::Aborted, "a now has 2 vCPUs during the trial")
    );
    assert_eq!(pinned.now(), "nothing", "nothing is pinned any more");
    assert_eq!(next_decision(&mut engine).outcome, Outcome::Kept, "and it is tried with what there is now");
}

#[test]
fn vms_that_must_be_apart_are_not_tried_together() {
    let (mut engine, pinned) = trying();
    engine.limits.apart = vec![vec!["a".into(), "c".into()], vec!["b".into(), "d".into()]];
    let (view, _) = command(&mut engine, &LoopCommand::SetPolicy(Policy::Sharing));
    let plan = view.round.plan.value().unwrap();
    for (one, other) in [("a", "c"), ("b", "d")] {
        assert_ne!(plan.domain_of(one, 0).unwrap().id, plan.domain_of(other, 0).unwrap().id);
    }
    let changes = pinned.changes();
    for _ in 0..5 {
        engine.round();
        engine.observe();
    }
    assert_eq!((pinned.now(), pinned.changes()), ("nothing".into(), changes));
}

#[test]
fn a_switch_within_a_trial_is_published_and_is_no_event() {
    let (mut engine, pinned) = trying();
    for _ in 0..20 {
        let changes = pinned.changes();
        let step = engine.observe().unwrap();
        let switch = step.iter().find_map(|update| match update {
            Update::Switch { pinning, .. } => Some(pinning),
            _ => None,
        });
        assert_eq!(switch.is_some(), pinned.changes() > changes);
        if let Some(Pinning::Done(outcome)) = switch {
            assert_eq!(outcome.changed, 1);
            assert!(!step.iter().any(|update| matches!(update, Update::Event(_))), "{step:?}");
            return;
        }
    }
    panic!("nothing was switched");
}

/// The VMs, with another visitor each time, or one that stays.
struct Visited {
    visitors: i32,
    stays: Arc<AtomicBool>,
}

impl VmSource for Visited {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        self.visitors += i32::from(!self.stays.load(Ordering::Relaxed));
        let mut all = vms();
        let task = TaskId { id: 100 + self.visitors, start_ticks: 1 };
        let mut visitor =
            Vm { name: format!("visitor{}", self.visitors), id: task.into(), ..vms().remove(0) };
        visitor.vcpus[0].id = task.into();
        visitor.vcpus[0].process = Some(task);
        all.push(visitor);
        Ok(Discovery { vms: all, ..Discovery::default() })
    }
}

#[test]
fn vms_that_come_and_go_do_not_disturb_a_trial_and_one_that_stays_is_placed_after_it() {
    let (mut engine, pinned) = engine(PlanLimits::default());
    engine.round();
    let stays = Arc::new(AtomicBool::new(false));
    engine.vms = Box::new(Visited { visitors: 0, stays: Arc::clone(&stays) });
    let kept = (0..100).find_map(|_| {
        let view = round(&mut engine);
        assert!(!pinned.now().contains("visitor"), "{}", pinned.now());
        let plan = view.round.plan.value().unwrap();
        assert!(plan.reasons.iter().any(|reason| reason.starts_with("1 new VM:")), "{plan:?}");
        let decisions = observe(&mut engine).decisions;
        decisions.last().filter(|decision| decision.outcome == Outcome::Kept).cloned()
    });
    assert!(kept.is_some(), "no verdict: {:?}", viewed(&engine).decisions);
    let aborted = viewed(&engine).decisions.iter().filter(|d| d.outcome == Outcome::Aborted).count();
    assert_eq!(aborted, 0);

    stays.store(true, Ordering::Relaxed);
    let is_planned = |view: &View| {
        view.round.plan.value().unwrap().placement.iter().any(|placed| placed.vm.starts_with("visitor"))
    };
    assert!(!is_planned(&round(&mut engine)), "it has only just come");
    for _ in 0..12 {
        engine.observe();
    }
    assert!(is_planned(&round(&mut engine)));
}

/// Half of the data of a pair is as large as a cache: together it is cached once.
#[test]
fn a_proposal_has_its_expected_misses() {
    let proposal = |limits: PlanLimits| {
        let (engine, _) = engine(limits);
        let mut engine = Engine { apply: false, ..engine };
        engine.round();
        engine.round();
        let decisions = observe(&mut engine).decisions;
        decisions.first().expect("a dry run reports what it would try").proposal.clone()
    };
    let working_set_kib = vms().iter().map(|vm| (vm.name.clone(), 1024)).collect();
    let with = proposal(PlanLimits { working_set_kib, ..PlanLimits::default() });
    assert!(with.contains("; estimated: ") && with.contains(" of a thousand reads miss the cache"), "{with}");
    assert!(with.contains("as configured"), "{with}");
    let without = proposal(PlanLimits::default());
    assert!(without.starts_with("policy sharing") && !without.contains("estimated"), "{without}");
}
