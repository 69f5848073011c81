//! Measuring one block: place, settle, read all counters, wait, read them again.

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::{MergeObservation, OccupancyObservation};
use huddle_model::plan::{Plan, Policy, VcpuPlacement};
use huddle_model::rng::Rng;
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;
use serde::Serialize;

use super::LOTS;
use super::sharing::Expected;
use crate::course::{RunError, plan_of};
use crate::design::Arm;
use crate::guest::{Guest, GuestData, GuestError, Pace, Reading};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::probes::VcpuProbe;
use crate::spec::Config;

/// What one vCPU of a guest did in one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuestSample {
    /// Name of its VM.
    pub vm: String,
    /// Number of the vCPU within it.
    pub vcpu: u32,
    /// Dependent reads.
    pub reads: u64,
    /// From the end of the burst before the window to the end of the last burst in it, in nanoseconds.
    pub elapsed_ns: u64,
    /// CPU time of its reading thread in that time, in nanoseconds, as the guest counts it.
    pub busy_ns: u64,
    /// What the host counted of the vCPU's thread in the window.
    pub host: Option<VcpuProbe>,
}

impl GuestSample {
    /// Reads per second.
    pub fn reads_per_s(&self) -> f64 {
        self.reads as f64 * 1e9 / self.elapsed_ns as f64
    }

    /// CPU time per read in nanoseconds.
    pub fn busy_ns_per_read(&self) -> f64 {
        self.busy_ns as f64 / self.reads as f64
    }

    /// CPU time that the host gave the vCPU per read, in nanoseconds; `None` where it does not tell.
    pub fn host_ns_per_read(&self) -> Option<f64> {
        Some(*self.host.as_ref()?.cpu_time_ns.value()? as f64 / self.reads as f64)
    }

    /// LLC misses of the vCPU per read; `None` where there is no such counter.
    pub fn llc_misses_per_read(&self) -> Option<f64> {
        Some(*self.host.as_ref()?.llc_misses().value()? / self.reads as f64)
    }
}

/// What all guests did in one window of one arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmSample {
    /// The arm.
    pub arm: Arm,
    /// Each vCPU of each guest, in the order of the matrix.
    pub guests: Vec<GuestSample>,
    /// The plan of an arm whose guests are placed anew in each block; `None` where one holds for the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What KSM did to each VM in the window; empty where nobody watched, and on Xen.
    pub merging: Vec<MergeObservation>,
    /// Cache occupancy of each VM at its end; `None` where nobody watched.
    pub occupancy: Option<Availability<Vec<OccupancyObservation>>>,
    /// CPU time the guests got, as a part (0 to 1) of what the CPUs they were placed on could give to
    /// as many threads: what is missing went to other programs.
    pub cpu_share: f64,
}

impl ArmSample {
    /// Reads per second of all guests together.
    pub fn reads_per_s(&self) -> f64 {
        self.guests.iter().map(GuestSample::reads_per_s).sum()
    }

    /// CPU time per read over all guests, in nanoseconds.
    pub fn busy_ns_per_read(&self) -> f64 {
        let busy: u64 = self.guests.iter().map(|guest| guest.busy_ns).sum();
        let reads: u64 = self.guests.iter().map(|guest| guest.reads).sum();
        busy as f64 / reads as f64
    }

    /// The mean of `figure`, which is per read, over all guests, weighted by their reads; `None` where one
    /// does not have it.
    fn per_read(&self, figure: impl Fn(&GuestSample) -> Option<f64>) -> Option<f64> {
        let reads: u64 = self.guests.iter().map(|guest| guest.reads).sum();
        let total: f64 =
            self.guests.iter().map(|guest| Some(figure(guest)? * guest.reads as f64)).sum::<Option<f64>>()?;
        Some(total / reads as f64)
    }

    /// CPU time that the host gave per read, over all guests, in nanoseconds.
    pub fn host_ns_per_read(&self) -> Option<f64> {
        self.per_read(GuestSample::host_ns_per_read)
    }

    /// LLC misses per read, over all guests.
    pub fn llc_misses_per_read(&self) -> Option<f64> {
        self.per_read(GuestSample::llc_misses_per_read)
    }
}

/// One block: every arm once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    /// Counted from 1.
    pub number: usize,
    /// The arms, in the order they were measured; in an invalid block one may be missing.
    pub samples: Vec<ArmSample>,
    /// Why it must enter no figure; `None` when it is valid.
    pub invalid: Option<String>,
}

impl Block {
    /// The sample of one arm.
    pub fn sample(&self, arm: Arm) -> Option<&ArmSample> {
        self.samples.iter().find(|sample| sample.arm == arm)
    }
}

pub(super) struct Bench<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a mut dyn Host,
    pub(super) guests: &'a mut Vec<Box<dyn Guest>>,
    pub(super) vms: &'a [Vm],
    pub(super) data: &'a [GuestData],
    pub(super) plans: &'a [(Arm, Plan)],
    pub(super) topology: &'a Topology,
    pub(super) matrix: &'a SharingMatrix,
    pub(super) pace: Pace,
    pub(super) interrupt: &'a Interrupt,
}

