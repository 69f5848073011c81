//! The loop: discover, measure, plan, pin, and tell about it, after every complete pass of KSM.
//!
//! [`Engine`] knows the stages as the traits of [`huddle_host::stages`], so a test runs the whole loop on fakes and
//! a second hypervisor is a second set of implementations. One [`Engine::round`] is synchronous and
//! blocking; [`run`] drives rounds off the async threads and publishes each [`Snapshot`] on a watch
//! channel. A stage that fails makes its part of the snapshot unavailable, with the reason, and the
//! loop goes on; only a failed undo is an error of its own.

pub mod attach;
pub mod backend;
pub mod command;
mod drive;
mod events_sharing;
mod host_stages;
mod trying;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::{Observation, ProgramCost, ProgramObservation};
use huddle_model::plan::{Plan, PlanInput, PlanLimits, PlanVm, Policy};
use huddle_model::snapshot::{Event, EventKind, PinOutcome, Snapshot};
use huddle_model::topology::Topology;
use huddle_model::trial::{Comparison, HostReading, Moment};
use huddle_model::vm::{TaskId, Vm};

pub use drive::{RunEnd, RunOptions, run};
pub use events_sharing::{EventsSharing, RESCAN_ROUNDS};
pub use host_stages::{HostContents, HostFacts, HostSharing, HostVms};
pub use trying::Trying;

use huddle_host::numa;
use huddle_host::stages::{Clock, HostSource, Observer, PageMerger, Pinner, SharingSource, VmSource};

use huddle_host::pin::UndoReport;

/// Why nothing is pinned in a dry run.
pub const DRY_RUN: &str = "dry run: affinities are left as they are";

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
    pub trying: Option<Trying>,
    /// What earlier rounds saw.
    pub memory: Memory,
}

/// What the loop remembers between rounds.
#[derive(Debug, Default)]
pub struct Memory {
    round: u64,
    known: BTreeSet<(String, TaskId)>,
    /// What the BPF programs of the sharing stage had cost at the last window.
    sharing_cost: ProgramCost,
    /// What was published last: windows of observation are told with it.
    last: Option<Arc<Snapshot>>,
}

