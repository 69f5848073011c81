//! The loop: discover, measure, plan, pin, and tell about it, after every complete pass of KSM.
//!
//! [`Engine`] knows the stages as the traits of [`huddle_host::stages`], so a test runs the whole loop on fakes and
//! a second hypervisor is a second set of implementations. One [`Engine::round`] is synchronous and
//! blocking, and gives what is new as a [`Step`] of updates; [`run`] drives rounds off the async threads and
//! hands each step on, and a [`publish::Publisher`] gives it to whoever subscribes. A stage that fails makes
//! its part of the round unavailable, with the reason, and the loop goes on; only a failed undo is an error
//! of its own.

pub mod attach;
pub mod backend;
pub mod command;
mod drive;
mod events_sharing;
mod host_stages;
pub mod publish;
mod trials;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::event::{Event, EventKind};
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::{Observation, ProgramCost, ProgramObservation};
use huddle_model::pinning::Pinning;
use huddle_model::plan::{Applied, Bearers, Plan, PlanInput, PlanLimits, PlanVm, Policy};
use huddle_model::text::plain;
use huddle_model::topology::Topology;
use huddle_model::trial::{Comparison, Decision, HostReading, Moment, Phase};
use huddle_model::update::{Round, Step, Update};
use huddle_model::view::View;
use huddle_model::vm::{Uuid, Vm, VmId, VmRef};

pub use drive::{RunEnd, RunOptions, run};
pub use events_sharing::{EventsSharing, RESCAN_ROUNDS};
pub use host_stages::{HostContents, HostFacts, HostSharing, HostVms};
pub use trials::TrialRunner;

use huddle_host::numa;
use huddle_host::stages::{Clock, HostSource, Observer, PageMerger, Pinner, SharingSource, VmSource};

use huddle_host::pin::UndoReport;

/// What the BPF programs of the sharing stage are called together, in windows.
const SHARING_PROGRAMS: &str = "sharing_events";

/// The stages and what the loop remembers between rounds.
pub struct Engine {
    /// Finds the VMs.
    pub vms: Box<dyn VmSource + Send>,
    /// Measures what they share.
    pub sharing: Box<dyn SharingSource + Send>,
    /// Merges what VMs have in common before it is measured; `None` where nothing is to be merged, or the host
    /// does it by itself.
    pub merger: Option<Box<dyn PageMerger + Send>>,
    /// Tells about the host.
    pub host: Box<dyn HostSource + Send>,
    /// Watches the VMs between rounds; `None` where nothing is to be watched.
    pub observer: Option<Box<dyn Observer + Send>>,
    /// Sets affinities; may be `None` when `apply` is false.
    pub pinner: Option<Box<dyn Pinner + Send>>,
    /// False for a dry run: everything but the pinning.
    pub apply: bool,
    /// Tells the time.
    pub clock: Box<dyn Clock + Send>,
    /// How VMs are placed.
    pub policy: Policy,
    /// What every plan has to keep to.
    pub limits: PlanLimits,
    /// Tries what the policy proposes; `None` to pin it at once.
    pub trials: Option<TrialRunner>,
    /// What earlier rounds saw.
    pub memory: Memory,
}

/// What the loop remembers between rounds.
#[derive(Debug, Default)]
pub struct Memory {
    round: u64,
    known: BTreeMap<(String, VmId), Option<Uuid>>,
    /// Whom the names in limits mean.
    bearers: Bearers,
    /// What was wrong with them in the last round.
    limit_problems: Vec<String>,
    /// What the BPF programs of the sharing stage had cost at the last window.
    sharing_cost: ProgramCost,
    /// What was told so far.
    view: Option<View>,
}