impl Bench<'_> {
    pub(super) fn block(
        &mut self,
        number: usize,
        order: &[Arm],
        expected: &Expected,
    ) -> Result<Block, RunError> {
        let mut samples = Vec::new();
        let mut invalid = None;
        for arm in order {
            match self.sample(*arm, number)? {
                Ok(sample) => samples.push(sample),
                Err(starved) => invalid = Some(starved),
            }
        }
        let shared = self.host.data_shared(self.vms, self.data)?;
        if let Err(why) = expected.verify(&shared) {
            invalid = Some(format!("at the end of the block {why}"));
        }
        Ok(Block { number, samples, invalid })
    }

    /// What the guests did in one window, or why it cannot be told: a guest that other programs kept
    /// from finishing one burst has no rate, and one such window must not end a long run.
    fn sample(&mut self, arm: Arm, block: usize) -> Result<Result<ArmSample, String>, RunError> {
        let lot = arm.is_drawn().then(|| drawn(self.matrix, self.topology, self.config.seed, block));
        let plan = plan_of(arm, lot.as_ref(), self.plans)?;
        self.host.place(self.vms, plan)?;
        let pace = self.pace;
        self.guests.iter_mut().try_for_each(|guest| guest.start(pace, arm.reads_own()))?;
        self.interrupt.sleep(seconds(self.config.settle_seconds))?;
        // The first window ends here, with what was done to place the guests; the second is the measured.
        let (before, _) = (self.readings()?, self.host.window());
        self.interrupt.sleep(seconds(self.config.seconds_per_arm))?;
        let (after, seen) = (self.readings()?, self.host.window());
        self.guests.iter_mut().try_for_each(|guest| guest.stop().map(drop))?;

        let mut probes = seen.vcpus.into_iter();
        let mut guests = Vec::new();
        for ((guest, before), after) in self.guests.iter().zip(before).zip(after) {
            for (vcpu, (before, after)) in (0..).zip(before.into_iter().zip(after)) {
                let host = probes.next();
                let done = after.since(&before).filter(|done| done.reads > 0 && done.elapsed_ns > 0);
                let Some(Reading { reads, elapsed_ns, busy_ns, .. }) = done else {
                    return Ok(Err(format!(
                        "in arm {arm} the guest {} finished no burst within {} s, so little CPU time did \
                         other programs leave it",
                        guest.name(),
                        self.config.seconds_per_arm
                    )));
                };
                let vm = guest.name().to_owned();
                guests.push(GuestSample { vm, vcpu, reads, elapsed_ns, busy_ns, host });
            }
        }
        let used: f64 = guests.iter().map(|guest| guest.busy_ns as f64 / guest.elapsed_ns as f64).sum();
        let cpu_share = used / usable_cpus(plan, self.vms);
        let (merging, occupancy) = (seen.merging, seen.occupancy);
        Ok(Ok(ArmSample { arm, guests, plan: lot, merging, occupancy, cpu_share }))
    }

    fn readings(&mut self) -> Result<Vec<Vec<Reading>>, GuestError> {
        self.guests.iter_mut().map(|guest| guest.read()).collect()
    }
}

fn seconds(seconds: f64) -> std::time::Duration {
    std::time::Duration::from_secs_f64(seconds)
}

/// Guests placed by lot, as many on each domain, all vCPUs of one together. Equal seeds and blocks give
/// equal lots. The policy of the same name draws once and for all; here each block has a lot of its own.
pub(crate) fn drawn(matrix: &SharingMatrix, topology: &Topology, seed: u64, block: usize) -> Plan {
    let vms = matrix.vms();
    let mut order: Vec<usize> = (0..vms.len()).collect();
    Rng::of_part(seed, LOTS + block as u64).shuffle(&mut order);
    let domains = topology.domains();
    let domain_of = |vm: usize| {
        let drawn = order.iter().position(|at| *at == vm).unwrap_or(0);
        domains[drawn * domains.len() / vms.len()].id
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
        reasons: vec![format!("placed by lot, for block {block} of seed {seed}")],
    }
}

/// How many CPUs the placed vCPUs can use at once.
fn usable_cpus(plan: &Plan, vms: &[Vm]) -> f64 {
    let cpus = |domain: &huddle_model::topology::CacheDomain| domain.cpus.len();
    if plan.placement.is_empty() {
        let vcpus: usize = vms.iter().map(|vm| vm.vcpus.len().max(1)).sum();
        return vcpus.min(plan.domains.iter().map(cpus).sum()) as f64;
    }
    let usable = plan.domains.iter().map(|domain| {
        plan.placement.iter().filter(|placed| placed.domain == domain.id).count().min(cpus(domain))
    });
    usable.sum::<usize>() as f64
}
