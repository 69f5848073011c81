//! What counters and probes saw of the VMs in one window of time: counters and residency per vCPU,
//! merges and breaks per VM, the cache occupancy of the processor's own monitoring, and what all this
//! cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::counters::CounterRole;
use crate::id::{TaskId, VcpuId, VmId, VmRef};
use crate::rates::{CounterDelta, Rates};
use crate::topology::{DomainId, Topology};

/// One window between two readings. Every number is of this window, not since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Number of the window since the start, from 1.
    pub window: u64,
    /// The round whose placement was in force.
    pub round: u64,
    /// The placement of a trial that was in force; `None` outside of trials.
    pub trial: Option<TrialBlock>,
    /// When its first reading began, in microseconds since the Unix epoch.
    pub begin_unix_us: u64,
    /// When its last reading ended, likewise.
    pub end_unix_us: u64,
    /// The VMs that were watched, in the order of discovery: whom the names below are of.
    pub vms: Vec<VmRef>,
    /// Each vCPU thread that was there at the end of the window.
    pub vcpus: Vec<VcpuObservation>,
    /// What KSM did to each VM, in the order of discovery.
    pub merging: Vec<MergeObservation>,
    /// What the processor's own monitoring (resctrl) says per VM and cache.
    pub occupancy: Availability<Vec<OccupancyObservation>>,
    /// What workloads said of themselves, in the order of discovery; VMs that said nothing are not there.
    pub reported: Vec<ReportObservation>,
    /// The event that is really counted for each role, or why none is.
    pub events: Vec<CountedEvent>,
    /// Each BPF program: whether it runs, and what it cost in the window.
    pub programs: Vec<ProgramObservation>,
    /// What could not be noted because a buffer or a map was full, in the window.
    pub losses: Availability<LossObservation>,
    /// CPU time of the whole of this process in the window, in microseconds.
    pub own_cpu_us: Availability<u64>,
    /// CPU time of that which went into reading counters and probes, in microseconds.
    pub reading_cpu_us: Availability<u64>,
}

/// Which part of a trial a window belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBlock {
    /// Number of the trial since the loop began, from 1; 0 where a recording does not say.
    pub trial: u32,
    /// Name of the arm.
    pub arm: String,
    /// Number of the block, from 0; each arm has one part in each block.
    pub block: u32,
}

/// One vCPU in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VcpuObservation {
    /// Name of the VM.
    pub vm: String,
    /// Number of the vCPU within it, from 0.
    pub vcpu: u32,
    /// The thread that runs it, or the vCPU of a domain of Xen.
    pub id: VcpuId,
    /// The process that the thread belongs to; `None` on Xen.
    pub process: Option<TaskId>,
    /// Its counters.
    pub counters: CounterDelta,
    /// Where it ran.
    pub residency: Availability<Vec<CpuResidency>>,
    /// CPU time it used, in nanoseconds, where it is known and `residency` is not (Xen reports a vCPU's CPU
    /// time, and not on which CPUs it was used); else `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ns_anywhere: Option<u64>,
    /// Moves from one CPU to another.
    pub migrations: Availability<u64>,
    /// Those of them between cache domains.
    pub domain_migrations: Availability<u64>,
    /// Entries into guest mode (KVM).
    pub guest_entries: Availability<u64>,
    /// Time in guest mode (KVM), in nanoseconds.
    pub guest_ns: Availability<u64>,
    /// Exits by the processor's exit reason (KVM).
    pub exits: Availability<BTreeMap<u32, u64>>,
}

/// One thread on one CPU in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuResidency {
    /// The CPU.
    pub cpu: u32,
    /// CPU time it used there, in nanoseconds.
    pub run_ns: Option<u64>,
    /// Times it was switched away from there.
    pub switches: Option<u64>,
    /// Samples of the software clock that hit it there.
    pub clock_samples: Option<u64>,
    /// Samples of LLC misses that hit it there.
    pub miss_samples: Option<u64>,
}

/// What KSM did to one VM in one window, in pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeObservation {
    /// Name of the VM.
    pub vm: String,
    /// Which it is.
    pub id: VmId,
    /// Pages that are merged at the end of the window.
    pub merged_now: Availability<u64>,
    /// Pages put on a merged frame.
    pub merges: Availability<u64>,
    /// Pages that left a merged frame because they were written to or unmapped: merges less the growth
    /// of what is merged.
    pub breaks: Availability<u64>,
    /// Merges that were tried and failed.
    pub failed: Availability<u64>,
}