impl Engine {
    /// One time through all stages. The window of observation that ends just before pinning is told with
    /// it, so that no window holds two placements.
    pub fn round(&mut self) -> Step {
        self.memory.round += 1;
        let begin_unix_us = self.clock.now_unix_us();
        let mut events = Vec::new();

        let topology = Availability::from(self.host.topology()).map(Arc::new);
        let (mut vms, vms_reason) = match self.vms.discover() {
            Ok(found) => {
                events.extend(found.notes.into_iter().map(|note| (EventKind::VmVanished, None, note)));
                (found.vms, None)
            }
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let completed = self.observer.as_mut().map(|observer| observer.complete(&mut vms));
        events.extend(completed.into_iter().flatten().map(|note| (EventKind::Note, None, note)));
        if !vms.is_empty() {
            events.extend(self.merge().into_iter().map(|note| (EventKind::Note, None, note)));
        }
        let matrix = match &vms_reason {
            Some(reason) => Availability::Unavailable(format!("no VMs are known: {reason}")),
            None if vms.is_empty() => Availability::Unavailable("no VM runs on this host".into()),
            None => match self.sharing.measure(&vms) {
                Ok(measured) => {
                    for vanished in measured.vanished {
                        let gone = vms.iter().find(|vm| vm.name == vanished.vm).map(Vm::reference);
                        vms.retain(|vm| vm.name != vanished.vm);
                        let gone = gone.unwrap_or_else(|| VmRef::named(vanished.vm));
                        events.push((EventKind::VmVanished, Some(gone), vanished.reason));
                    }
                    events.extend(measured.notes.into_iter().map(|note| (EventKind::Note, None, note)));
                    Availability::Available(Arc::new(measured.matrix))
                }
                Err(error) => Availability::Unavailable(error.to_string()),
            },
        };
        // When VMs cannot be looked for, nobody knows who came or went.
        if vms_reason.is_none() {
            self.note_comings_and_goings(&vms, &mut events);
        }

        let applied = matrix.value().map(|matrix| self.apply_limits(matrix, &mut events));
        let basis = match (&matrix, &topology) {
            (Availability::Available(matrix), Availability::Available(topology)) => {
                let apart = applied.map(|applied| applied.apart).unwrap_or_default();
                Availability::Available(self.basis(&vms, matrix, topology, apart))
            }
            (Availability::Unavailable(reason), _) | (_, Availability::Unavailable(reason)) => {
                Availability::Unavailable(format!("there is nothing to plan with: {reason}"))
            }
        };
        let plan = basis.as_ref().map(|basis| Arc::new(self.policy.plan(&basis.input(&self.limits))));
        let observation = self.window(&vms, topology.value().map(|topology| &**topology));
        let at = self.moment();
        let wanted = match (&mut self.trials, &basis, &plan) {
            (Some(trials), Availability::Available(basis), Availability::Available(plan)) => {
                let input = basis.input(&self.limits);
                trials.round(at, self.memory.round, &vms, input, plan, !self.apply);
                self.apply.then(|| trials.next_to_pin(true)).flatten()
            }
            _ => None,
        };
        let to_pin = wanted.map_or_else(|| plan.clone(), |plan| Availability::Available(Arc::new(plan)));
        let pinning = self.pin_and_tell(&vms, &to_pin, &mut events);
        let decisions = self.new_decisions();
        events.extend(decisions.iter().map(decision_event));

        for (stage, reason) in [
            ("topology", topology.reason()),
            ("discovery", vms_reason.as_deref()),
            ("sharing", matrix.reason()),
            ("pinning", pinning.failure()),
        ] {
            events.extend(reason.map(|reason| unavailable_event(stage, reason)));
        }
        let end_unix_us = self.clock.now_unix_us();
        let round = Round {
            number: self.memory.round,
            begin_unix_us,
            end_unix_us,
            ksm: self.host.ksm().into(),
            topology,
            vms: Arc::new(vms),
            matrix,
            plan,
            pinning,
            events: events_at(end_unix_us, events),
            own_cpu_us: self.host.own_cpu_us().into(),
        };
        self.tell_round(round, observation, decisions)
    }

    /// Ends a window of observation, and switches to another placement where a trial asks for it. `None`
    /// before the first round, and where nothing is watched.
    pub fn observe(&mut self) -> Option<Step> {
        let View { round: last, pinning: before, .. } = self.memory.view.clone()?;
        self.observer.as_ref()?;
        let observation = self.window(&last.vms, last.topology.value().map(|topology| &**topology));
        let mut updates = vec![Update::Window(observation)];
        let mut events = Vec::new();
        let to_pin = self.trials.as_mut().filter(|_| self.apply).and_then(|trials| trials.next_to_pin(false));
        if let Some(plan) = to_pin {
            // That a trial switches is no event: the decision at its end is.
            let (pinning, skipped) = self.pin(&last.vms, &Availability::Available(Arc::new(plan)));
            events.extend(skipped);
            let failure = pinning.failure().filter(|_| before.outcome().is_some());
            events.extend(failure.map(|reason| unavailable_event("pinning", reason)));
            updates.push(Update::Switch(pinning));
        }
        Some(self.tell(updates, events))
    }

    /// Tells a round, the window that ended in it, and what was decided in it.
    fn tell_round(
        &mut self,
        round: Round,
        observation: Availability<Arc<Observation>>,
        decisions: Vec<Decision>,
    ) -> Step {
        let window = Update::Window(observation);
        let mut updates = match &self.memory.view {
            // The window ended before anything was placed anew.
            Some(view) => {
                vec![window, Update::Round(Arc::new(round.sharing_parts_with(&view.round)))]
            }
            None => vec![Update::Round(Arc::new(round)), window],
        };
        updates.extend(self.changed_comparison());
        updates.extend(decisions.into_iter().map(Update::Decision));
        self.remember(updates)
    }

    /// Tells what happened between rounds, with what was decided meanwhile.
    fn tell(&mut self, mut updates: Vec<Update>, mut events: Events) -> Step {
        let decisions = self.new_decisions();
        events.extend(decisions.iter().map(decision_event));
        updates.extend(self.changed_comparison());
        updates.extend(events_at(self.clock.now_unix_us(), events).into_iter().map(Update::Event));
        updates.extend(decisions.into_iter().map(Update::Decision));
        self.remember(updates)
    }

    fn remember(&mut self, updates: Vec<Update>) -> Step {
        View::follow(&mut self.memory.view, &updates);
        updates.into()
    }

    /// What a plan is made from.
    fn basis<'a>(
        &mut self,
        vms: &[Vm],
        matrix: &'a SharingMatrix,
        topology: &'a Topology,
        apart: Vec<(usize, usize)>,
    ) -> Basis<'a> {
        let seen = self.memory.view.as_ref().and_then(|view| view.observation.value());
        let mut places: Vec<PlanVm> = Vec::new();
        for vm in vms {
            let place = PlanVm::of(vm, topology);
            let mut place = match seen {
                Some(seen) => place.observed(vm, seen),
                None => place,
            };
            if self.limits.local_memory.is_some() {
                // Where it is not known a reason of the plan says so.
                place.node_pages = numa::vm_node_pages(vm, |process| self.host.node_pages(process));
            }
            places.push(place);
        }
        let weighted = self.trials.as_ref().map(|trials| trials.weighted(matrix));
        Basis { matrix, topology, places, weighted, apart }
    }

    /// Finds the VMs that limits name, and tells loudly when one cannot be told any more: a limit that holds for
    /// nobody must not pass unnoticed.
    fn apply_limits(&mut self, matrix: &SharingMatrix, events: &mut Events) -> Applied {
        let applied = self.memory.bearers.apply(&self.limits, matrix.vms());
        let new = applied.problems.iter().filter(|problem| !self.memory.limit_problems.contains(problem));
        events.extend(
            new.map(|problem| (EventKind::LimitLost, None, format!("a limit is not kept: {problem}"))),
        );
        self.memory.limit_problems.clone_from(&applied.problems);
        applied
    }

    /// What was seen since the last call, in the placement that was in force; from now on `vms` are
    /// watched.
    fn window(&mut self, vms: &[Vm], topology: Option<&Topology>) -> Availability<Arc<Observation>> {
        let Some(observer) = &mut self.observer else {
            return Availability::Unavailable("no probes and no counters are set up".into());
        };
        let placed_in = self.memory.view.as_ref().map_or(0, |view| view.round.number);
        let sharing_cost = self.sharing.programs_cost();
        let before = std::mem::replace(&mut self.memory.sharing_cost, sharing_cost.unwrap_or_default());
        let seen = observer.observe(vms, topology).map(|mut seen| {
            seen.programs.extend(sharing_cost.map(|now| ProgramObservation {
                name: SHARING_PROGRAMS.to_owned(),
                cost: Availability::Available(ProgramCost {
                    runs: now.runs.saturating_sub(before.runs),
                    run_ns: now.run_ns.saturating_sub(before.run_ns),
                }),
            }));
            Observation { round: placed_in, ..seen }
        });
        let at = self.moment();
        let Some(trials) = &mut self.trials else { return seen.map(Arc::new) };
        let host = HostReading {
            load_per_cpu: self.host.runnable_per_cpu().ok(),
            ksm_run: self.host.ksm().ok().map(|ksm| ksm.run),
        };
        seen.map(|seen| Arc::new(trials.window(at, seen, host)))
    }

    /// No pass will be told any more: a trial, which cannot be guarded then, ends, and all hear of it.
    pub(crate) fn lost_passes(&mut self, what: &str) -> Option<Step> {
        let last = Arc::clone(&self.memory.view.as_ref()?.round);
        let at = self.moment();
        let mut events = vec![(EventKind::StageFailed, None, what.to_owned())];
        let mut updates = Vec::new();
        if self.is_trying() {
            let to_pin = self.trials.as_mut().and_then(|trials| {
                trials.broken_off(at, what);
                trials.next_to_pin(false)
            });
            if let Some(plan) = to_pin {
                let plan = Availability::Available(Arc::new(plan));
                updates.push(Update::Switch(self.pin_and_tell(&last.vms, &plan, &mut events)));
            }
        }
        Some(self.tell(updates, events))
    }

    fn moment(&self) -> Moment {
        Moment { now: self.clock.monotonic(), unix_us: self.clock.now_unix_us() }
    }

    /// Whether a trial runs, so that windows between rounds are needed.
    pub(crate) fn is_trying(&self) -> bool {
        self.trials.as_ref().is_some_and(TrialRunner::is_trying)
    }

    /// Least time between the begins of two rounds: `least`, or longer while sharing does not change.
    pub fn interval(&self, least: Duration) -> Duration {
        self.trials.as_ref().map_or(least, |trials| trials.interval().max(least))
    }

    fn comparison(&mut self) -> Availability<Comparison> {
        let Some(trials) = &mut self.trials else {
            return Availability::Unavailable("placements are not tried against each other (--trial)".into());
        };
        let comparison = trials.comparison();
        if self.apply {
            return Availability::Available(comparison);
        }
        let resting = Comparison { phase: Phase::DryRun, ..comparison };
        // What was decided earlier stays told.
        match trials.has_decided() {
            true => Availability::Available(resting),
            false => Availability::Unavailable(resting.phase.to_string()),
        }
    }

    /// How the trial stands, if that is not what was told last.
    fn changed_comparison(&mut self) -> Option<Update> {
        let now = self.comparison();
        let is_told = match (&now, self.memory.view.as_ref().map(|view| &view.comparison)) {
            (Availability::Available(now), Some(Availability::Available(told))) => *now == **told,
            (Availability::Unavailable(now), Some(Availability::Unavailable(told))) => now == told,
            _ => false,
        };
        (!is_told).then(|| Update::Comparison(now.map(Arc::new)))
    }

    /// Decisions that were not told yet.
    fn new_decisions(&mut self) -> Vec<Decision> {
        self.trials.as_mut().map(TrialRunner::new_decisions).unwrap_or_default()
    }

    /// Takes back every change; `None` when nothing could change.
    pub fn undo(&mut self) -> Option<UndoReport> {
        let pinned = self.pinner.as_mut().map(|pinner| pinner.undo());
        let merged = self.merger.take().map(|mut merger| merger.undo());
        match (pinned, merged) {
            (Some(mut report), Some(merged)) => {
                report.restored += merged.restored;
                report.notes.extend(merged.notes);
                report.failures.extend(merged.failures);
                Some(report)
            }
            (pinned, merged) => pinned.or(merged),
        }
    }

    /// Merges what VMs have in common, and says what came of it.
    fn merge(&mut self) -> Vec<String> {
        match self.merger.as_mut().map(|merger| merger.merge()) {
            None => Vec::new(),
            Some(Ok(notes)) => notes,
            Some(Err(error)) => vec![format!("merging ended early: {error}")],
        }
    }

    fn note_comings_and_goings(&mut self, vms: &[Vm], events: &mut Events) {
        let now: BTreeMap<_, _> = vms.iter().map(|vm| ((vm.name.clone(), vm.id), vm.uuid)).collect();
        let mut tell = |kind, ((name, id), uuid): (&(String, VmId), &Option<Uuid>), what| {
            let vm = VmRef { name: name.clone(), id: Some(*id), uuid: *uuid };
            events.push((kind, Some(vm), format!("{name} ({id}) {what}")));
        };
        for vm in now.iter().filter(|(vm, _)| !self.memory.known.contains_key(*vm)) {
            tell(EventKind::VmAppeared, vm, "was found");
        }
        for vm in self.memory.known.iter().filter(|(vm, _)| !now.contains_key(*vm)) {
            tell(EventKind::VmVanished, vm, "is gone");
        }
        self.memory.known = now;
    }

    /// Pins, and tells what was moved and who was passed over.
    fn pin_and_tell(&mut self, vms: &[Vm], plan: &Availability<Arc<Plan>>, events: &mut Events) -> Pinning {
        let (pinning, skipped) = self.pin(vms, plan);
        events.extend(skipped);
        if let (Some(outcome), Availability::Available(plan)) = (pinning.outcome(), plan)
            && outcome.changed > 0
        {
            let message = format!(
                "policy {}: {} vCPU threads moved, {} already in place",
                plan.policy, outcome.changed, outcome.unchanged
            );
            events.push((EventKind::Pinned, None, message));
        }
        pinning
    }

    /// Pins, unless this is a dry run; with it those who were passed over.
    fn pin(&mut self, vms: &[Vm], plan: &Availability<Arc<Plan>>) -> (Pinning, Events) {
        let Some(pinner) = self.pinner.as_mut().filter(|_| self.apply) else {
            return (Pinning::DryRun, Vec::new());
        };
        let plan = match plan {
            Availability::Available(plan) => plan,
            Availability::Unavailable(reason) => return (Pinning::NoPlan(reason.clone()), Vec::new()),
        };
        let (pinning, skipped) = match pinner.apply(vms, plan) {
            Ok(report) => {
                let skipped = report.notes.into_iter().map(|note| (EventKind::PinSkipped, None, note));
                (Pinning::Done(report.outcome), skipped.collect())
            }
            Err(error) => (Pinning::Failed(error.to_string()), Vec::new()),
        };
        let at = self.moment();
        if let Some(trials) = &mut self.trials {
            trials.pinned(at, &pinning);
        }
        (pinning, skipped)
    }
}

