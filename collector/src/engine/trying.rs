//! The stage that tries placements: between the loop and the state machine of [`huddle_model::trial`].

use std::collections::BTreeSet;
use std::time::Duration;

use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::Observation;
use huddle_model::plan::{Plan, PlanVm};
use huddle_model::topology::Topology;
use huddle_model::trial::{
    Assignment, Cadence, CadenceLimits, Comparison, HostReading, Machine, Member, Moment, Objective,
    RoundReading, TrialSettings,
};
use huddle_model::vm::Vm;

/// Tries what the policy proposes before it is kept.
pub struct Trying {
    machine: Machine,
    cadence: Cadence,
    moving_limit: f64,
    /// The last plan: what a switched placement is made from.
    plan: Option<Plan>,
    /// What was pinned last.
    in_force: Assignment,
    /// Decisions that were told.
    told: usize,
}

impl Trying {
    /// Nothing is tried yet. Rounds are at least `least_interval` apart.
    pub fn new(objective: Objective, settings: TrialSettings, least_interval: Duration) -> Self {
        let most = Duration::from_secs(settings.longest_interval_s);
        Self {
            cadence: Cadence::new(CadenceLimits { least: least_interval, most }),
            moving_limit: settings.moving_limit,
            machine: Machine::new(objective, settings),
            plan: None,
            in_force: Assignment::default(),
            told: 0,
        }
    }

    /// Least time between the begins of two rounds, by how much sharing changes.
    pub(super) fn interval(&self) -> Duration {
        self.cadence.interval()
    }

    /// The window that ends now, told which part of a trial it is.
    pub(super) fn window(&mut self, at: Moment, seen: Observation, host: HostReading) -> Observation {
        let seen = Observation { trial: self.machine.block(), ..seen };
        self.machine.window(at, &seen, host);
        seen
    }

    /// The matrix as it counts for planning: less for VMs that write to what they share.
    pub(super) fn weighted(&self, matrix: &SharingMatrix) -> SharingMatrix {
        let weights = self.machine.weights();
        let weight = |vm: usize| weights.get(&matrix.vms()[vm].name).copied().unwrap_or(1.0);
        matrix.weighted(|i, j| weight(i) * weight(j))
    }

    /// A round, with what the policy makes of it.
    pub(super) fn round(
        &mut self,
        at: Moment,
        round: u64,
        vms: &[Vm],
        matrix: &SharingMatrix,
        topology: &Topology,
        plan: &Plan,
    ) {
        let members: BTreeSet<Member> = vms
            .iter()
            .map(|vm| (vm.name.clone(), vm.process, u32::try_from(vm.vcpus.len()).unwrap_or(u32::MAX)))
            .collect();
        let here = vms.iter().flat_map(|vm| {
            let places = PlanVm::of(vm, topology).current;
            vm.vcpus
                .iter()
                .zip(places)
                .filter_map(|(vcpu, place)| Some(((vm.name.clone(), vcpu.index), place?)))
        });
        let (here, proposal) = (here.collect(), Assignment::of(plan));
        self.machine.round(&RoundReading {
            at,
            round,
            members: &members,
            matrix,
            topology,
            here: &here,
            proposal: &proposal,
            policy: plan.policy.name(),
        });
        if let Some(change) = self.machine.sharing_change() {
            self.cadence.pass(change, self.moving_limit);
        }
        self.plan = Some(plan.clone());
    }

    /// The placement to pin; `None` when it is in force already, or nothing was planned yet. After a round
    /// (`anew`) it is given in any case: threads may have come.
    pub(super) fn next_to_pin(&mut self, anew: bool) -> Option<Plan> {
        let wanted = self.machine.wanted();
        if !anew && *wanted == self.in_force {
            return None;
        }
        let plan = self.plan.clone()?;
        self.in_force = wanted.clone();
        Some(Plan { placement: wanted.entries(), shared_within: None, expected: None, ..plan })
    }

    /// A viewer wants something else than the trial that runs: it is broken off.
    pub(super) fn interrupt(&mut self, at: Moment, wish: &str) {
        self.machine.interrupt(at, format!("a viewer asked for {wish}"));
    }

    /// A viewer wants vCPUs where they were before huddle came.
    pub(super) fn let_go(&mut self, at: Moment, wish: &str) {
        self.machine.let_go(at, format!("a viewer asked for {wish}"));
    }

    /// Nothing of ours is in force any more: somebody took it all back.
    pub(super) fn was_undone(&mut self) {
        self.in_force = Assignment::default();
    }

    /// The plan that placements are made from until the next round.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.plan = Some(plan.clone());
    }

    /// Decisions that were not told yet, one line each.
    pub(super) fn news(&mut self) -> Vec<String> {
        let new = self.machine.decisions()[self.told..].iter().map(ToString::to_string).collect();
        self.told = self.machine.decisions().len();
        new
    }

    /// What the screen and the recording show; `resting` says why nothing is tried now, if so.
    pub(super) fn comparison(&mut self, resting: Option<&str>) -> Comparison {
        let comparison = self.machine.comparison();
        match resting {
            Some(why) => Comparison { phase: format!("nothing is tried: {why}"), ..comparison },
            None => comparison,
        }
    }
}
