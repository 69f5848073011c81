//! The loop: discover, measure, plan, pin and publish, after every complete pass of KSM.
//!
//! [`Engine`] knows the stages as the traits of [`huddle_host::stages`], so a test runs the whole loop on fakes and
//! a second hypervisor is a second set of implementations. One [`Engine::round`] is synchronous and
//! blocking, and returns what is new as a [`Step`] of updates; [`run`] runs rounds off the async threads and
//! passes each step on, and a [`publish::Publisher`] sends it to subscribers. A stage that fails makes its part
//! of the round unavailable, with the reason, and the loop goes on; only a failed undo is an error of its own.

mod abandoned;
pub mod attach;
pub mod backend;
pub mod command;
mod drive;
mod host_stages;
mod progress;
pub mod publish;
mod reader_thread;
mod readings;
mod replacement;
mod trials;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::event::{Event, EventKind};
use huddle_model::left_out::LeftOutVms;
use huddle_model::matrix::Weigh;
use huddle_model::observation::Observation;
use huddle_model::pinning::Pinning;
use huddle_model::plan::{NamedVms, Plan, PlanLimits, Policy};
use huddle_model::text::plain;
use huddle_model::trial::{Comparison, Decision, Moment, Phase};
use huddle_model::update::{Round, Step, Update};
use huddle_model::view::View;
use huddle_model::vm::{Uuid, Vm, VmId, VmRef};
use tokio::sync::mpsc;

use self::reader_thread::ReaderThread;
pub use drive::{RunEnd, RunOptions, SHORTEST_WINDOW, WITHOUT_PASSES, run};
pub use host_stages::{HostContents, HostFacts, HostSharing, HostVms};
pub use progress::{Progress, StepsSoFar};
pub use replacement::{Replacement, Sources};
pub use trials::TrialRunner;

use huddle_host::stages::{
    Clock, HostSource, Observer, PageMerger, Pinner, SharingSource, Unmeasured, VmSource,
};
use huddle_host::stop::Stop;

use huddle_host::pin::UndoReport;

/// How long the process waits, after the undo, for an abandoned observer.
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
    /// Reads facts of the host.
    pub host: Box<dyn HostSource + Send>,
    /// Watches the VMs between rounds; `None` where nothing is to be watched.
    pub observer: Option<Box<dyn Observer + Send>>,
    /// Sets affinities; may be `None` when `apply` is false.
    pub pinner: Option<Box<dyn Pinner + Send>>,
    /// False for a dry run: everything but the pinning.
    pub apply: bool,
    /// Reads the time.
    pub clock: Box<dyn Clock + Send>,
    /// How VMs are placed.
    pub policy: Policy,
    /// Which shared frames count.
    pub weigh: Weigh,
    /// Limits for every plan.
    pub limits: PlanLimits,
    /// Tries what the policy proposes; `None` to pin it at once.
    pub trials: Option<TrialRunner>,
    /// What the loop remembers between rounds.
    pub memory: Memory,
}

/// What the loop remembers between rounds.
#[derive(Debug, Default)]
pub struct Memory {
    round: u64,
    known: BTreeMap<(String, VmId), Option<Uuid>>,
    /// The VMs that were not measured in the last round.
    unmeasured: Vec<Unmeasured>,
    /// Which VMs the names in limits mean.
    named_vms: NamedVms,
    /// What was wrong with them in the last round.
    limit_problems: Vec<String>,
    /// Notes about vCPUs that their owner bound, as of the last round.
    reported_bindings: BTreeSet<String>,
    /// The vCPUs that are bound to a domain by what was pinned last.
    in_force: Arc<Assignment>,
    /// Why the last plan moved nothing yet.
    waiting: Option<String>,
    /// Why other shared frames count than those that are to, as of the last round.
    not_weighed: Option<String>,
    /// Least time from the begin of the last round to that of the next, so that measuring keeps its share of a CPU.
    least_interval: Duration,
    /// Everything published so far.
    view: Option<View>,
    /// Reads the host, so that the end need not wait for it.
    reader: ReaderThread,
    /// Whether a viewer had everything undone and nothing applied since: then nothing is merged either.
    is_restored: bool,
    /// Whether the observer was abandoned; it has monitoring groups to remove.
    has_abandoned_observer: bool,
    /// Other settings that are to be put in force; `None` where there can be none.
    replacements: Option<mpsc::Receiver<Replacement>>,
}

