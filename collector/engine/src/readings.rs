//! What a round reads of the host, on the reader thread ([`super::reader_thread`]), and what a plan is made from.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use huddle_host::discover::Discovery;
use huddle_host::numa;
use huddle_host::stages::{HostSource, Measurement, StageError};
use huddle_model::availability::Availability;
use huddle_model::event::EventKind;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::Observation;
use huddle_model::plan::{Applied, Plan, PlanInput, PlanLimits, PlanVm, Policy};
use huddle_model::text::counted;
use huddle_model::topology::Topology;
use huddle_model::trial::HostReading;
use huddle_model::vm::Vm;

use super::abandoned::{Abandoned, ENDING};
use super::{Engine, Events};

/// The VMs that may be placed, in the order of their matrix.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) vms: Arc<Vec<Vm>>,
    pub(super) matrix: Arc<SharingMatrix>,
}

impl Settled {
    /// What a plan says of the others among `all`.
    pub(super) fn waiting(&self, all: &[Vm]) -> Option<String> {
        let waiting = all.len() - self.vms.len();
        (waiting > 0).then(|| {
            format!(
                "{}: each is placed when it has been there for settle_s and no trial runs",
                counted(waiting, "new VM")
            )
        })
    }
}

/// Readings for a placement are abandoned at once when the loop is stopped.
const NO_GRACE: Duration = Duration::ZERO;

/// The last window is still read when the loop is stopped, if that takes no longer than this.
const LAST_WINDOW: Duration = Duration::from_millis(250);

