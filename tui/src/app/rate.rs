//! The four rates, and the figures of one window of observation by VM, vCPU, cache domain and host.

use std::collections::HashMap;

use huddle_model::availability::Availability;
use huddle_model::observation::{Observation, VcpuObservation};
use huddle_model::rates::{CounterDelta, Rates};
use huddle_model::topology::{DomainId, Topology};

/// A rate derived from counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    /// LLC misses per 1000 instructions.
    Mpki,
    /// LLC misses per LLC reference, 0 to 1.
    MissRatio,
    /// LLC misses per second.
    MissesPerS,
    /// Instructions per cycle.
    Ipc,
}

impl Rate {
    pub(crate) const ALL: [Self; 4] = [Self::Mpki, Self::MissRatio, Self::MissesPerS, Self::Ipc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mpki => "MPKI",
            Self::MissRatio => "miss ratio",
            Self::MissesPerS => "misses/s",
            Self::Ipc => "IPC",
        }
    }

    /// Its position in [`Self::ALL`] and in a [`super::series::Point`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn next(self) -> Self {
        Self::ALL[(self.index() + 1) % Self::ALL.len()]
    }

    pub(crate) fn of(self, rates: &Rates) -> &Availability<f64> {
        match self {
            Self::Mpki => &rates.mpki,
            Self::MissRatio => &rates.miss_ratio,
            Self::MissesPerS => &rates.misses_per_s,
            Self::Ipc => &rates.ipc,
        }
    }
}

/// A VM or a vCPU in one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RateRow {
    pub(crate) vm: String,
    /// `None`: the whole VM.
    pub(crate) vcpu: Option<u32>,
    /// Where it ran for most of the window; several if the VM is spread; empty if unknown.
    pub(crate) domains: Vec<DomainId>,
    pub(crate) rates: Rates,
}

/// How much of a domain's CPU time its vCPUs used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Busy {
    /// 0 to 1.
    pub(crate) part: f64,
    /// Some vCPU's CPU time is unknown, so the load is at least this.
    pub(crate) is_least: bool,
}

/// A cache domain in one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DomainRates {
    pub(crate) id: DomainId,
    pub(crate) rates: Rates,
    pub(crate) busy: Availability<Busy>,
}

/// All figures of one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WindowFigures {
    pub(crate) window: u64,
    pub(crate) begin_unix_us: u64,
    pub(crate) end_unix_us: u64,
    pub(crate) host: Rates,
    pub(crate) domains: Vec<DomainRates>,
    pub(crate) vms: Vec<RateRow>,
    pub(crate) vcpus: Vec<RateRow>,
}

impl WindowFigures {
    pub(crate) fn of(seen: &Observation, topology: Option<&Topology>) -> Self {
        let homes: Vec<Option<DomainId>> =
            seen.vcpus.iter().map(|vcpu| topology.and_then(|topology| vcpu.domain(topology))).collect();
        let mut vms: Vec<(&str, Vec<CounterDelta>, Vec<DomainId>)> = Vec::new();
        let mut position: HashMap<&str, usize> = HashMap::new();
        let mut by_domain: HashMap<DomainId, Vec<CounterDelta>> = HashMap::new();
        let mut vcpus = Vec::with_capacity(seen.vcpus.len());
        let mut all = Vec::with_capacity(seen.vcpus.len());
        for (vcpu, home) in seen.vcpus.iter().zip(&homes) {
            let at = *position.entry(&vcpu.vm).or_insert_with(|| {
                vms.push((&vcpu.vm, Vec::new(), Vec::new()));
                vms.len() - 1
            });
            let (_, deltas, domains) = &mut vms[at];
            deltas.push(vcpu.counters.clone());
            if let Some(home) = home {
                if !domains.contains(home) {
                    domains.push(*home);
                }
                by_domain.entry(*home).or_default().push(vcpu.counters.clone());
            }
            all.push(vcpu.counters.clone());
            vcpus.push(RateRow {
                vm: vcpu.vm.clone(),
                vcpu: Some(vcpu.vcpu),
                domains: home.iter().copied().collect(),
                rates: vcpu.counters.rates(),
            });
        }
        let vms = vms.into_iter().map(|(vm, deltas, mut domains)| {
            domains.sort_unstable();
            RateRow { vm: vm.to_owned(), vcpu: None, domains, rates: Rates::of(&deltas) }
        });
        let domains = topology.into_iter().flat_map(Topology::domains).map(|domain| {
            let deltas = by_domain.remove(&domain.id).unwrap_or_default();
            let rates = Rates::of(&deltas);
            DomainRates { id: domain.id, rates, busy: Availability::Unavailable(String::new()) }
        });
        let mut domains: Vec<DomainRates> = domains.collect();
        if let Some(topology) = topology {
            for (domain, busy) in domains.iter_mut().zip(busy(seen, topology)) {
                domain.busy = busy;
            }
        }
        Self {
            window: seen.window,
            begin_unix_us: seen.begin_unix_us,
            end_unix_us: seen.end_unix_us,
            host: Rates::of(&all),
            domains,
            vms: vms.collect(),
            vcpus,
        }
    }

    pub(crate) fn domain(&self, id: DomainId) -> Option<&DomainRates> {
        self.domains.iter().find(|domain| domain.id == id)
    }
}

/// Load of each domain, in the order of the topology: CPU time of vCPUs over the CPUs' time.
fn busy(seen: &Observation, topology: &Topology) -> Vec<Availability<Busy>> {
    let domains = topology.domains();
    let mut used_ns = vec![0u64; domains.len()];
    let mut unknown = None;
    let mut known = 0;
    let index: HashMap<DomainId, usize> =
        domains.iter().enumerate().map(|(at, domain)| (domain.id, at)).collect();
    for vcpu in &seen.vcpus {
        match run_times(vcpu) {
            Ok(times) => {
                known += 1;
                for (cpu, run_ns) in times {
                    if let Some(at) = topology.domain_of(cpu).and_then(|id| index.get(&id)) {
                        used_ns[*at] = used_ns[*at].saturating_add(run_ns);
                    }
                }
            }
            Err(reason) => unknown = unknown.or(Some(reason)),
        }
    }
    let seconds = seen.seconds();
    let of = |(used, cpus): (u64, usize)| {
        if let (0, Some(reason)) = (known, unknown) {
            return Availability::Unavailable(reason.to_owned());
        }
        let capacity_s = seconds * cpus as f64;
        if capacity_s <= 0.0 {
            return Availability::Unavailable("the window has no length".to_owned());
        }
        Availability::Available(Busy { part: used as f64 / 1e9 / capacity_s, is_least: unknown.is_some() })
    };
    used_ns.into_iter().zip(domains.iter().map(|domain| domain.cpus.len())).map(of).collect()
}

/// Each CPU that a vCPU ran on with its CPU time there in nanoseconds.
fn run_times(vcpu: &VcpuObservation) -> Result<Vec<(u32, u64)>, &str> {
    match &vcpu.residency {
        Availability::Unavailable(reason) => Err(reason),
        Availability::Available(cpus) => {
            let time = |cpu: &huddle_model::observation::CpuResidency| Some((cpu.cpu, cpu.run_ns?));
            let times: Option<Vec<(u32, u64)>> = cpus.iter().map(time).collect();
            times.ok_or("the time that vCPUs ran is not counted")
        }
    }
}
