//! The loop: discover, measure, plan, pin, and tell about it, after every complete pass of KSM.
//!
//! [`Engine`] knows the stages as the traits of [`huddle_host::stages`], so a test runs the whole loop on fakes and
//! a second hypervisor is a second set of implementations. One [`Engine::round`] is synchronous and
//! blocking, and gives what is new as a [`Step`] of updates; [`run`] drives rounds off the async threads and
//! hands each step on, and a [`publish::Publisher`] gives it to whoever subscribes. A stage that fails makes
//! its part of the round unavailable, with the reason, and the loop goes on; only a failed undo is an error
//! of its own.

mod apart;
pub mod attach;
pub mod backend;
pub mod command;
mod drive;
mod events_sharing;
mod host_stages;
mod lost;
pub mod publish;
mod readings;
mod trials;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::event::{Event, EventKind};
use huddle_model::observation::{Observation, ProgramCost};
use huddle_model::pinning::Pinning;
use huddle_model::plan::{Bearers, Plan, PlanLimits, Policy};
use huddle_model::text::plain;
use huddle_model::trial::{Comparison, Decision, Moment, Phase};
use huddle_model::update::{Round, Step, Update};
use huddle_model::view::View;
use huddle_model::vm::{Uuid, Vm, VmId, VmRef};

use self::apart::Apart;
pub use drive::{RunEnd, RunOptions, run};
pub use events_sharing::{EventsSharing, RESCAN_ROUNDS};
pub use host_stages::{HostContents, HostFacts, HostSharing, HostVms};
pub use trials::TrialRunner;

use huddle_host::stages::{Clock, HostSource, Observer, PageMerger, Pinner, SharingSource, VmSource};
use huddle_host::stop::Stop;

use huddle_host::pin::UndoReport;

/// How long the process waits, after the undo, for an observer that was abandoned.
const LAST_READING: Duration = Duration::from_millis(300);

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
    /// Notes about vCPUs that their owner bound, as of the last round.
    reported_bindings: BTreeSet<String>,
    /// What the BPF programs of the sharing stage had cost at the last window.
    sharing_cost: ProgramCost,
    /// What was told so far.
    view: Option<View>,
    /// Where the host is read, so that the end need not wait for it.
    apart: Apart,
    /// Whether the observer was abandoned, which has monitoring groups to remove.
    has_lost_observer: bool,
}

impl Memory {
    /// Has the loop end that remembers with this: a round that goes on is given up.
    pub fn stop(&self) -> Stop {
        self.apart.stop().clone()
    }
}

impl Engine {
    /// Has the loop end: a round that goes on is given up, and its readings are abandoned where they are.
    pub fn stop(&self) -> Stop {
        self.memory.stop()
    }

    /// One time through all stages. The window of observation that ends just before pinning is told with
    /// it, so that no window holds two placements.
    ///
    /// It tells nothing, and pins nothing, where it is given up because the loop is to end.
    pub fn round(&mut self) -> Step {
        self.whole_round().unwrap_or_default()
    }

    /// `None` where the loop is to end meanwhile.
    fn whole_round(&mut self) -> Option<Step> {
        self.memory.round += 1;
        let begin_unix_us = self.clock.now_unix_us();
        let mut events = Vec::new();

        let topology = self.ask_host(|host| host.topology())?;
        let topology = Availability::from(topology).map(Arc::new);
        let (mut vms, vms_reason) = match self.discover()? {
            Ok(found) => {
                events.extend(found.notes.into_iter().map(|note| (EventKind::VmVanished, None, note)));
                (found.vms, None)
            }
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let mut notes = self.complete(&mut vms)?;
        notes.extend(self.find_limits(&mut vms)?);
        events.extend(notes.into_iter().map(|note| (EventKind::Note, None, note)));
        if !vms.is_empty() {
            events.extend(self.merge().into_iter().map(|note| (EventKind::Note, None, note)));
        }
        let matrix = match &vms_reason {
            Some(reason) => Availability::Unavailable(format!("no VMs are known: {reason}")),
            None if vms.is_empty() => Availability::Unavailable("no VM runs on this host".into()),
            None => match self.measure(&mut vms)? {
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

        let vms = Arc::new(vms);
        let applied = matrix.value().map(|matrix| self.apply_limits(matrix, &mut events));
        let basis = match (&matrix, &topology) {
            (Availability::Available(matrix), Availability::Available(topology)) => {
                let apart = applied.map(|applied| applied.apart).unwrap_or_default();
                Availability::Available(self.basis(&vms, matrix, topology, apart)?)
            }
            (Availability::Unavailable(reason), _) | (_, Availability::Unavailable(reason)) => {
                Availability::Unavailable(format!("there is nothing to plan with: {reason}"))
            }
        };
        let (basis, plan) = match basis {
            Availability::Available(basis) => {
                let (basis, plan) = self.plan(self.policy, basis)?;
                (Availability::Available(basis), Availability::Available(plan))
            }
            Availability::Unavailable(reason) => {
                (Availability::Unavailable(reason.clone()), Availability::Unavailable(reason))
            }
        };
        let observation = self.window(&vms, topology.value())?;
        let at = self.moment();
        if self.memory.apart.stop().is_set() {
            return None;
        }
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
            vms,
            matrix,
            plan,
            pinning,
            events: events_at(end_unix_us, events),
            own_cpu_us: self.host.own_cpu_us().into(),
        };
        Some(self.tell_round(round, observation, decisions))
    }

    /// Ends a window of observation, and switches to another placement where a trial asks for it. `None`
    /// before the first round, where nothing is watched, and where it takes too long for a loop that is to end.
    pub fn observe(&mut self) -> Option<Step> {
        let View { round: last, pinning: before, .. } = self.memory.view.clone()?;
        self.observer.as_ref()?;
        let observation = self.window(&last.vms, last.topology.value())?;
        let mut updates = vec![Update::Window(observation)];
        let mut events = Vec::new();
        // At the end nothing is placed anew: it is undone at once.
        let may_pin = self.apply && !self.memory.apart.stop().is_set();
        let to_pin = self.trials.as_mut().filter(|_| may_pin).and_then(|trials| trials.next_to_pin(false));
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

    /// Waits a moment for an observer that was abandoned, so that it leaves nothing; after the undo, which waits for
    /// nobody.
    pub(crate) fn settle(&mut self) {
        if self.memory.has_lost_observer && !self.memory.apart.settle(LAST_READING) {
            tracing::warn!(
                "the counters are still being read, and end with this process; if monitoring groups (resctrl) are \
                 left, `huddle restore` removes them"
            );
        }
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
        let stop = self.memory.apart.stop();
        match self.merger.as_mut().map(|merger| merger.merge(stop)) {
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