impl Engine {
    /// Reads something of the host; `None` if the loop is stopped meanwhile.
    pub(super) fn ask_host<R: Send + 'static>(
        &mut self,
        ask: impl FnOnce(&mut (dyn HostSource + Send + 'static)) -> R + Send + 'static,
    ) -> Option<R> {
        self.memory.reader.run(NO_GRACE, &mut self.host, Box::new(Abandoned), ask)
    }

    /// Reads a fact of the host for a round whose changes are made: if the loop is stopped meanwhile it is unavailable,
    /// and the round is still published.
    pub(super) fn fact<R: Send + 'static>(
        &mut self,
        ask: impl FnOnce(&mut (dyn HostSource + Send + 'static)) -> Result<R, StageError> + Send + 'static,
    ) -> Availability<R> {
        self.ask_host(ask).map_or_else(|| Availability::Unavailable(ENDING.to_owned()), Availability::from)
    }

    /// Finds the VMs; `None` if the loop is stopped meanwhile.
    pub(super) fn discover(&mut self) -> Option<Result<Discovery, StageError>> {
        self.memory.reader.run(NO_GRACE, &mut self.vms, Box::new(Abandoned), |vms| vms.discover())
    }

    /// Fills in vCPUs that discovery could not identify, and returns notes about it; `None` if the loop is stopped
    /// meanwhile.
    pub(super) fn complete(&mut self, vms: &mut Vec<Vm>) -> Option<Vec<String>> {
        let Some(observer) = &mut self.observer else { return Some(Vec::new()) };
        let mut of = std::mem::take(vms);
        let completed = self.memory.reader.run(NO_GRACE, observer, Box::new(Abandoned), move |observer| {
            let notes = observer.complete(&mut of);
            (of, notes)
        });
        self.memory.has_abandoned_observer |= completed.is_none();
        let notes;
        (*vms, notes) = completed?;
        Some(notes)
    }

    /// Fills in the limits of vCPUs that became known last, and returns the notes about those that their owner bound
    /// which are new; `None` if the loop is stopped meanwhile.
    pub(super) fn find_limits(&mut self, vms: &mut Vec<Vm>) -> Option<Vec<String>> {
        let mut of = std::mem::take(vms);
        let found;
        (*vms, found) =
            self.memory.reader.run(NO_GRACE, &mut self.vms, Box::new(Abandoned), move |source| {
                let found = source.find_limits(&mut of);
                (of, found)
            })?;
        let mut notes: Vec<String> = found
            .err()
            .map(|error| format!("where vCPUs may run is not known: {error}"))
            .into_iter()
            .collect();
        notes.extend(vms.iter().flat_map(Vm::binding_notes));
        let now: BTreeSet<String> = notes.iter().cloned().collect();
        notes.retain(|note| !self.memory.reported_bindings.contains(note));
        self.memory.reported_bindings = now;
        Some(notes)
    }

    /// Measures what these VMs share; `None` if the loop is stopped meanwhile.
    pub(super) fn measure(&mut self, vms: &mut Vec<Vm>) -> Option<Result<Measurement, StageError>> {
        let of = std::mem::take(vms);
        let measured;
        (*vms, measured) =
            self.memory.reader.run(NO_GRACE, &mut self.sharing, Box::new(Abandoned), move |sharing| {
                let measured = sharing.measure(&of);
                (of, measured)
            })?;
        Some(measured)
    }

    /// The plan of a policy, which moves nothing while nothing is merged; `None` if the loop is stopped meanwhile (the
    /// optimum takes long to find).
    pub(super) fn plan(&mut self, policy: Policy, basis: Basis) -> Option<(Basis, Arc<Plan>)> {
        let mut merging = None;
        if policy.waits_for_merging(&basis.input(&self.limits)) {
            let vms = Arc::clone(&basis.vms);
            merging = Some(self.ask_host(move |host| host.merging(&vms))?);
        }
        let (limits, mut basis) = (self.limits.clone(), Box::new(Some(basis)));
        let plan = self.memory.reader.run(NO_GRACE, &mut basis, Box::new(None), move |basis| {
            basis.as_ref().map(|basis| {
                let input = basis.input(&limits);
                let mut plan = match merging {
                    Some(merging) => policy.plan_measured(&input, || merging),
                    None => policy.plan(&input),
                };
                plan.reasons.extend(basis.not_weighed(policy).map(str::to_owned));
                Arc::new(plan)
            })
        })??;
        Some((basis.take()?, plan))
    }

    /// What a plan is made from; `None` if the loop is stopped meanwhile.
    pub(super) fn basis(
        &mut self,
        vms: &Arc<Vec<Vm>>,
        matrix: &Arc<SharingMatrix>,
        topology: &Arc<Topology>,
        apart: Vec<(usize, usize)>,
    ) -> Option<Basis> {
        let seen = self.memory.view.as_ref().and_then(|view| view.observation.value());
        let mut places: Vec<PlanVm> = Vec::new();
        for vm in &**vms {
            let place = PlanVm::of(vm, topology);
            places.push(match seen {
                Some(seen) => place.observed(vm, seen),
                None => place,
            });
        }
        if self.limits.local_memory.is_some() {
            let vms = Arc::clone(vms);
            let node_pages = self.ask_host(move |host| {
                let of = |vm| numa::vm_node_pages(vm, |process| host.node_pages(process));
                vms.iter().map(of).collect::<Vec<_>>()
            })?;
            // Where it is not known, a reason in the plan says so.
            places.iter_mut().zip(node_pages).for_each(|(place, pages)| place.node_pages = pages);
        }
        let (by_weight, not_weighed) = matrix.to_plan_by(self.weigh);
        let matrix = match by_weight {
            Cow::Owned(by_weight) => Arc::new(by_weight),
            Cow::Borrowed(_) => Arc::clone(matrix),
        };
        let weighted = self.trials.as_ref().map(|trials| trials.weighted(&matrix));
        let (vms, topology) = (Arc::clone(vms), Arc::clone(topology));
        Some(Basis { vms, matrix, not_weighed, topology, places, weighted, apart })
    }

    /// The VMs that may be placed, with what they share: all of them, unless trials wait for some to last.
    pub(super) fn settled(&mut self, vms: &Arc<Vec<Vm>>, matrix: Arc<SharingMatrix>) -> Settled {
        let at = self.moment();
        let settled = self.trials.as_mut().map(|trials| trials.settled(at, vms, &self.limits));
        match settled.filter(|settled| settled.len() < vms.len()) {
            None => Settled { vms: Arc::clone(vms), matrix },
            Some(settled) => Settled {
                vms: Arc::new(settled.iter().map(|position| vms[*position].clone()).collect()),
                matrix: Arc::new(matrix.part(&settled)),
            },
        }
    }

    /// Finds the VMs that limits name, and reports a name that no longer identifies one: a limit without effect
    /// must not go unnoticed.
    pub(super) fn apply_limits(&mut self, matrix: &SharingMatrix, events: &mut Events) -> Applied {
        let applied = self.memory.named_vms.apply(&self.limits, matrix.vms());
        let new = applied.problems.iter().filter(|problem| !self.memory.limit_problems.contains(problem));
        events.extend(
            new.map(|problem| (EventKind::LimitLost, None, format!("a limit is not kept: {problem}"))),
        );
        self.memory.limit_problems.clone_from(&applied.problems);
        applied
    }

    /// What was observed since the last call, in the placement that was in force; from now on `vms` are
    /// observed. `None` if the loop is stopped and this takes longer than [`LAST_WINDOW`].
    pub(super) fn window(
        &mut self,
        vms: &Arc<Vec<Vm>>,
        topology: Option<&Arc<Topology>>,
    ) -> Option<Availability<Arc<Observation>>> {
        let Some(observer) = &mut self.observer else {
            return Some(Availability::Unavailable("no probes and no counters are set up".into()));
        };
        let (watched, on) = (Arc::clone(vms), topology.map(Arc::clone));
        let seen = self.memory.reader.run(LAST_WINDOW, observer, Box::new(Abandoned), move |observer| {
            observer.observe(&watched, on.as_deref())
        });
        self.memory.has_abandoned_observer |= seen.is_none();
        let seen = seen?;
        let placed_in = self.memory.view.as_ref().map_or(0, |view| view.round.number);
        let seen = seen.map(|seen| Observation { round: placed_in, ..seen });
        let at = self.moment();
        if self.trials.is_none() {
            return Some(seen.map(Arc::new));
        }
        let load_per_cpu = self.fact(|host| host.runnable_per_cpu()).value().copied();
        let ksm_run = self.fact(|host| host.ksm()).value().map(|ksm| ksm.run);
        let host = HostReading { load_per_cpu, ksm_run };
        Some(seen.map(|seen| match &mut self.trials {
            Some(trials) => Arc::new(trials.window(at, seen, host)),
            None => Arc::new(seen),
        }))
    }
}

/// What a plan is made from, besides the limits.
pub(super) struct Basis {
    vms: Arc<Vec<Vm>>,
    /// That of the shared frames that count.
    matrix: Arc<SharingMatrix>,
    /// Why these are not those that are to count.
    not_weighed: Option<String>,
    topology: Arc<Topology>,
    places: Vec<PlanVm>,
    /// The matrix with less weight for VMs that write to pages they share, where placements are tried.
    weighted: Option<SharingMatrix>,
    apart: Vec<(usize, usize)>,
}

impl Basis {
    /// Why other shared frames count than those that are to, for a policy that goes by them.
    pub(super) fn not_weighed(&self, policy: Policy) -> Option<&str> {
        self.not_weighed.as_deref().filter(|_| policy.goes_by_sharing())
    }

    pub(super) fn input<'b>(&'b self, limits: &'b PlanLimits) -> PlanInput<'b> {
        let input =
            PlanInput::new(self.weighted.as_ref().unwrap_or(&self.matrix), &self.topology, &self.places);
        let input = if self.weighted.is_some() { input.measured(&self.matrix) } else { input };
        input.apart(&self.apart).limits(limits)
    }
}
