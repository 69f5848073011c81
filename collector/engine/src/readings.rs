//! What a round reads of the host, apart from the thread of the engine ([`super::apart`]), and what a plan is made
//! from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use huddle_host::discover::Discovery;
use huddle_host::numa;
use huddle_host::stages::{HostSource, Measurement, StageError};
use huddle_model::availability::Availability;
use huddle_model::event::EventKind;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::{Observation, ProgramCost, ProgramObservation};
use huddle_model::plan::{Applied, Plan, PlanInput, PlanLimits, PlanVm, Policy};
use huddle_model::topology::Topology;
use huddle_model::trial::HostReading;
use huddle_model::vm::Vm;

use super::lost::Lost;
use super::{Engine, Events};

/// What is read for a placement is of no use when the loop is to end.
const AT_ONCE: Duration = Duration::ZERO;

/// What was seen since the last window is told at the end, if reading it takes no longer than this.
const LAST_WINDOW: Duration = Duration::from_millis(250);

/// What the BPF programs of the sharing stage are called together, in windows.
const SHARING_PROGRAMS: &str = "sharing_events";

impl Engine {
    /// Asks the host for something; `None` where the loop is to end meanwhile.
    pub(super) fn ask_host<R: Send + 'static>(
        &mut self,
        ask: impl FnOnce(&mut (dyn HostSource + Send + 'static)) -> R + Send + 'static,
    ) -> Option<R> {
        self.memory.apart.run(AT_ONCE, &mut self.host, Box::new(Lost), ask)
    }

    /// The VMs there are; `None` where the loop is to end meanwhile.
    pub(super) fn discover(&mut self) -> Option<Result<Discovery, StageError>> {
        self.memory.apart.run(AT_ONCE, &mut self.vms, Box::new(Lost), |vms| vms.discover())
    }

    /// Fills in vCPUs that discovery could not tell, and gives what is to be said of it; `None` where the loop is to
    /// end meanwhile.
    pub(super) fn complete(&mut self, vms: &mut Vec<Vm>) -> Option<Vec<String>> {
        let Some(observer) = &mut self.observer else { return Some(Vec::new()) };
        let mut of = std::mem::take(vms);
        let completed = self.memory.apart.run(AT_ONCE, observer, Box::new(Lost), move |observer| {
            let notes = observer.complete(&mut of);
            (of, notes)
        });
        self.memory.has_lost_observer |= completed.is_none();
        let notes;
        (*vms, notes) = completed?;
        Some(notes)
    }

    /// Fills in the limits of vCPUs that became known last, and returns the notes about those that their owner bound
    /// which are new; `None` where the loop is to end meanwhile.
    pub(super) fn find_limits(&mut self, vms: &mut Vec<Vm>) -> Option<Vec<String>> {
        let mut of = std::mem::take(vms);
        let found;
        (*vms, found) = self.memory.apart.run(AT_ONCE, &mut self.vms, Box::new(Lost), move |source| {
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

    /// What these VMs share; `None` where the loop is to end meanwhile.
    pub(super) fn measure(&mut self, vms: &mut Vec<Vm>) -> Option<Result<Measurement, StageError>> {
        let of = std::mem::take(vms);
        let measured;
        (*vms, measured) =
            self.memory.apart.run(AT_ONCE, &mut self.sharing, Box::new(Lost), move |sharing| {
                let measured = sharing.measure(&of);
                (of, measured)
            })?;
        Some(measured)
    }

    /// What a policy makes of it; `None` where the loop is to end meanwhile: the optimum takes long to find.
    pub(super) fn plan(&mut self, policy: Policy, basis: Basis) -> Option<(Basis, Arc<Plan>)> {
        let (limits, mut basis) = (self.limits.clone(), Box::new(Some(basis)));
        let plan = self.memory.apart.run(AT_ONCE, &mut basis, Box::new(None), move |basis| {
            basis.as_ref().map(|basis| Arc::new(policy.plan(&basis.input(&limits))))
        })??;
        Some((basis.take()?, plan))
    }

    /// What a plan is made from; `None` where the loop is to end meanwhile.
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
            // Where it is not known a reason of the plan says so.
            places.iter_mut().zip(node_pages).for_each(|(place, pages)| place.node_pages = pages);
        }
        let weighted = self.trials.as_ref().map(|trials| trials.weighted(matrix));
        Some(Basis { matrix: Arc::clone(matrix), topology: Arc::clone(topology), places, weighted, apart })
    }

    /// Finds the VMs that limits name, and reports when one cannot be told any more: a limit that holds for
    /// nobody must not pass unnoticed.
    pub(super) fn apply_limits(&mut self, matrix: &SharingMatrix, events: &mut Events) -> Applied {
        let applied = self.memory.bearers.apply(&self.limits, matrix.vms());
        let new = applied.problems.iter().filter(|problem| !self.memory.limit_problems.contains(problem));
        events.extend(
            new.map(|problem| (EventKind::LimitLost, None, format!("a limit is not kept: {problem}"))),
        );
        self.memory.limit_problems.clone_from(&applied.problems);
        applied
    }

    /// What was seen since the last call, in the placement that was in force; from now on `vms` are
    /// watched. `None` where the loop is to end and this takes longer than the end may.
    pub(super) fn window(
        &mut self,
        vms: &Arc<Vec<Vm>>,
        topology: Option<&Arc<Topology>>,
    ) -> Option<Availability<Arc<Observation>>> {
        let Some(observer) = &mut self.observer else {
            return Some(Availability::Unavailable("no probes and no counters are set up".into()));
        };
        let (watched, on) = (Arc::clone(vms), topology.map(Arc::clone));
        let seen = self.memory.apart.run(LAST_WINDOW, observer, Box::new(Lost), move |observer| {
            observer.observe(&watched, on.as_deref())
        });
        self.memory.has_lost_observer |= seen.is_none();
        let seen = seen?;
        let placed_in = self.memory.view.as_ref().map_or(0, |view| view.round.number);
        let sharing_cost = self.sharing.programs_cost();
        let before = std::mem::replace(&mut self.memory.sharing_cost, sharing_cost.unwrap_or_default());
        let seen = seen.map(|mut seen| {
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
        let Some(trials) = &mut self.trials else { return Some(seen.map(Arc::new)) };
        let host = HostReading {
            load_per_cpu: self.host.runnable_per_cpu().ok(),
            ksm_run: self.host.ksm().ok().map(|ksm| ksm.run),
        };
        Some(seen.map(|seen| Arc::new(trials.window(at, seen, host))))
    }
}

/// What a plan is made from, beside the limits.
pub(super) struct Basis {
    matrix: Arc<SharingMatrix>,
    topology: Arc<Topology>,
    places: Vec<PlanVm>,
    /// The matrix with less for VMs that write to what they share, where placements are tried.
    weighted: Option<SharingMatrix>,
    apart: Vec<(usize, usize)>,
}

impl Basis {
    pub(super) fn input<'b>(&'b self, limits: &'b PlanLimits) -> PlanInput<'b> {
        let input =
            PlanInput::new(self.weighted.as_ref().unwrap_or(&self.matrix), &self.topology, &self.places);
        let input = if self.weighted.is_some() { input.measured(&self.matrix) } else { input };
        input.apart(&self.apart).limits(limits)
    }
}
