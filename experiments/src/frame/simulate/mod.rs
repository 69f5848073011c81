//! Misses of simulated last-level caches, for every placement over the same accesses. (Of guests that are recorded, those
//! that read their own copies make other accesses than those that read common data: two recordings.)
//!
//! What guests read comes from an [`AccessSource`], with host-physical addresses: a frame that two guests share is one
//! line in a cache, and two copies are two. Each block has accesses of its own. Placements are simulated, not made:
//! nothing of the host changes, and a host without two caches, or without counters, can be asked what a machine with
//! them would do.

pub(crate) mod emulated;
mod machine;
mod predicted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use huddle_model::cache::{Access, Counts, DomainPlacement, Sampler, Sampling, Simulator};
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::rng::Rng;
use huddle_model::summary::{
    AccessOrigin, Arm, SimulatedBlock, SimulatedMisses, SimulatedSample, SimulatedVcpu,
};
use huddle_model::topology::Topology;

pub(super) use self::machine::Machine;
pub(super) use self::predicted::{Reads, predicted};
use super::placement::{plan_of, random_plan};
use super::run::RunError;
use crate::host::HostFailure;

/// What is simulated of each block, whatever is timed. Where the kernel would place guests is not known.
const ARMS: [Arm; 5] = [Arm::Recommended, Arm::Opposed, Arm::NotMerged, Arm::NotMergedOpposed, Arm::Random];

/// The random streams of simulated sets (see [`Rng::of_part`]).
const SETS: u64 = 7000;

/// What accesses are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// They fill the caches.
    WarmUp,
    /// They are counted.
    Counted,
}

/// What is asked of an [`AccessSource`].
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The block, from 1.
    pub block: usize,
    /// Of guests that read their own copies.
    pub own: bool,
    /// What is kept of them: others may be left out.
    pub sampler: &'a Sampler,
    /// Guests take turns on a CPU; otherwise each vCPU has its own.
    pub turns: bool,
}

/// Takes accesses, vCPUs numbered in the order of the matrix.
pub type Feed<'a> = dyn FnMut(Phase, &[Access]) -> Result<(), RunError> + 'a;

/// Accesses that were not fed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotFed {
    /// Lost on their way.
    pub lost: u64,
    /// To pages whose frame was not known.
    pub without_frame: u64,
    /// To other memory than RAM: firmware, video memory.
    pub elsewhere: u64,
    /// Instructions by which slow vCPUs were set forward, to be beside fast ones.
    pub set_forward: u64,
}

/// What guests read, write and fetch.
pub trait AccessSource {
    /// Where it is from.
    fn origin(&self) -> AccessOrigin;

    /// One of how many sets is simulated where nobody says so.
    fn usual_fold(&self) -> u32;

    /// What is kept in a block.
    fn sampling(&self, fold: u32, seed: u64, block: usize) -> Sampling {
        Sampling::by_seed(fold, Rng::of_part(seed, SETS + block as u64).next_u64())
    }

    /// Feeds the accesses of a block, those of the warm-up first.
    ///
    /// # Errors
    /// A guest or the host failed.
    fn feed(&mut self, wanted: Wanted<'_>, feed: &mut Feed<'_>) -> Result<NotFed, RunError>;
}

/// A simulation of an experiment.
pub(super) struct Simulation<'a> {
    pub(super) machine: &'a Machine,
    /// Where arms place the VMs; not random placements.
    pub(super) plans: &'a [(Arm, Plan)],
    /// The sharing that plans are made from, with the vCPUs of each VM.
    pub(super) basis: &'a SharingMatrix,
    /// The domains of the plans.
    pub(super) topology: &'a Topology,
    /// One of how many sets, if somebody says so.
    pub(super) fold: Option<u32>,
    pub(super) seed: u64,
}

