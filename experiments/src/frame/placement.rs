//! Where the arms place the guests.

use std::borrow::Cow;

use huddle_model::matrix::{SharingMatrix, Weigh};
use huddle_model::plan::{Plan, PlanInput, Policy, VcpuPlacement};
use huddle_model::rng::Rng;
use huddle_model::summary::Arm;
use huddle_model::topology::{CacheSets, Topology};

use super::Verify;
use super::expected::Expected;
use super::run::RunError;
use crate::host::HostFailure;

/// The random stream of placements (see [`Rng::of_part`]).
const PLACEMENTS: u64 = 3000;

/// The sharing that plans are made from.
pub(super) struct Basis<'a> {
    /// All that is shared.
    pub(super) all: Cow<'a, SharingMatrix>,
    /// Of it what both VMs of a pair read, if an arm goes by that.
    pub(super) read: Option<Cow<'a, SharingMatrix>>,
}

impl<'a> Basis<'a> {
    /// What was measured, or, where nothing is merged or that cannot be seen, what guests are known to share and to read.
    ///
    /// # Errors
    /// It was to be measured what they read, and that is not seen on this host.
    pub(super) fn new(
        matrix: &'a SharingMatrix,
        expected: &Expected,
        verify: Verify,
        by_reads: bool,
    ) -> Result<Self, HostFailure> {
        let known = || Cow::Owned(expected.in_common(matrix));
        let all = if verify == Verify::Nothing { known() } else { Cow::Borrowed(matrix) };
        let read = || match verify {
            Verify::Merged => matrix.of_reads().map(Cow::Owned),
            Verify::Unmerged | Verify::Nothing => Ok(known()),
        };
        let read = by_reads.then(read).transpose().map_err(|why| {
            HostFailure::Cannot(format!(
                "guests cannot be placed by what they read (arm {}): {why}",
                Arm::ByReads
            ))
        })?;
        Ok(Self { all, read })
    }

    /// What an arm goes by.
    fn of(&self, arm: Arm) -> &SharingMatrix {
        match (arm.weigh(), &self.read) {
            (Weigh::Read, Some(read)) => read,
            _ => &self.all,
        }
    }
}

/// Where each arm places the guests, except those that are placed at random.
///
/// # Errors
/// The placements to compare do not differ in what data is together.
pub(super) fn plans(
    arms: &[Arm],
    basis: &Basis<'_>,
    topology: &Topology,
    expected: &Expected,
) -> Result<Vec<(Arm, Plan)>, RunError> {
    let planned = arms.iter().filter(|arm| !arm.is_drawn());
    let plan = |arm: &Arm| (*arm, arm.policy().plan(&PlanInput::new(basis.of(*arm), topology, &[])));
    let plans: Vec<(Arm, Plan)> = planned.map(plan).collect();
    let together = |wanted| {
        let (_, plan) = plans.iter().find(|(arm, _)| *arm == wanted)?;
        Some(expected.pairs_together(plan, &basis.all))
    };
    // Not by what is shared: of that, guests of one system have most in common wherever they are.
    let [over, under] = compared(arms);
    match (together(under), together(over)) {
        (Some(better), Some(worse)) if better <= worse => {
            Err(RunError::SamePlacement { under, better, over, worse })
        }
        _ => Ok(plans),
    }
}

/// The arms that a run is about: the one that is expected to take longer, and the one it is compared with.
pub(super) fn compared(arms: &[Arm]) -> [Arm; 2] {
    match arms.contains(&Arm::ByReads) {
        true => [Arm::Recommended, Arm::ByReads],
        false => [Arm::Opposed, Arm::Recommended],
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
        let is_one = |sets: &&CacheSets| [first.id, second.id].contains(&sets.domain);
        let sets = topology.sets().iter().filter(is_one).copied().collect();
        return Topology::new(topology.level(), vec![first.clone(), second.clone()])
            .map(|topology| topology.with_sets(sets))
            .map_err(|error| HostFailure::Failed(error.to_string()).into());
    }
    Err(HostFailure::Cannot(
        topology.single_domain_note().unwrap_or_else(|| "the host has no two cache domains".into()),
    )
    .into())
}
