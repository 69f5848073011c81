//! The stage that tries placements: between the loop and the state machine of [`huddle_model::trial`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::assignment::Assignment;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::Observation;
use huddle_model::pinning::Pinning;
use huddle_model::plan::{Plan, PlanInput, PlanLimits, PlanVm, Policy};
use huddle_model::text::counted;
use huddle_model::trial::{
    Cadence, CadenceLimits, Comparison, Decision, HostReading, Machine, Member, Moment, Objective,
    RoundReading, TrialSettings,
};
use huddle_model::vm::{Vm, VmId};

/// A window that has at least this part of the configured length is a full one.
const FULL_WINDOW: f64 = 0.8;

/// Since when a VM is there, and whether it is placed.
#[derive(Clone, Copy, Debug)]
struct Presence {
    since: Duration,
    is_settled: bool,
}

/// Tries what the policy proposes before it is kept.
pub struct TrialRunner {
    machine: Machine,
    cadence: Cadence,
    moving_limit: f64,
    /// A shorter window was cut off by a round or a command, and is not used.
    least_window: Duration,
    /// The last plan: what a switched placement is made from.
    plan: Option<Arc<Plan>>,
    /// What was pinned last; `None` if pinning failed or was incomplete.
    pinned_last: Option<Assignment>,
    /// The VMs that there are, by name and id; `None` before the first round.
    present: Option<BTreeMap<(String, VmId), Presence>>,
    /// Whether anything was decided so far.
    has_decided: bool,
    /// How long a VM must have been there to be placed.
    settle: Duration,
}

impl TrialRunner {
    /// Nothing is tried yet. Rounds are at least `least_interval` apart, and windows last `window` unless
    /// something cuts them off.
    pub fn new(
        objective: Objective,
        settings: TrialSettings,
        least_interval: Duration,
        window: Duration,
    ) -> Self {
        let most = Duration::from_secs(settings.longest_interval_s);
        let settle = settings.settle();
        Self {
            cadence: Cadence::new(CadenceLimits { min: least_interval, max: most }),
            moving_limit: settings.moving_limit,
            least_window: window.mul_f64(FULL_WINDOW),
            machine: Machine::new(objective, settings),
            plan: None,
            pinned_last: Some(Assignment::default()),
            present: None,
            has_decided: false,
            settle,
        }
    }

    /// Least time between the begins of two rounds, by how much sharing changes. While a trial runs rounds
    /// do not wait: they detect that a VM appeared.
    pub(super) fn interval(&self) -> Duration {
        if self.machine.is_trying() { Duration::ZERO } else { self.cadence.interval() }
    }

    pub(super) fn is_trying(&self) -> bool {
        self.machine.is_trying()
    }

    /// The window that ends now, labelled with its part of a trial.
    pub(super) fn window(&mut self, at: Moment, seen: Observation, host: HostReading) -> Observation {
        let lasted = Duration::from_micros(seen.end_unix_us.saturating_sub(seen.begin_unix_us));
        let is_full = lasted >= self.least_window;
        let block = self.machine.block(&seen.vms).filter(|_| is_full);
        let seen = Observation { trial: block, ..seen };
        self.machine.window(at, &seen, host, is_full);
        seen
    }

    /// The matrix as it is used for planning: with less weight for VMs that write to pages they share.
    pub(super) fn weighted(&self, matrix: &SharingMatrix) -> SharingMatrix {
        let weights = self.machine.weights();
        let weight = |vm: usize| weights.get(&matrix.vms()[vm].name).copied().unwrap_or(1.0);
        matrix.weighted(weight)
    }

    /// Positions of the VMs that may be placed: those that were there at the first round, those that have been
    /// there for long enough when no trial runs, and those that `limits` keep apart from others. The others would
    /// end each trial by coming and going.
    pub(super) fn settled(&mut self, at: Moment, vms: &[Vm], limits: &PlanLimits) -> Vec<usize> {
        let before = self.present.take();
        let is_trying = self.machine.is_trying();
        let presence = |vm: &Vm, key: &(String, VmId)| {
            let known = before.as_ref().map(|before| before.get(key).copied());
            match known {
                None => Presence { since: at.now, is_settled: true },
                Some(known) => {
                    let since = known.map_or(at.now, |known| known.since);
                    let was_settled = known.is_some_and(|known| known.is_settled);
                    let has_lasted = !is_trying && at.now.saturating_sub(since) >= self.settle;
                    let is_settled = was_settled || has_lasted || limits.keeps_apart(vm);
                    Presence { since, is_settled }
                }
            }
        };
        let present = vms.iter().map(|vm| {
            let key = (vm.name.clone(), vm.id);
            let presence = presence(vm, &key);
            (key, presence)
        });
        let present: Vec<_> = present.collect();
        let settled = present.iter().enumerate().filter(|(_, (_, presence))| presence.is_settled);
        let settled = settled.map(|(position, _)| position).collect();
        self.present = Some(present.into_iter().collect());
        settled
    }