impl Memory {
    /// For a simulated host, whose readings cannot hang: they are made on the thread of the loop, which saves most of
    /// the time of a simulated window.
    pub fn of_simulated_host() -> Self {
        Self { reader: ReaderThread::inline(), ..Self::default() }
    }

    /// A flag that stops the loop of this memory: a round in progress is abandoned.
    pub fn stop(&self) -> Stop {
        self.reader.stop().clone()
    }

    /// Whether the loop of this memory moves on.
    pub fn progress(&self) -> Progress {
        self.reader.progress().clone()
    }
}

impl Engine {
    /// A flag that stops the loop: a round in progress is abandoned with its readings.
    pub fn stop(&self) -> Stop {
        self.memory.stop()
    }

    /// Runs all stages once. The window of observation that ends just before pinning is part of the same step,
    /// so that no window holds two placements.
    ///
    /// The step is empty, and nothing is pinned, if the round is abandoned because the loop is stopped.
    pub fn round(&mut self) -> Step {
        self.try_round().unwrap_or_default()
    }

    /// `None` if the loop is stopped meanwhile.
    fn try_round(&mut self) -> Option<Step> {
        self.memory.round += 1;
        self.memory.least_interval = Duration::ZERO;
        let begin_unix_us = self.clock.now_unix_us();
        let mut events = Vec::new();

        let topology = self.ask_host(|host| host.topology())?;
        let topology = Availability::from(topology).map(Arc::new);
        let (mut vms, left_out) = match self.discover()? {
            Ok(found) => {
                events.extend(found.notes.into_iter().map(|note| (EventKind::VmVanished, None, note)));
                let left_out = found.left_out.iter().map(|left| (&*left.name, left.id, &*left.reason));
                (found.vms, Availability::Available(LeftOutVms::of(left_out)))
            }
            Err(error) => (Vec::new(), Availability::Unavailable(error.to_string())),
        };
        let vms_reason = left_out.reason().map(str::to_owned);
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
                    self.memory.least_interval = measured.least_interval;
                    self.leave_out(measured.unmeasured, &mut vms, &mut events);
                    events.extend(measured.notes.into_iter().map(|note| (EventKind::Note, None, note)));
                    Availability::Available(Arc::new(measured.matrix))
                }
                Err(error) => Availability::Unavailable(error.to_string()),
            },
        };
        // If discovery failed, it is not known which VMs appeared or vanished.
        if vms_reason.is_none() {
            self.add_vm_events(&vms, &mut events);
        }

        let vms = Arc::new(vms);
        let settled = matrix.clone().map(|matrix| self.settled(&vms, matrix));
        let applied = settled.value().map(|settled| self.apply_limits(&settled.matrix, &mut events));
        let basis = match (&settled, &topology) {
            (Availability::Available(settled), Availability::Available(topology)) => {
                let apart = applied.map(|applied| applied.apart).unwrap_or_default();
                Availability::Available(self.basis(&settled.vms, &settled.matrix, topology, apart)?)
            }
            (Availability::Unavailable(reason), _) | (_, Availability::Unavailable(reason)) => {
                Availability::Unavailable(format!("planning needs sharing and topology: {reason}"))
            }
        };
        let (basis, plan) = match basis {
            Availability::Available(basis) => {
                let (basis, mut plan) = self.plan(self.policy, basis)?;
                events.extend(self.new_waiting(&plan).map(|note| (EventKind::Note, None, note)));
                let not_weighed = basis.not_weighed(self.policy).map(str::to_owned);
                events.extend(self.new_not_weighed(not_weighed).map(|note| (EventKind::Note, None, note)));
                if let Some(reason) = settled.value().and_then(|settled| settled.waiting(&vms)) {
                    Arc::make_mut(&mut plan).reasons.push(reason);
                }
                (Availability::Available(basis), Availability::Available(plan))
            }
            Availability::Unavailable(reason) => {
                (Availability::Unavailable(reason.clone()), Availability::Unavailable(reason))
            }
        };
        let observation = self.window(&vms, topology.value())?;
        let at = self.moment();
        if self.memory.reader.stop().is_set() {
            return None;
        }
        let wanted = match (&mut self.trials, settled.value(), &basis, &plan) {
            (Some(trials), Some(settled), Availability::Available(basis), Availability::Available(plan)) => {
                let input = basis.input(&self.limits);
                // Nothing was pinned since the affinities were read.
                let placed = &self.memory.in_force;
                let shared = &settled.matrix;
                trials.round(at, self.memory.round, (&settled.vms, shared), placed, input, plan, !self.apply);
                self.apply.then(|| trials.next_to_pin(true)).flatten()
            }
            _ => None,
        };
        let to_pin = wanted.map_or_else(|| plan.clone(), |plan| Availability::Available(Arc::new(plan)));
        let pinning = self.pin_and_report(&vms, &to_pin, &mut events);
        let decisions = self.new_decisions();

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
            ksm: self.fact(|host| host.ksm()),
            topology,
            vms,
            left_out,
            matrix,
            plan,
            pinning,
            in_force: Arc::clone(&self.memory.in_force),
            events: events_at(end_unix_us, events),
            own_cpu_us: self.fact(|host| host.own_cpu_us()),
        };
        Some(self.emit_round(round, observation, decisions))
    }

    /// Ends a window of observation, and switches to another placement where a trial asks for it. `None`
    /// before the first round, without an observer, and if the loop is stopped and reading takes too long.
    pub fn observe(&mut self) -> Option<Step> {
        let View { round: last, pinning: before, .. } = self.memory.view.clone()?;
        self.observer.as_ref()?;
        let observation = self.window(&last.vms, last.topology.value())?;
        let mut updates = vec![Update::Window(observation)];
        let mut events = Vec::new();
        // When the loop is stopped nothing is pinned any more: everything is about to be undone.
        let may_pin = self.apply && !self.memory.reader.stop().is_set();
        let to_pin = self.trials.as_mut().filter(|_| may_pin).and_then(|trials| trials.next_to_pin(false));
        if let Some(plan) = to_pin {
            // A switch within a trial is not an event; the decision at its end is.
            let (pinning, skipped) = self.pin(&last.vms, &Availability::Available(Arc::new(plan)));
            events.extend(skipped);
            let failure = pinning.failure().filter(|_| before.outcome().is_some());
            events.extend(failure.map(|reason| unavailable_event("pinning", reason)));
            updates.push(self.switched(pinning));
        }
        Some(self.emit(updates, events))
    }

    /// The step of a round: the round, the window that ended in it, and the decisions made in it.
    fn emit_round(
        &mut self,
        round: Round,
        observation: Availability<Arc<Observation>>,
        decisions: Vec<Decision>,
    ) -> Step {
        let window = Update::Window(observation);
        let mut updates = match &self.memory.view {
            // The window ended before the placement was changed.
            Some(view) => {
                vec![window, Update::Round(Arc::new(round.sharing_parts_with(&view.round)))]
            }
            None => vec![Update::Round(Arc::new(round)), window],
        };
        updates.extend(self.changed_comparison());
        updates.extend(decisions.into_iter().map(Update::Decision));
        self.apply_updates(updates)
    }

    /// A step between rounds, with the decisions made meanwhile.
    fn emit(&mut self, mut updates: Vec<Update>, events: Events) -> Step {
        let decisions = self.new_decisions();
        updates.extend(self.changed_comparison());
        updates.extend(events_at(self.clock.now_unix_us(), events).into_iter().map(Update::Event));
        updates.extend(decisions.into_iter().map(Update::Decision));
        self.apply_updates(updates)
    }

    fn apply_updates(&mut self, updates: Vec<Update>) -> Step {
        View::follow(&mut self.memory.view, &updates);
        updates.into()
    }

    /// Passes are no longer reported: without rounds a trial cannot be supervised, so it is aborted.
    pub(crate) fn trigger_failed(&mut self, what: &str) -> Option<Step> {
        let last = Arc::clone(&self.memory.view.as_ref()?.round);
        let at = self.moment();
        let mut events = vec![(EventKind::StageFailed, None, what.to_owned())];
        let mut updates = Vec::new();
        if self.is_trying() {
            let to_pin = self.trials.as_mut().and_then(|trials| {
                trials.abort(at, what);
                trials.next_to_pin(false)
            });
            if let Some(plan) = to_pin {
                let plan = Availability::Available(Arc::new(plan));
                let pinning = self.pin_and_report(&last.vms, &plan, &mut events);
                updates.push(self.switched(pinning));
            }
        }
        Some(self.emit(updates, events))
    }

    /// Reports something once, as an event between rounds; nothing before the first round.
    pub(crate) fn note(&mut self, what: String) -> Option<Step> {
        self.memory.view.as_ref()?;
        Some(self.emit(Vec::new(), vec![(EventKind::Note, None, what)]))
    }

    fn switched(&self, pinning: Pinning) -> Update {
        Update::Switch { pinning, in_force: Arc::clone(&self.memory.in_force) }
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
        let least = least.max(self.memory.least_interval);
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
        // Earlier decisions stay visible.
        match trials.has_decided() {
            true => Availability::Available(resting),
            false => Availability::Unavailable(resting.phase.to_string()),
        }
    }

    /// The state of the trial, if it differs from what was published last.
    fn changed_comparison(&mut self) -> Option<Update> {
        let now = self.comparison();
        let is_unchanged = match (&now, self.memory.view.as_ref().map(|view| &view.comparison)) {
            (Availability::Available(now), Some(Availability::Available(last))) => *now == **last,
            (Availability::Unavailable(now), Some(Availability::Unavailable(last))) => now == last,
            _ => false,
        };
        (!is_unchanged).then(|| Update::Comparison(now.map(Arc::new)))
    }

    /// Decisions that were not reported yet.
    fn new_decisions(&mut self) -> Vec<Decision> {
        self.trials.as_mut().map(TrialRunner::new_decisions).unwrap_or_default()
    }

    /// Waits a moment for an abandoned observer, so that it can remove its monitoring groups. Called after the undo,
    /// which waits for nothing.
    pub(crate) fn settle(&mut self) {
        if self.memory.has_abandoned_observer && !self.memory.reader.settle(LAST_READING) {
            tracing::warn!(
                "the counters are still being read until this process ends; if monitoring groups (resctrl) are left, \
                 `huddle restore` removes them"
            );
        }
    }

    /// Undoes every change; `None` if the loop could not change anything.
    pub fn undo(&mut self) -> Option<UndoReport> {
        let pinned = self.pinner.as_mut().map(|pinner| pinner.undo());
        // Which vCPUs failed is not known one by one.
        if pinned.as_ref().is_none_or(|report| report.failures.is_empty()) {
            self.memory.in_force = Arc::default();
        }
        let merged = self.merger.as_mut().map(|merger| merger.undo());
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

    /// Merges equal pages of VMs, unless that was undone and is to stay so; returns notes about it.
    fn merge(&mut self) -> Vec<String> {
        let stop = self.memory.reader.stop();
        let merger = self.merger.as_mut().filter(|_| !self.memory.is_restored);
        match merger.map(|merger| merger.merge(stop)) {
            None => Vec::new(),
            Some(Ok(notes)) => notes,
            Some(Err(error)) => vec![format!("merging ended early: {error}")],
        }
    }

    /// Removes the VMs that were not measured, which no plan may contain. An event says so, and not again while
    /// the reason stays the same.
    fn leave_out(&mut self, unmeasured: Vec<Unmeasured>, vms: &mut Vec<Vm>, events: &mut Events) {
        let before = std::mem::take(&mut self.memory.unmeasured);
        for left_out in unmeasured {
            let vm = vms.iter().find(|vm| vm.name == left_out.vm).map(Vm::reference);
            let vm = vm.unwrap_or_else(|| VmRef::named(left_out.vm.clone()));
            vms.retain(|vm| vm.name != left_out.vm);
            let kind = if left_out.is_gone { EventKind::VmVanished } else { EventKind::Note };
            if !before.contains(&left_out) {
                events.push((kind, Some(vm), format!("{} is left out: {}", left_out.vm, left_out.reason)));
            }
            self.memory.unmeasured.push(left_out);
        }
    }

    fn add_vm_events(&mut self, vms: &[Vm], events: &mut Events) {
        let now: BTreeMap<_, _> = vms.iter().map(|vm| ((vm.name.clone(), vm.id), vm.uuid)).collect();
        let mut add = |kind, ((name, id), uuid): (&(String, VmId), &Option<Uuid>), what| {
            let vm = VmRef { name: name.clone(), id: Some(*id), uuid: *uuid };
            events.push((kind, Some(vm), format!("{name} ({id}) {what}")));
        };
        for vm in now.iter().filter(|(vm, _)| !self.memory.known.contains_key(*vm)) {
            add(EventKind::VmAppeared, vm, "was found");
        }
        for vm in self.memory.known.iter().filter(|(vm, _)| !now.contains_key(*vm)) {
            add(EventKind::VmVanished, vm, "is gone");
        }
        self.memory.known = now;
    }

    /// Why the plan moves nothing yet, unless that was reported for the last round too.
    fn new_waiting(&mut self, plan: &Plan) -> Option<String> {
        let is_new = self.memory.waiting != plan.waiting;
        self.memory.waiting.clone_from(&plan.waiting);
        plan.waiting.clone().filter(|_| is_new)
    }

    /// Why the plan counts other shared frames than it is to, unless that was reported for the last round too.
    fn new_not_weighed(&mut self, now: Option<String>) -> Option<String> {
        let is_new = self.memory.not_weighed != now;
        self.memory.not_weighed.clone_from(&now);
        now.filter(|_| is_new)
    }

    /// Pins, and adds events for what was moved and skipped.
    fn pin_and_report(&mut self, vms: &[Vm], plan: &Availability<Arc<Plan>>, events: &mut Events) -> Pinning {
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

    /// Pins, unless this is a dry run; also returns an event for each vCPU that was skipped.
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
                self.memory.in_force = Arc::new(match plan.waiting {
                    None => report.in_force,
                    // A plan that waits leaves in place what was pinned before.
                    Some(_) => report.in_force.over(&self.memory.in_force),
                });
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

/// Events without a time.
type Events = Vec<EventNow>;
type EventNow = (EventKind, Option<VmRef>, String);

fn unavailable_event(stage: &str, reason: &str) -> EventNow {
    (EventKind::StageFailed, None, format!("{stage} is unavailable: {reason}"))
}

/// Events as they are published: each message is one plain line.
fn events_at(at_unix_us: u64, events: Events) -> Vec<Event> {
    let plain = |message: String| plain(&message).into_owned();
    let event = |(kind, vm, message)| Event { at_unix_us, kind, vm, message: plain(message) };
    events.into_iter().map(event).collect()
}

#[cfg(test)]
mod tests;