/// What resctrl says of one VM on one cache, at the end of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupancyObservation {
    /// Name of the VM.
    pub vm: String,
    /// The L3 cache, by the kernel's id (`mon_L3_NN`).
    pub cache: u32,
    /// The cache domain it is, where the cache level of the domains is the L3.
    pub domain: Option<DomainId>,
    /// Bytes of the cache that hold the VM's lines.
    pub llc_bytes: Availability<u64>,
    /// Bytes moved between memory and all nodes in the window.
    pub total_bytes: Availability<u64>,
    /// Bytes moved between memory and the cache's own node in the window.
    pub local_bytes: Availability<u64>,
}

/// What the workload in one VM said of itself in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportObservation {
    /// Name of the VM.
    pub vm: String,
    /// Operations done in the window.
    pub operations: u64,
    /// Mean latency of an operation in microseconds; `None` when it was not reported.
    pub latency_us: Option<f64>,
}

/// Which event stands for a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedEvent {
    /// What it stands for.
    pub role: CounterRole,
    /// The name of the event that is really counted, or why none is.
    pub event: Availability<String>,
}

/// One BPF program in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramObservation {
    /// Its name.
    pub name: String,
    /// Its runs and what they cost; unavailable when it is not attached, or when the kernel keeps no
    /// statistics, with the reason.
    pub cost: Availability<ProgramCost>,
}

/// Runs of one BPF program (`BPF_ENABLE_STATS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// How often it ran.
    pub runs: u64,
    /// How long that took in all, in nanoseconds.
    pub run_ns: u64,
}

/// What the programs could not note in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossObservation {
    /// Beginnings and ends of KSM passes that found the ring buffer full.
    pub pass_events: u64,
    /// KSM events of processes that no longer fitted the map.
    pub ksm_events: u64,
    /// Guest exits whose reason no longer fitted the map.
    pub exit_reasons: u64,
    /// Threads that no longer fitted the map.
    pub vcpu_threads: u64,
}

impl LossObservation {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.pass_events + self.ksm_events + self.exit_reasons + self.vcpu_threads
    }
}

impl VcpuObservation {
    /// CPU time it used in the window in nanoseconds; `None` where that was not measured.
    pub fn run_ns(&self) -> Option<u64> {
        match self.residency.value() {
            Some(cpus) => cpus.iter().map(|cpu| cpu.run_ns).sum(),
            None => self.run_ns_anywhere,
        }
    }

    /// The domain it ran in for most of the window; `None` when it did not run, or where is not known.
    pub fn domain(&self, topology: &Topology) -> Option<DomainId> {
        let mut per_domain = BTreeMap::<DomainId, u64>::new();
        for cpu in self.residency.value()? {
            if let Some(domain) = topology.domain_of(cpu.cpu) {
                *per_domain.entry(domain).or_default() += cpu.run_ns?;
            }
        }
        // Equal times: the lower id, so that equal input gives equal output.
        let most = per_domain.into_iter().filter(|(_, ns)| *ns > 0);
        most.max_by_key(|(domain, ns)| (*ns, std::cmp::Reverse(*domain))).map(|(domain, _)| domain)
    }
}

impl Observation {
    /// Length of the window in seconds.
    pub fn seconds(&self) -> f64 {
        self.end_unix_us.saturating_sub(self.begin_unix_us) as f64 / 1e6
    }

    /// The VM of this name, where it was watched.
    pub fn vm(&self, name: &str) -> Option<&VmRef> {
        self.vms.iter().find(|vm| vm.name == name)
    }

    /// The rates of one VM: its vCPUs together.
    pub fn vm_rates(&self, vm: &str) -> Rates {
        self.rates_of(|vcpu| vcpu.vm == vm)
    }

    /// The rates of one cache domain: the vCPUs that ran there for most of the window, together.
    pub fn domain_rates(&self, topology: &Topology, domain: DomainId) -> Rates {
        self.rates_of(|vcpu| vcpu.domain(topology) == Some(domain))
    }

    fn rates_of(&self, mut of: impl FnMut(&VcpuObservation) -> bool) -> Rates {
        let deltas: Vec<_> =
            self.vcpus.iter().filter(|vcpu| of(vcpu)).map(|vcpu| vcpu.counters.clone()).collect();
        Rates::of(&deltas)
    }
}
