//! Observations of the VMs in one window of time: counters and residency per vCPU, merges and breaks per VM,
//! cache occupancy by the processor's own monitoring, and the cost of all this.

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
    /// The round whose placement was in effect.
    pub round: u64,
    /// The part of a trial whose placement was in effect; `None` outside of trials.
    pub trial: Option<TrialBlock>,
    /// When its first reading began, in microseconds since the Unix epoch.
    pub begin_unix_us: u64,
    /// When its last reading ended, likewise.
    pub end_unix_us: u64,
    /// The observed VMs, in the order of discovery, to which the names below belong.
    pub vms: Vec<VmRef>,
    /// Each vCPU that existed at the end of the window.
    pub vcpus: Vec<VcpuObservation>,
    /// KSM's work on each VM, in the order of discovery.
    pub merging: Vec<MergeObservation>,
    /// The processor's own monitoring (resctrl) per VM and cache.
    pub occupancy: Availability<Vec<OccupancyObservation>>,
    /// Reports of workloads, in the order of discovery; VMs without a report are left out.
    pub reported: Vec<ReportObservation>,
    /// The event that is really counted for each role, or why there is none.
    pub events: Vec<CountedEvent>,
    /// Each BPF program: whether it is attached, and its cost in the window.
    pub programs: Vec<ProgramObservation>,
    /// Events of the window lost because a buffer or a map was full.
    pub losses: Availability<LossObservation>,
    /// CPU time of this process in the window, in microseconds.
    pub own_cpu_us: Availability<u64>,
    /// CPU time of it for reading counters and probes, in microseconds.
    pub reading_cpu_us: Availability<u64>,
}

/// The part of a trial that a window belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBlock {
    /// Number of the trial since the loop began, from 1; 0 if not recorded.
    pub trial: u32,
    /// Name of the arm.
    pub arm: String,
    /// Number of the block, from 0; each arm has one part in each block.
    pub block: u32,
    /// Observed VMs that are no part of the trial, because they came after it began; by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<String>,
}

impl Observation {
    /// Whether a VM takes no part in the trial of the window.
    pub fn is_outside(&self, vm: &str) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.outside.iter().any(|name| name == vm))
    }
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
    /// Where it ran, by CPU.
    pub residency: Availability<Vec<CpuResidency>>,
    /// CPU time it used, in nanoseconds, if it is known and `residency` is not (Xen reports a vCPU's CPU
    /// time, but not on which CPUs it was used); otherwise `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ns_anywhere: Option<u64>,
    /// Moves from one CPU to another.
    pub migrations: Availability<u64>,
    /// Moves between cache domains among them.
    pub domain_migrations: Availability<u64>,
    /// Entries into guest mode (KVM).
    pub guest_entries: Availability<u64>,
    /// Time in guest mode (KVM), in nanoseconds.
    pub guest_ns: Availability<u64>,
    /// Exits by the processor's exit reason (KVM), see [`crate::exits::ExitNumbering`].
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
    /// Samples of the software clock in it there.
    pub clock_samples: Option<u64>,
    /// Samples of LLC misses in it there.
    pub miss_samples: Option<u64>,
}

/// KSM's work on one VM in one window, in pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeObservation {
    /// Name of the VM.
    pub vm: String,
    /// Its id.
    pub id: VmId,
    /// Pages that are merged at the end of the window.
    pub merged_now: Availability<u64>,
    /// Pages merged.
    pub merges: Availability<u64>,
    /// Pages that left a merged frame because they were written to or unmapped: merges minus the growth of
    /// merged pages.
    pub breaks: Availability<u64>,
    /// Failed merges.
    pub failed: Availability<u64>,
}

/// resctrl's values of one VM on one cache, at the end of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupancyObservation {
    /// Name of the VM.
    pub vm: String,
    /// The L3 cache, by the kernel's id (`mon_L3_NN`).
    pub cache: u32,
    /// Its cache domain, if domains are L3 caches.
    pub domain: Option<DomainId>,
    /// Bytes of the cache that hold the VM's lines.
    pub llc_bytes: Availability<u64>,
    /// Bytes moved between memory and all nodes in the window.
    pub total_bytes: Availability<u64>,
    /// Bytes moved between memory and the cache's own node in the window.
    pub local_bytes: Availability<u64>,
}

/// The report of one VM's workload in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportObservation {
    /// Name of the VM.
    pub vm: String,
    /// Operations done in the window.
    pub operations: u64,
    /// Mean latency of an operation in microseconds; `None` if not reported.
    pub latency_us: Option<f64>,
}

/// The event that is counted for a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedEvent {
    /// The role.
    pub role: CounterRole,
    /// The name of the event that is really counted, or why there is none.
    pub event: Availability<String>,
}

/// One BPF program in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramObservation {
    /// Its name.
    pub name: String,
    /// Its runs and their cost; unavailable, with the reason, if it is not attached or the kernel keeps no
    /// statistics.
    pub cost: Availability<ProgramCost>,
}

/// Runs of one BPF program (`BPF_ENABLE_STATS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// How often it ran.
    pub runs: u64,
    /// Total time of these runs, in nanoseconds.
    pub run_ns: u64,
}

/// Events that the programs lost in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossObservation {
    /// Starts and ends of KSM passes for which the ring buffer was full.
    pub pass_events: u64,
    /// KSM events of processes for which the map was full.
    pub ksm_events: u64,
    /// Guest exits whose reason did not fit in the map.
    pub exit_reasons: u64,
    /// Threads for which the map was full.
    pub vcpu_threads: u64,
}

impl LossObservation {
    /// The sum of all losses.
    pub fn total(&self) -> u64 {
        self.pass_events + self.ksm_events + self.exit_reasons + self.vcpu_threads
    }
}

impl VcpuObservation {
    /// CPU time it used in the window in nanoseconds; `None` if not measured.
    pub fn run_ns(&self) -> Option<u64> {
        match self.residency.value() {
            Some(cpus) => cpus.iter().map(|cpu| cpu.run_ns).sum(),
            None => self.run_ns_anywhere,
        }
    }

    /// The domain it ran in for most of the window; `None` if it did not run, or the place is unknown.
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

    /// The VM of this name, if it was observed.
    pub fn vm(&self, name: &str) -> Option<&VmRef> {
        self.vms.iter().find(|vm| vm.name == name)
    }

    /// The rates of one VM, over all of its vCPUs.
    pub fn vm_rates(&self, vm: &str) -> Rates {
        self.rates_of(|vcpu| vcpu.vm == vm)
    }

    /// The rates of one cache domain, over the vCPUs that ran there for most of the window.
    pub fn domain_rates(&self, topology: &Topology, domain: DomainId) -> Rates {
        self.rates_of(|vcpu| vcpu.domain(topology) == Some(domain))
    }

    fn rates_of(&self, mut of: impl FnMut(&VcpuObservation) -> bool) -> Rates {
        let deltas: Vec<_> =
            self.vcpus.iter().filter(|vcpu| of(vcpu)).map(|vcpu| vcpu.counters.clone()).collect();
        Rates::of(&deltas)
    }
}