impl Simulation<'_> {
    /// The arms that are simulated, for which there have to be plans.
    pub(super) fn arms(timed: &[Arm]) -> Vec<Arm> {
        let by_reads = timed.iter().copied().filter(|arm| *arm == Arm::ByReads);
        ARMS.into_iter().chain(by_reads).collect()
    }

    /// Simulates so many blocks, and says after each how many are done.
    pub(super) fn run(
        &self,
        blocks: usize,
        source: &mut dyn AccessSource,
        done: &mut dyn FnMut(usize),
    ) -> Result<SimulatedMisses, RunError> {
        let fold = match self.fold {
            Some(fold) => fold,
            // A small cache has fewer sets.
            None => source.usual_fold().min(self.machine.model.largest_fold()),
        };
        let mut simulated = Vec::new();
        for number in 1..=blocks {
            simulated.push(self.block(number, fold, source)?);
            done(number);
        }
        Ok(SimulatedMisses::of(self.machine.model.clone(), fold, source.origin(), simulated))
    }

    fn block(
        &self,
        number: usize,
        fold: u32,
        source: &mut dyn AccessSource,
    ) -> Result<SimulatedBlock, RunError> {
        let mut block = SimulatedBlock {
            number,
            samples: Vec::new(),
            lost: 0,
            without_frame: 0,
            elsewhere: 0,
            set_forward: 0,
        };
        let random = random_plan(self.basis, self.topology, self.seed, number);
        let sampling = source.sampling(fold, self.seed, number);
        let sampler = Sampler::new(&self.machine.model, sampling).map_err(HostFailure::cannot)?;
        let mut placed: BTreeMap<bool, Vec<(Arm, Vec<u32>)>> = BTreeMap::new();
        let arms = self.plans.iter().map(|(arm, _)| *arm).chain([Arm::Random]);
        for arm in arms {
            let plan = plan_of(arm, arm.is_drawn().then_some(&random), self.plans)?;
            placed.entry(arm.reads_own()).or_default().push((arm, self.domains(plan)?));
        }
        for (own, arms) in placed {
            let placements: Vec<DomainPlacement> =
                arms.iter().map(|(arm, domains)| DomainPlacement::new(arm.name(), domains.clone())).collect();
            let mut simulator =
                Simulator::new(&self.machine.model, &placements, sampling).map_err(HostFailure::cannot)?;
            let mut last = Phase::WarmUp;
            let wanted = Wanted { block: number, own, sampler: &sampler, turns: self.machine.turns };
            let not_fed = source.feed(wanted, &mut |phase, accesses| {
                if (last, phase) == (Phase::WarmUp, Phase::Counted) {
                    simulator.start_counting();
                }
                last = phase;
                simulator.feed(accesses).map_err(|error| HostFailure::failed(error).into())
            })?;
            block.lost = block.lost.saturating_add(not_fed.lost);
            block.without_frame = block.without_frame.saturating_add(not_fed.without_frame);
            block.elsewhere = block.elsewhere.saturating_add(not_fed.elsewhere);
            block.set_forward = block.set_forward.saturating_add(not_fed.set_forward);
            let samples = arms.iter().enumerate().map(|(at, (arm, domains))| SimulatedSample {
                arm: *arm,
                vcpus: self.vcpus(domains, simulator.by_vcpu(at)),
            });
            block.samples.extend(samples);
        }
        block.samples.sort_by_key(|sample| sample.arm);
        Ok(block)
    }

    fn vcpus(&self, domains: &[u32], counts: Vec<Counts>) -> Vec<SimulatedVcpu> {
        let names = self.basis.vms().iter().flat_map(|vm| (0..vm.vcpus).map(|vcpu| (vm.name.clone(), vcpu)));
        let counted = domains.iter().zip(counts);
        names
            .zip(counted)
            .map(|((vm, vcpu), (domain, counts))| SimulatedVcpu { vm, vcpu, domain: *domain, counts })
            .collect()
    }

    /// The number of the domain of each vCPU, in the order of the matrix.
    fn domains(&self, plan: &Plan) -> Result<Vec<u32>, RunError> {
        let number = |vm: &str, vcpu| {
            let domain = plan.domain_of(vm, vcpu)?.id;
            (0..).zip(self.topology.domains()).find(|(_, of)| of.id == domain).map(|(number, _)| number)
        };
        let vcpus = self.basis.vms().iter().flat_map(|vm| (0..vm.vcpus).map(move |vcpu| (&vm.name, vcpu)));
        let domain = |(vm, vcpu): (&String, u32)| {
            number(vm, vcpu).ok_or_else(|| {
                let policy = plan.policy;
                HostFailure::Failed(format!("{policy} places vCPU {vcpu} of {vm} nowhere")).into()
            })
        };
        vcpus.map(domain).collect()
    }
}
