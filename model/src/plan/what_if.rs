//! What another policy would have done in a past round.

use super::{MergingState, Plan, PlanInput, PlanLimits, PlanVm, Policy};
use crate::availability::Availability;
use crate::matrix::Weigh;
use crate::observation::Observation;
use crate::topology::DomainId;
use crate::update::Round;

/// The plan of a policy for a past round, for comparison with the one made then.
#[derive(Clone, Debug, PartialEq)]
pub struct WhatIf {
    /// The plan of the policy.
    pub plan: Plan,
    /// vCPUs that it would have moved between domains, or bound to one, if its own plan of the previous round
    /// had been in effect.
    pub moves: usize,
}

/// What tells working sets and CPU time of a past round, for an estimate of misses. The plan itself does without.
#[derive(Clone, Copy, Debug, Default)]
pub struct MissSources<'a> {
    /// The user's limits, which have working sets.
    pub limits: Option<&'a PlanLimits>,
    /// A window of observation.
    pub seen: Option<&'a Observation>,
}

/// The plan of `policy`, by the shared frames that `weigh` says, for the matrix and the topology of
/// `round`. `before` is its plan of the previous
/// round; without one VMs are where they were found.
pub fn what_if(
    policy: Policy,
    weigh: Weigh,
    round: &Round,
    before: Option<&Plan>,
    sources: MissSources<'_>,
) -> Availability<WhatIf> {
    let (matrix, topology) = match (&round.matrix, &round.topology) {
        (Availability::Available(matrix), Availability::Available(topology)) => (matrix, topology),
        (Availability::Unavailable(reason), _) | (_, Availability::Unavailable(reason)) => {
            return Availability::Unavailable(reason.clone());
        }
    };
    let place_before =
        |name: &str, vcpu: u32| -> Option<DomainId> { Some(before?.domain_of(name, vcpu)?.id) };
    // In the order of the matrix: a VM without a description has no limits and an unknown place.
    let limits: Vec<PlanVm> = matrix
        .vms()
        .iter()
        .map(|measured| {
            let Some(vm) = round.vms.iter().find(|vm| vm.name == measured.name) else {
                return PlanVm::default();
            };
            let mut limits = PlanVm::of(vm, topology);
            if before.is_some() {
                limits.current = vm.vcpus.iter().map(|vcpu| place_before(&vm.name, vcpu.index)).collect();
            }
            limits
        })
        .collect();
    let merging = || MergingState::of(&round.vms, round.ksm.clone(), |_| None);
    let (weighed, why_not) = matrix.to_plan_by(weigh);
    let mut plan = policy.plan_measured(&PlanInput::new(&weighed, topology, &limits), merging);
    plan.reasons.extend(why_not.filter(|_| policy.goes_by_sharing()));
    let place_now = |name: &str, vcpu: u32| {
        let at = matrix.vms().iter().position(|vm| vm.name == name)?;
        limits[at].current.get(vcpu as usize).copied().flatten()
    };
    let moves = plan
        .placement
        .iter()
        .filter(|placed| place_now(&placed.vm, placed.vcpu) != Some(placed.domain))
        .count();
    estimate_misses(&mut plan, PlanInput::new(&weighed, topology, &limits), round, sources);
    Availability::Available(WhatIf { plan, moves })
}

fn estimate_misses(plan: &mut Plan, input: PlanInput<'_>, round: &Round, sources: MissSources<'_>) {
    let Some(expected) = plan.expected.take() else { return };
    let observed = input.vms.iter().zip(input.matrix.vms()).map(|(place, measured)| {
        let vm = round.vms.iter().find(|vm| vm.name == measured.name);
        match vm.zip(sources.seen) {
            Some((vm, seen)) => place.clone().observed(vm, seen),
            None => place.clone(),
        }
    });
    let observed: Vec<PlanVm> = observed.collect();
    let input = PlanInput { vms: &observed, limits: sources.limits, ..input };
    // The plan may have an estimate already, from reads alone.
    let without = expected.misses.as_ref().map(ToString::to_string);
    plan.reasons.retain(|reason| Some(reason) != without.as_ref());
    let expected = expected.with_misses(input.expected_misses_from_now(&plan.placement));
    plan.reasons.extend(expected.misses.iter().map(ToString::to_string));
    plan.expected = Some(expected);
}
