//! Measurements of the blocks of an experiment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Arm, Failure, Response, good_us};
use crate::availability::Availability;
use crate::counters::CounterRole;
use crate::observation::{CpuResidency, MergeObservation, OccupancyObservation};
use crate::plan::Plan;
use crate::rates::CounterDelta;

/// One block: every arm once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Number, from 1.
    pub number: usize,
    /// The arms, in the order they were measured; in an invalid block one may be missing.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// Why it is left out of all figures; `None` if it is valid.
    pub invalid: Option<String>,
}

impl Block {
    /// The sample of one arm.
    pub fn sample(&self, arm: Arm) -> Option<&Sample> {
        self.samples.iter().find(|sample| sample.arm == arm)
    }
}

/// Measurements of all VMs in one window of one arm: either `guests` that read, or `tenants` that serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The arm.
    pub arm: Arm,
    /// The microbenchmark: each vCPU of each guest, in the order of the matrix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<GuestSample>,
    /// The web experiment: each server, in the order of the matrix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantSample>,
    /// The plan of an arm whose VMs are placed anew in each block; `None` if one plan holds for the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Other measurements of the host; empty in the web experiment.
    #[serde(flatten)]
    pub seen: Option<Seen>,
}

/// Measurements of the host in a window, other than of vCPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// KSM's work on each VM; empty if not observed, and on Xen.
    #[serde(default)]
    pub merging: Vec<MergeObservation>,
    /// Cache occupancy of each VM at its end; `None` if not observed.
    #[serde(default)]
    pub occupancy: Option<Availability<Vec<OccupancyObservation>>>,
    /// CPU time the guests got, as a fraction (0 to 1) of what the CPUs they were placed on could give to as
    /// many threads: the rest was used by other programs.
    pub cpu_share: f64,
}

/// Measurements of one vCPU of a guest in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestSample {
    /// Name of its VM.
    pub vm: String,
    /// Number of the vCPU within it.
    pub vcpu: u32,
    /// Dependent reads.
    pub reads: u64,
    /// From the end of the burst before the window to the end of the last burst in it, in nanoseconds.
    pub elapsed_ns: u64,
    /// CPU time of its reading thread in that time, in nanoseconds, by the guest's clock.
    pub busy_ns: u64,
    /// The host's counts of the vCPU's thread in the window.
    pub host: Option<VcpuProbe>,
}

/// Responses of one server in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantSample {
    /// Name of its VM.
    pub vm: String,
    /// The measured requests; they are in the table `responses`.
    #[serde(skip)]
    pub responses: Vec<Response>,
    /// Number of measured requests.
    pub requests: usize,
    /// Requests without a good response, including time-outs.
    pub failed: usize,
    /// Time-outs.
    pub timed_out: usize,
    /// Mean response time of good responses, in microseconds; `None` if there are none.
    pub mean_us: Option<f64>,
    /// All requests of the window, including the warm-up, as covered by the host's counters.
    pub requests_in_window: usize,
    /// The host's counts of the server in the window.
    pub host: Option<VcpuProbe>,
}

/// The host's counts of one vCPU in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VcpuProbe {
    /// CPU time of the vCPU as the host counts it, in nanoseconds (`/proc/PID/task/TID/schedstat` of its thread; Xen).
    pub cpu_time_ns: Availability<u64>,
    /// Cycles, instructions, LLC references and LLC misses, scaled if the group had to share the PMU; `None`
    /// if a summary has none.
    pub counters: Option<CounterDelta>,
    /// CPU time on each CPU.
    pub residency: Availability<Vec<CpuResidency>>,
    /// Moves from one CPU to another.
    pub migrations: Availability<u64>,
    /// Moves between cache domains among them.
    pub domain_migrations: Availability<u64>,
    /// Entries into guest mode (KVM).
    pub guest_entries: Availability<u64>,
    /// Time in guest mode (KVM), in nanoseconds.
    pub guest_ns: Availability<u64>,
    /// Exits by the processor's exit reason (KVM).
    pub exits: Availability<BTreeMap<u32, u64>>,
}

impl Sample {
    /// An empty sample of this arm.
    pub fn new(arm: Arm) -> Self {
        Self { arm, guests: Vec::new(), tenants: Vec::new(), plan: None, seen: None }
    }

    /// Each vCPU: the name of its VM, and the host's counts.
    pub fn probes(&self) -> impl Iterator<Item = (&str, Option<&VcpuProbe>)> {
        let guests = self.guests.iter().map(|guest| (&*guest.vm, guest.host.as_ref()));
        guests.chain(self.tenants.iter().map(|tenant| (&*tenant.vm, tenant.host.as_ref())))
    }

    /// Reads per second of all guests together; `None` without guests.
    pub fn reads_per_s(&self) -> Option<f64> {
        (!self.guests.is_empty()).then(|| self.guests.iter().map(GuestSample::reads_per_s).sum())
    }

    /// The sum of `figure` over all guests divided by the sum of their reads; `None` if one lacks it.
    pub fn per_read(&self, figure: impl Fn(&GuestSample) -> Option<f64>) -> Option<f64> {
        let reads: u64 = self.guests.iter().map(|guest| guest.reads).sum();
        let total: f64 = self.guests.iter().map(figure).sum::<Option<f64>>()?;
        (reads > 0).then(|| total / reads as f64)
    }