/// What a plan is made from, beside the limits.
struct Basis<'a> {
    matrix: &'a SharingMatrix,
    topology: &'a Topology,
    places: Vec<PlanVm>,
    /// The matrix with less for VMs that write to what they share, where placements are tried.
    weighted: Option<SharingMatrix>,
    apart: Vec<(usize, usize)>,
}

impl Basis<'_> {
    fn input<'b>(&'b self, limits: &'b PlanLimits) -> PlanInput<'b> {
        let input =
            PlanInput::new(self.weighted.as_ref().unwrap_or(self.matrix), self.topology, &self.places);
        let input = if self.weighted.is_some() { input.measured(self.matrix) } else { input };
        input.apart(&self.apart).limits(limits)
    }
}

/// Events that have no time yet.
type Events = Vec<EventNow>;
type EventNow = (EventKind, Option<VmRef>, String);

fn unavailable_event(stage: &str, reason: &str) -> EventNow {
    (EventKind::StageFailed, None, format!("{stage} is unavailable: {reason}"))
}

fn decision_event(decision: &Decision) -> EventNow {
    (EventKind::Note, None, decision.to_string())
}

/// Events as they are told, to the log, the terminal and the recording: each is one plain line.
fn events_at(at_unix_us: u64, events: Events) -> Vec<Event> {
    let plain = |message: String| plain(&message).into_owned();
    let event = |(kind, vm, message)| Event { at_unix_us, kind, vm, message: plain(message) };
    events.into_iter().map(event).collect()
}

#[cfg(test)]
mod tests;