    /// Takes a round and the policy's plan for it; `placed` was in force when the affinities of `vms` were read, and
    /// `input` has the limits. `shared` has all that they share, whatever of it counts. A dry run changes nothing and only
    /// reports.
    #[expect(clippy::too_many_arguments, reason = "one round has as many parts")]
    pub(super) fn round(
        &mut self,
        at: Moment,
        round: u64,
        (vms, shared): (&[Vm], &SharingMatrix),
        placed: &Assignment,
        input: PlanInput<'_>,
        plan: &Arc<Plan>,
        is_dry: bool,
    ) {
        let (matrix, topology) = (input.matrix(), input.topology());
        let members: BTreeSet<Member> = vms
            .iter()
            .map(|vm| (vm.name.clone(), vm.id, u32::try_from(vm.vcpus.len()).unwrap_or(u32::MAX)))
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
            measured: shared,
            topology,
            here: &here,
            placed,
            proposal: &proposal,
            policy: plan.policy.name(),
            seeks_sharing: matches!(plan.policy, Policy::Paper | Policy::Sharing | Policy::Exact),
            limits: Some(input),
            is_dry,
        });
        if let Some(change) = self.machine.sharing_change() {
            self.cadence.pass(change, self.moving_limit);
        }
        self.plan = Some(Arc::clone(plan));
    }

    /// The placement to pin; `None` when it is in force already, or nothing was planned yet. After a round
    /// (`always`) it is returned in any case: there may be new threads.
    pub(super) fn next_to_pin(&mut self, always: bool) -> Option<Plan> {
        let wanted = self.machine.wanted();
        if !always && self.pinned_last.as_ref() == Some(wanted) {
            return None;
        }
        let plan = self.plan.as_deref()?.clone();
        self.pinned_last = Some(wanted.clone());
        // vCPUs without an entry return to where they were before huddle, also while nothing is merged.
        Some(Plan { placement: wanted.entries(), shared_within: None, expected: None, waiting: None, ..plan })
    }

    /// The result of pinning the plan of [`TrialRunner::next_to_pin`]. A placement that is not in force cannot be
    /// measured: the trial ends, and the placement that is wanted then is pinned with the next window.
    pub(super) fn pinned(&mut self, at: Moment, pinning: &Pinning) {
        let reason = match pinning {
            Pinning::Done(outcome) if outcome.skipped == 0 => return,
            Pinning::Done(outcome) => format!("{} skipped", counted(outcome.skipped, "vCPU")),
            other => other.reason().unwrap_or_default().to_owned(),
        };
        if self.machine.is_trying() {
            self.pinned_last = None;
            self.machine.not_in_force(at, &reason);
        }
    }

    /// Aborts the trial that runs.
    pub(super) fn abort(&mut self, at: Moment, why: &str) {
        self.machine.interrupt(at, why.to_owned());
    }

    /// Aborts the trial that runs, because of a viewer's command.
    pub(super) fn abort_for_viewer(&mut self, at: Moment, what: &str) {
        self.machine.interrupt(at, format!("a viewer asked for {what}"));
    }

    /// Aborts the trial and forgets the placement that was kept, because of a viewer's command.
    pub(super) fn reset_for_viewer(&mut self, at: Moment, what: &str) {
        self.reset(at, &format!("a viewer asked for {what}"));
    }

    /// Aborts the trial and forgets the placement that was kept, for this reason.
    pub(super) fn reset(&mut self, at: Moment, reason: &str) {
        self.machine.reset(at, reason.to_owned());
    }

    /// All changes were undone, so no placement is in force.
    pub(super) fn was_undone(&mut self) {
        self.pinned_last = Some(Assignment::default());
    }

    /// Sets the plan that placements are made from until the next round.
    pub(super) fn set_plan(&mut self, plan: &Arc<Plan>) {
        self.plan = Some(Arc::clone(plan));
    }

    /// Decisions that were not reported yet.
    pub(super) fn new_decisions(&mut self) -> Vec<Decision> {
        let new = self.machine.take_decisions();
        self.has_decided |= !new.is_empty();
        new
    }

    /// Whether anything was decided so far.
    pub(super) fn has_decided(&self) -> bool {
        self.has_decided || !self.machine.decisions().is_empty()
    }

    /// The state of the trial.
    pub(super) fn comparison(&mut self) -> Comparison {
        self.machine.comparison()
    }
}