    /// CPU time per read over all guests, in nanoseconds, by the guests' clocks.
    pub fn busy_ns_per_read(&self) -> Option<f64> {
        self.per_read(|guest| Some(guest.busy_ns as f64))
    }

    /// CPU time that the host gave per read, over all guests, in nanoseconds.
    pub fn host_ns_per_read(&self) -> Option<f64> {
        self.per_read(GuestSample::host_ns)
    }

    /// LLC misses per read, over all guests.
    pub fn llc_misses_per_read(&self) -> Option<f64> {
        self.per_read(GuestSample::llc_misses)
    }

    /// Response times of all good responses, in microseconds.
    pub fn times_us(&self) -> Vec<f64> {
        self.tenants.iter().flat_map(|tenant| good_us(&tenant.responses)).collect()
    }

    /// Mean response time over all good responses, in microseconds; `None` when there are none.
    pub fn mean_us(&self) -> Option<f64> {
        mean(&self.times_us())
    }

    /// LLC misses of the servers for each request; `None` if one has no such counter.
    pub fn llc_misses_per_request(&self) -> Option<f64> {
        let requests: usize = self.tenants.iter().map(|tenant| tenant.requests_in_window).sum();
        let misses = |tenant: &TenantSample| tenant.host.as_ref()?.llc_misses();
        let misses = self.tenants.iter().map(misses).sum::<Option<f64>>()?;
        (requests > 0).then(|| misses / requests as f64)
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl GuestSample {
    /// Reads per second.
    pub fn reads_per_s(&self) -> f64 {
        self.reads as f64 * 1e9 / self.elapsed_ns as f64
    }

    /// CPU time that the host gave the vCPU, in nanoseconds; `None` if unknown.
    pub fn host_ns(&self) -> Option<f64> {
        Some(*self.host.as_ref()?.cpu_time_ns.value()? as f64)
    }

    /// LLC misses of the vCPU; `None` if there is no such counter.
    pub fn llc_misses(&self) -> Option<f64> {
        self.host.as_ref()?.llc_misses()
    }

    /// LLC misses of the vCPU per read; `None` if there is no such counter.
    pub fn llc_misses_per_read(&self) -> Option<f64> {
        Some(self.llc_misses()? / self.reads as f64)
    }
}

impl TenantSample {
    /// The responses of one server: of `all` requests of a window those at `measured` count.
    pub fn new(
        vm: &str,
        all: Vec<Response>,
        measured: std::ops::Range<usize>,
        host: Option<VcpuProbe>,
    ) -> Self {
        let requests_in_window = all.len();
        let responses: Vec<Response> = all.into_iter().take(measured.end).skip(measured.start).collect();
        let failed = responses.iter().filter(|response| response.failure.is_some()).count();
        let late = |response: &&Response| response.failure == Some(Failure::TimedOut);
        let timed_out = responses.iter().filter(late).count();
        let mean_us = mean(&good_us(&responses).collect::<Vec<_>>());
        let (vm, requests) = (vm.to_owned(), responses.len());
        Self { vm, responses, requests, failed, timed_out, mean_us, requests_in_window, host }
    }
}

impl VcpuProbe {
    /// A vCPU without counts, with the reason.
    pub fn unavailable(reason: &str) -> Self {
        let reason = || reason.to_owned();
        Self {
            cpu_time_ns: Availability::Unavailable(reason()),
            counters: Some(CounterDelta::unavailable(&reason())),
            residency: Availability::Unavailable(reason()),
            migrations: Availability::Unavailable(reason()),
            domain_migrations: Availability::Unavailable(reason()),
            guest_entries: Availability::Unavailable(reason()),
            guest_ns: Availability::Unavailable(reason()),
            exits: Availability::Unavailable(reason()),
        }
    }

    /// LLC misses in the window.
    pub fn llc_misses(&self) -> Option<f64> {
        self.counters.as_ref()?.count(CounterRole::LlcMisses).value().copied()
    }

    /// Why they are unknown, if they are.
    pub fn why_no_misses(&self) -> Option<&str> {
        self.counters.as_ref()?.count(CounterRole::LlcMisses).reason()
    }
}

impl Default for VcpuProbe {
    /// A vCPU without counts in a summary.
    fn default() -> Self {
        Self { counters: None, ..Self::unavailable("not in the summary") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_counts_of_a_vcpu_have_a_reason_everywhere() {
        let probe = VcpuProbe::unavailable("no PMU");
        assert_eq!((probe.llc_misses(), probe.why_no_misses()), (None, Some("no PMU")));
        assert_eq!((probe.cpu_time_ns.value(), probe.migrations.reason()), (None, Some("no PMU")));
    }

    #[test]
    fn failed_requests_are_counted_and_in_no_time() {
        let good = Response { at_us: 7, latency_ns: 1500, status: Some(200), failure: None };
        let bad = Response { at_us: 8, latency_ns: 9, status: None, failure: Some(Failure::TimedOut) };
        let tenant = TenantSample::new("vm1", vec![bad, good, bad, good], 1..3, None);
        assert_eq!((tenant.requests, tenant.failed, tenant.timed_out, tenant.mean_us), (2, 1, 1, Some(1.5)));
        assert_eq!(tenant.requests_in_window, 4);
    }
}
