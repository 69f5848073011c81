//! Where the arms place the guests.

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::{Plan, PlanInput, Policy, VcpuPlacement};
use huddle_model::rng::Rng;
use huddle_model::summary::Arm;
use huddle_model::topology::Topology;

use super::expected::Expected;
use super::run::RunError;
use crate::host::HostFailure;

/// The random stream of placements (see [`Rng::of_part`]).
const PLACEMENTS: u64 = 3000;

/// Where each arm places the guests, except those that are placed at random.
///
/// # Errors
/// The placements to compare do not differ in what data is together.
pub(super) fn plans(
    arms: &[Arm],
    matrix: &SharingMatrix,
    topology: &Topology,
    expected: &Expected,
) -> Result<Vec<(Arm, Plan)>, RunError> {
    let input = PlanInput::new(matrix, topology, &[]);
    let planned = arms.iter().filter(|arm| !arm.is_drawn());
    let plans: Vec<(Arm, Plan)> = planned.map(|arm| (*arm, arm.policy().plan(&input))).collect();
    let together = |wanted| {
        let (_, plan) = plans.iter().find(|(arm, _)| *arm == wanted)?;
        Some(expected.pairs_together(plan, matrix))
    };
    // Not by what is shared: of that, guests of one system have most in common wherever they are.
    match (together(Arm::Recommended), together(Arm::Opposed)) {
        (Some(recommended), Some(opposed)) if recommended <= opposed => {
            Err(RunError::SamePlacement { recommended, opposed })
        }
        _ => Ok(plans),
    }
}

/// A random placement of guests, as many on each domain, all vCPUs of one together. Equal seeds and blocks give
/// equal placements. The policy of the same name has one placement for a run; here each block has its own.
pub(super) fn random_plan(matrix: &SharingMatrix, topology: &Topology, seed: u64, block: usize) -> Plan {
    let vms = matrix.vms();
    let mut order: Vec<usize> = (0..vms.len()).collect();
    Rng::of_part(seed, PLACEMENTS + block as u64).shuffle(&mut order);
    let domains = topology.domains();
    let domain_of = |vm: usize| {
        let at = order.iter().position(|at| *at == vm).unwrap_or(0);
        domains[at * domains.len() / vms.len()].id
    };
    let vcpus =
        vms.iter().enumerate().flat_map(|(number, vm)| (0..vm.vcpus).map(move |vcpu| (number, vm, vcpu)));
    let placement = vcpus.map(|(number, vm, vcpu)| {
        let domain = domain_of(number);
        VcpuPlacement { vm: vm.name.clone(), vcpu, domain }
    });
    let within = matrix.pairs().filter(|(i, j)| domain_of(*i) == domain_of(*j));
    Plan {
        policy: Policy::Random,
        domains: domains.to_vec(),
        placement: placement.collect(),
        shared_within: within.map(|(i, j)| matrix.shared_frames(i, j)).sum(),
        shared_total: matrix.pairs().map(|(i, j)| matrix.shared_frames(i, j)).sum(),
        expected: None,
        waiting: None,
        reasons: vec![format!("placed at random, for block {block} of seed {seed}")],
    }
}

/// The plan of an arm: the random one of this block, or that of the whole run.
///
/// # Errors
/// There is none.
pub(super) fn plan_of<'a>(
    arm: Arm,
    random: Option<&'a Plan>,
    plans: &'a [(Arm, Plan)],
) -> Result<&'a Plan, RunError> {
    let planned = || plans.iter().find(|(planned, _)| *planned == arm).map(|(_, plan)| plan);
    random
        .or_else(planned)
        .ok_or_else(|| HostFailure::Failed(format!("there is no plan for the arm {arm}")).into())
}

/// The first two domains. The experiment is about two caches; with more of them than the guests need,
/// each guest would have one to itself.
pub(super) fn two_domains(topology: &Topology) -> Result<Topology, RunError> {
    if let [first, second, ..] = topology.domains() {
        return Topology::new(topology.level(), vec![first.clone(), second.clone()])
            .map_err(|error| HostFailure::Failed(error.to_string()).into());
    }
    Err(HostFailure::Cannot(
        topology.single_domain_note().unwrap_or_else(|| "the host has no two cache domains".into()),
    )
    .into())
}