impl Engine {
    /// One time through all stages. The window of observation that ends just before pinning is told with
    /// it, so that no window holds two placements.
    pub fn round(&mut self) -> Arc<Snapshot> {
        self.memory.round += 1;
        let begin_unix_us = self.clock.now_unix_us();
        let mut events = Vec::new();

        let topology: Availability<_> = self.host.topology().into();
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
                        vms.retain(|vm| vm.name != vanished.vm);
                        events.push((EventKind::VmVanished, Some(vanished.vm), vanished.reason));
                    }
                    events.extend(measured.notes.into_iter().map(|note| (EventKind::Note, None, note)));
                    Availability::Available(measured.matrix)
                }
                Err(error) => Availability::Unavailable(error.to_string()),
            },
        };
        // When VMs cannot be looked for, nobody knows who came or went.
        if vms_reason.is_none() {
            self.note_comings_and_goings(&vms, &mut events);
        }

        let basis = match (&matrix, &topology) {
            (Availability::Available(matrix), Availability::Available(topology)) => {
                Availability::Available(self.basis(&vms, matrix, topology))
            }
            (Availability::Unavailable(reason), _) | (_, Availability::Unavailable(reason)) => {
                Availability::Unavailable(format!("there is nothing to plan with: {reason}"))
            }
        };
        let plan = basis.as_ref().map(|basis| self.policy.plan(&basis.input(&self.limits)));
        let observation = self.window(&vms, topology.value());
        let at = self.moment();
        let wanted = match (&mut self.trying, &basis, &plan) {
            (Some(trying), Availability::Available(basis), Availability::Available(plan)) => {
                let input = basis.input(&self.limits);
                trying.round(at, self.memory.round, &vms, input, plan, !self.apply);
                self.apply.then(|| trying.next_to_pin(true)).flatten()
            }
            _ => None,
        };
        let to_pin = wanted.map_or_else(|| plan.clone(), Availability::Available);
        let pinned = self.pin(&vms, &to_pin, &mut events);
        events.extend(self.decisions());

        for (stage, reason) in [
            ("topology", topology.reason()),
            ("discovery", vms_reason.as_deref()),
            ("sharing", matrix.reason()),
            ("pinning", pinned.reason().filter(|reason| *reason != DRY_RUN)),
        ] {
            let message = reason.map(|reason| format!("{stage} is unavailable: {reason}"));
            events.extend(message.map(|message| (EventKind::StageFailed, None, message)));
        }
        let end_unix_us = self.clock.now_unix_us();
        let snapshot = Arc::new(Snapshot {
            round: self.memory.round,
            begin_unix_us,
            end_unix_us,
            ksm: self.host.ksm().into(),
            topology,
            vms,
            matrix,
            plan,
            pinned,
            observation,
            comparison: self.comparison(),
            events: events
                .into_iter()
                .map(|(kind, vm, message)| Event { at_unix_us: end_unix_us, kind, vm, message })
                .collect(),
            own_cpu_us: self.host.own_cpu_us().into(),
        });
        self.memory.last = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// Ends a window of observation: the last snapshot with what was seen since. `None` before the first
    /// round, and where nothing is watched.
    pub fn observe(&mut self) -> Option<Arc<Snapshot>> {
        let last = self.memory.last.clone()?;
        self.observer.as_ref()?;
        let observation = self.window(&last.vms, last.topology.value());
        let to_pin = self.trying.as_mut().filter(|_| self.apply).and_then(|trying| trying.next_to_pin(false));
        let mut news = Vec::new();
        let pinned = match to_pin {
            Some(plan) => self.pin(&last.vms, &Availability::Available(plan), &mut news),
            None => last.pinned.clone(),
        };
        if let Some(reason) =
            pinned.reason().filter(|reason| *reason != DRY_RUN && last.pinned.value().is_some())
        {
            news.push((EventKind::StageFailed, None, format!("pinning is unavailable: {reason}")));
        }
        // A switch within a trial is not told one by one: the decision at its end is.
        news.retain(|(kind, ..)| *kind != EventKind::Pinned);
        news.extend(self.decisions());
        let at_unix_us = self.clock.now_unix_us();
        let news = news.into_iter().map(|(kind, vm, message)| Event { at_unix_us, kind, vm, message });
        let snapshot = Arc::new(Snapshot {
            observation,
            pinned,
            comparison: self.comparison(),
            events: last.events.iter().cloned().chain(news).collect(),
            own_cpu_us: self.host.own_cpu_us().into(),
            ..Snapshot::clone(&last)
        });
        self.memory.last = Some(Arc::clone(&snapshot));
        Some(snapshot)
    }

    /// What a plan is made from.
    fn basis<'a>(&mut self, vms: &[Vm], matrix: &'a SharingMatrix, topology: &'a Topology) -> Basis<'a> {
        let seen = self.memory.last.as_ref().and_then(|last| last.observation.value());
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
        let weighted = self.trying.as_ref().map(|trying| trying.weighted(matrix));
        Basis { matrix, topology, places, weighted, apart: self.limits.pairs_apart(matrix) }
    }

    /// What was seen since the last call, in the placement that was in force; from now on `vms` are
    /// watched.
    fn window(&mut self, vms: &[Vm], topology: Option<&Topology>) -> Availability<Observation> {
        let Some(observer) = &mut self.observer else {
            return Availability::Unavailable("no probes and no counters are set up".into());
        };
        let placed_in = self.memory.last.as_ref().map_or(0, |last| last.round);
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
        let Some(trying) = &mut self.trying else { return seen };
        let host = HostReading {
            load_per_cpu: self.host.runnable_per_cpu().ok(),
            ksm_run: self.host.ksm().ok().map(|ksm| ksm.run),
        };
        seen.map(|seen| trying.window(at, seen, host))
    }

    /// No pass will be told any more: a trial, which cannot be guarded then, ends, and all hear of it.
    pub(crate) fn blinded(&mut self, what: &str) -> Option<Arc<Snapshot>> {
        let last = self.memory.last.clone()?;
        let at = self.moment();
        let mut news = vec![(EventKind::StageFailed, None, what.to_owned())];
        let mut pinned = last.pinned.clone();
        if self.is_trying() {
            let to_pin = self.trying.as_mut().and_then(|trying| {
                trying.broken_off(at, what);
                trying.next_to_pin(false)
            });
            if let Some(plan) = to_pin {
                pinned = self.pin(&last.vms, &Availability::Available(plan), &mut news);
            }
        }
        news.extend(self.decisions());
        let news =
            news.into_iter().map(|(kind, vm, message)| Event { at_unix_us: at.unix_us, kind, vm, message });
        let events = last.events.iter().cloned().chain(news).collect();
        let comparison = self.comparison();
        let snapshot = Arc::new(Snapshot { pinned, comparison, events, ..Snapshot::clone(&last) });
        self.memory.last = Some(Arc::clone(&snapshot));
        Some(snapshot)
    }

    fn moment(&self) -> Moment {
        Moment { now: self.clock.monotonic(), unix_us: self.clock.now_unix_us() }
    }

    /// Whether a trial runs, so that windows between rounds are needed.
    pub(crate) fn is_trying(&self) -> bool {
        self.trying.as_ref().is_some_and(Trying::is_trying)
    }

    /// Least time between the begins of two rounds: `least`, or longer while sharing does not change.
    pub fn interval(&self, least: Duration) -> Duration {
        self.trying.as_ref().map_or(least, |trying| trying.interval().max(least))
    }

    fn comparison(&mut self) -> Availability<Comparison> {
        match &mut self.trying {
            // What was decided earlier stays told.
            Some(trying) if !self.apply => match trying.comparison(Some(DRY_RUN)) {
                comparison if comparison.decisions.is_empty() => Availability::Unavailable(comparison.phase),
                comparison => Availability::Available(comparison),
            },
            Some(trying) => Availability::Available(trying.comparison(None)),
            None => Availability::Unavailable("placements are not tried against each other (--trial)".into()),
        }
    }

    /// Decisions that are to be told.
    fn decisions(&mut self) -> Events {
        let lines = self.trying.as_mut().map(Trying::news).unwrap_or_default();
        lines.into_iter().map(|line| (EventKind::Note, None, line)).collect()
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
        let now: BTreeSet<_> = vms.iter().map(|vm| (vm.name.clone(), vm.process)).collect();
        for (name, process) in now.difference(&self.memory.known) {
            events.push((
                EventKind::VmAppeared,
                Some(name.clone()),
                format!("{name} (process {process}) was found"),
            ));
        }
        for (name, process) in self.memory.known.difference(&now) {
            events.push((
                EventKind::VmVanished,
                Some(name.clone()),
                format!("{name} (process {process}) is gone"),
            ));
        }
        self.memory.known = now;
    }

    fn pin(
        &mut self,
        vms: &[Vm],
        plan: &Availability<Plan>,
        events: &mut Events,
    ) -> Availability<PinOutcome> {
        let Some(pinner) = self.pinner.as_mut().filter(|_| self.apply) else {
            return Availability::Unavailable(DRY_RUN.into());
        };
        let plan = match plan {
            Availability::Available(plan) => plan,
            Availability::Unavailable(reason) => return Availability::Unavailable(reason.clone()),
        };
        let pinned = match pinner.apply(vms, plan) {
            Ok(report) => {
                let outcome = report.outcome;
                events.extend(report.notes.into_iter().map(|note| (EventKind::PinSkipped, None, note)));
                if outcome.changed > 0 {
                    let message = format!(
                        "policy {}: {} vCPU threads moved, {} already in place",
                        plan.policy, outcome.changed, outcome.unchanged
                    );
                    events.push((EventKind::Pinned, None, message));
                }
                Availability::Available(outcome)
            }
            Err(error) => Availability::Unavailable(error.to_string()),
        };
        let at = self.moment();
        if let Some(trying) = &mut self.trying {
            trying.pinned(at, &pinned);
        }
        pinned
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

/// Events of a round that have no time yet.
type Events = Vec<(EventKind, Option<String>, String)>;

#[cfg(test)]
use huddle_host::HostRoot;
#[cfg(test)]
use huddle_record::{RunAbout, new_manifest};
#[cfg(test)]
#[expect(dead_code, reason = "other crates' tests use the rest")]
#[path = "../../record/src/sample.rs"]
mod sample;
#[cfg(test)]
#[expect(dead_code, reason = "other crates' tests use the rest")]
#[path = "../../record/src/sample_observed.rs"]
mod sample_observed;
#[cfg(test)]
mod tests;
