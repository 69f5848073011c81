//! The metrics of VMs, and the figures of one window of observation by VM, vCPU, cache domain and host.

use std::collections::HashMap;

use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::observation::{CpuResidency, Observation, VcpuObservation};
use huddle_model::rates::{CounterDelta, Rates};
use huddle_model::topology::{DomainId, Topology};

/// What is shown of a VM over time: rates of counters, and what can be known without counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// LLC misses per 1000 instructions.
    Mpki,
    /// LLC misses per LLC reference, 0 to 1.
    MissRatio,
    /// LLC misses per second.
    MissesPerS,
    /// Instructions per cycle.
    Ipc,
    /// CPU time per second: 1 is one CPU.
    Run,
    /// The part of its CPU time in its own cache domain, 0 to 1: the one that huddle bound a vCPU to, or the one where it
    /// ran most.
    OwnDomain,
    /// Operations per second, as reported by workloads.
    Operations,
}

impl Metric {
    pub(crate) const ALL: [Self; 7] = [
        Self::Mpki,
        Self::MissRatio,
        Self::MissesPerS,
        Self::Ipc,
        Self::Run,
        Self::OwnDomain,
        Self::Operations,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mpki => "MPKI",
            Self::MissRatio => "miss ratio",
            Self::MissesPerS => "misses/s",
            Self::Ipc => "IPC",
            Self::Run => "CPU time",
            Self::OwnDomain => "own domain",
            Self::Operations => "op/s",
        }
    }

    /// Its position in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn of(self, figures: &Figures) -> &Availability<f64> {
        match self {
            Self::Mpki => &figures.rates.mpki,
            Self::MissRatio => &figures.rates.miss_ratio,
            Self::MissesPerS => &figures.rates.misses_per_s,
            Self::Ipc => &figures.rates.ipc,
            Self::Run => &figures.run,
            Self::OwnDomain => &figures.own_domain,
            Self::Operations => &figures.operations,
        }
    }

    /// Whether it is made from counters.
    pub(crate) fn is_counted(self) -> bool {
        matches!(self, Self::Mpki | Self::MissRatio | Self::MissesPerS | Self::Ipc)
    }
}

/// The values of all metrics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) rates: Rates,
    pub(crate) run: Availability<f64>,
    pub(crate) own_domain: Availability<f64>,
    pub(crate) operations: Availability<f64>,
}

/// A VM or a vCPU in one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) vm: String,
    /// `None`: the whole VM.
    pub(crate) vcpu: Option<u32>,
    /// Where it ran for most of the window; several if the VM is spread; empty if unknown.
    pub(crate) domains: Vec<DomainId>,
    pub(crate) figures: Figures,
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
pub(crate) struct DomainFigures {
    pub(crate) id: DomainId,
    /// Of the vCPUs that ran there most; the CPU time is that of all vCPUs there.
    pub(crate) figures: Figures,
    pub(crate) busy: Availability<Busy>,
}

/// All figures of one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WindowFigures {
    pub(crate) window: u64,
    pub(crate) begin_unix_us: u64,
    pub(crate) end_unix_us: u64,
    pub(crate) host: Figures,
    pub(crate) domains: Vec<DomainFigures>,
    pub(crate) vms: Vec<Row>,
    pub(crate) vcpus: Vec<Row>,
    /// The metrics that some VM has a value of, and some vCPU.
    pub(crate) known: [Vec<Metric>; 2],
}

/// Why a vCPU, a domain or a host has no operations, and a VM without reports.
const OF_WHOLE_VMS: &str = "operations are reported for whole VMs";
const NOT_REPORTED: &str = "its workload reports no operations";
const NONE_REPORTS: &str = "no workload reports its operations";
/// Why a domain has no residency.
const OF_VCPUS: &str = "it is a figure of vCPUs";
/// Why a domain has no CPU time although that of some vCPUs is known.
const SOME_UNKNOWN: &str = "it is not known how long some vCPU ran";
const NO_LENGTH: &str = "the window has no length";

/// CPU time of vCPUs, with its parts.
#[derive(Clone, Debug, Default)]
struct Ran {
    all_ns: u64,
    /// Of it, in the vCPUs' own domains.
    own_ns: u64,
    /// Why the CPU time, and the domain, of some vCPU is unknown.
    unknown: Option<String>,
    no_place: Option<String>,
}

impl Ran {
    /// `own`: the domain that huddle bound it to.
    fn of(vcpu: &VcpuObservation, topology: Option<&Topology>, own: Option<DomainId>) -> Self {
        let times = match run_times(vcpu) {
            Ok(times) => times,
            Err(reason) => {
                return Self {
                    all_ns: vcpu.run_ns_anywhere.unwrap_or(0),
                    unknown: vcpu.run_ns_anywhere.is_none().then(|| reason.to_owned()),
                    no_place: Some(reason.to_owned()),
                    ..Self::default()
                };
            }
        };
        let mut ran = Self { all_ns: times.iter().map(|(_, ns)| ns).sum(), ..Self::default() };
        let Some(topology) = topology else {
            return Self { no_place: Some("cache domains are not known".to_owned()), ..ran };
        };
        // A vCPU runs in few domains.
        let mut by_domain: Vec<(DomainId, u64)> = Vec::new();
        for (cpu, ns) in &times {
            let Some(domain) = topology.domain_of(*cpu) else { continue };
            match by_domain.iter_mut().find(|(known, _)| *known == domain) {
                Some((_, sum)) => *sum += ns,
                None => by_domain.push((domain, *ns)),
            }
        }
        let counts = |(domain, _): &&(DomainId, u64)| own.is_none_or(|own| own == *domain);
        ran.own_ns = by_domain.iter().filter(counts).map(|(_, ns)| *ns).max().unwrap_or(0);
        ran
    }

    fn add(&mut self, other: &Self) {
        self.all_ns += other.all_ns;
        self.own_ns += other.own_ns;
        self.unknown = self.unknown.take().or_else(|| other.unknown.clone());
        self.no_place = self.no_place.take().or_else(|| other.no_place.clone());
    }

    fn run(&self, seconds: f64) -> Availability<f64> {
        match &self.unknown {
            Some(reason) => Availability::Unavailable(reason.clone()),
            None if seconds <= 0.0 => Availability::Unavailable(NO_LENGTH.to_owned()),
            None => Availability::Available(self.all_ns as f64 / 1e9 / seconds),
        }
    }

    fn own_domain(&self) -> Availability<f64> {
        match &self.no_place {
            Some(reason) => Availability::Unavailable(reason.clone()),
            None if self.all_ns == 0 => Availability::Unavailable("it did not run in this window".to_owned()),
            None => Availability::Available(self.own_ns as f64 / self.all_ns as f64),
        }
    }
}

impl WindowFigures {
    /// `in_force`: the domains that huddle bound vCPUs to in the window.
    pub(crate) fn of(seen: &Observation, topology: Option<&Topology>, in_force: &Assignment) -> Self {
        let seconds = seen.seconds();
        let homes: Vec<Option<DomainId>> =
            seen.vcpus.iter().map(|vcpu| topology.and_then(|topology| vcpu.domain(topology))).collect();
        let mut vms: Vec<(&str, Vec<CounterDelta>, Vec<DomainId>, Ran)> = Vec::new();
        let mut position: HashMap<&str, usize> = HashMap::new();
        let mut by_domain: HashMap<DomainId, Vec<CounterDelta>> = HashMap::new();
        let mut vcpus = Vec::with_capacity(seen.vcpus.len());
        let mut all = Vec::with_capacity(seen.vcpus.len());
        let mut all_ran = Ran::default();
        for (vcpu, home) in seen.vcpus.iter().zip(&homes) {
            let at = *position.entry(&vcpu.vm).or_insert_with(|| {
                vms.push((&vcpu.vm, Vec::new(), Vec::new(), Ran::default()));
                vms.len() - 1
            });
            let ran = Ran::of(vcpu, topology, in_force.domain(&vcpu.vm, vcpu.vcpu));
            let (_, deltas, domains, of_vm) = &mut vms[at];
            deltas.push(vcpu.counters.clone());
            of_vm.add(&ran);
            all_ran.add(&ran);
            if let Some(home) = home {
                if !domains.contains(home) {
                    domains.push(*home);
                }
                by_domain.entry(*home).or_default().push(vcpu.counters.clone());
            }
            all.push(vcpu.counters.clone());
            vcpus.push(Row {
                vm: vcpu.vm.clone(),
                vcpu: Some(vcpu.vcpu),
                domains: home.iter().copied().collect(),
                figures: Figures {
                    rates: vcpu.counters.rates(),
                    run: ran.run(seconds),
                    own_domain: ran.own_domain(),
                    operations: Availability::Unavailable(OF_WHOLE_VMS.to_owned()),
                },
            });
        }
        let reported = Reported::of(seen);
        let vms = vms.into_iter().map(|(vm, deltas, mut domains, ran)| {
            domains.sort_unstable();
            let figures = Figures {
                rates: Rates::of(&deltas),
                run: ran.run(seconds),
                own_domain: ran.own_domain(),
                operations: reported.by(vm, seconds),
            };
            Row { vm: vm.to_owned(), vcpu: None, domains, figures }
        });
        let vms: Vec<Row> = vms.collect();
        let host = Figures {
            rates: Rates::of(&all),
            run: all_ran.run(seconds),
            own_domain: all_ran.own_domain(),
            operations: reported.all(seconds),
        };
        let busy = topology.map_or_else(Vec::new, |topology| busy(seen, topology));
        let domains = topology.into_iter().flat_map(Topology::domains).zip(busy).map(|(domain, busy)| {
            let deltas = by_domain.remove(&domain.id).unwrap_or_default();
            let run = match &busy {
                // The load says so by a sign; a figure and a chart of it could not.
                Availability::Available(busy) if busy.is_least => {
                    Availability::Unavailable(SOME_UNKNOWN.to_owned())
                }
                busy => busy.clone().map(|busy| busy.part * domain.cpus.len() as f64),
            };
            let figures = Figures {
                rates: Rates::of(&deltas),
                run,
                own_domain: Availability::Unavailable(OF_VCPUS.to_owned()),
                operations: Availability::Unavailable(OF_WHOLE_VMS.to_owned()),
            };
            DomainFigures { id: domain.id, figures, busy }
        });
        Self {
            window: seen.window,
            begin_unix_us: seen.begin_unix_us,
            end_unix_us: seen.end_unix_us,
            host,
            domains: domains.collect(),
            known: [known(&vms), known(&vcpus)],
            vms,
            vcpus,
        }
    }

    pub(crate) fn domain(&self, id: DomainId) -> Option<&DomainFigures> {
        self.domains.iter().find(|domain| domain.id == id)
    }

    /// The metrics that some VM has a value of, or some vCPU.
    pub(crate) fn known(&self, are_vcpus: bool) -> &[Metric] {
        &self.known[usize::from(are_vcpus)]
    }
}

fn known(rows: &[Row]) -> Vec<Metric> {
    let is_known = |metric: &Metric| rows.iter().any(|row| metric.of(&row.figures).value().is_some());
    Metric::ALL.into_iter().filter(is_known).collect()
}

/// What workloads reported.
struct Reported<'a>(HashMap<&'a str, u64>);

impl<'a> Reported<'a> {
    fn of(seen: &'a Observation) -> Self {
        Self(seen.reported.iter().map(|report| (&*report.vm, report.operations)).collect())
    }

    fn by(&self, vm: &str, seconds: f64) -> Availability<f64> {
        match self.0.get(vm) {
            None if self.0.is_empty() => Availability::Unavailable(NONE_REPORTS.to_owned()),
            None => Availability::Unavailable(NOT_REPORTED.to_owned()),
            Some(operations) => per_second(*operations, seconds),
        }
    }

    fn all(&self, seconds: f64) -> Availability<f64> {
        match self.0.is_empty() {
            true => Availability::Unavailable(NONE_REPORTS.to_owned()),
            false => {
                per_second(self.0.values().fold(0, |sum: u64, of_vm| sum.saturating_add(*of_vm)), seconds)
            }
        }
    }
}

fn per_second(operations: u64, seconds: f64) -> Availability<f64> {
    if seconds > 0.0 {
        Availability::Available(operations as f64 / seconds)
    } else {
        Availability::Unavailable(NO_LENGTH.to_owned())
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
            return Availability::Unavailable(NO_LENGTH.to_owned());
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
            let time = |cpu: &CpuResidency| Some((cpu.cpu, cpu.run_ns?));
            let times: Option<Vec<(u32, u64)>> = cpus.iter().map(time).collect();
            times.ok_or("the time that vCPUs ran is not counted")
        }
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::observation::ReportObservation;
    use huddle_testing::fixtures::{SMALL, observed};

    use super::*;

    fn figures(change: impl FnOnce(&mut Observation), in_force: &Assignment) -> WindowFigures {
        let view = observed(SMALL, 1);
        let mut seen = Observation::clone(view.observation.value().unwrap());
        change(&mut seen);
        WindowFigures::of(&seen, view.round.topology.value().map(|topology| &**topology), in_force)
    }

    fn ran(cpu: u32, run_ns: u64) -> CpuResidency {
        CpuResidency { cpu, run_ns: Some(run_ns), ..CpuResidency::default() }
    }

    /// vCPU 0 of the first VM ran 0.3 s on CPUs 0 and 1, in domain 0, and 0.1 s on CPU 4, in domain 1.
    fn spread(seen: &mut Observation) {
        seen.vcpus[0].residency =
            Availability::Available(vec![ran(0, 200_000_000), ran(1, 100_000_000), ran(4, 100_000_000)]);
    }

    #[test]
    fn the_own_domain_is_that_in_force_else_the_one_it_ran_in_most() {
        let unbound = figures(spread, &Assignment::default());
        let share = |figures: &WindowFigures| *figures.vcpus[0].figures.own_domain.value().unwrap();
        assert!((share(&unbound) - 0.75).abs() < 1e-9);
        assert!((unbound.vcpus[0].figures.run.value().unwrap() - 0.4).abs() < 1e-9);
        let name = unbound.vcpus[0].vm.clone();
        let bound = [((name.clone(), 0), DomainId(1))].into_iter().collect();
        assert!((share(&figures(spread, &bound)) - 0.25).abs() < 1e-9);
        // Its other vCPU ran 0.7 s where it ran most.
        let vm = unbound.vms.iter().find(|row| row.vm == name).unwrap();
        assert!((vm.figures.own_domain.value().unwrap() - 1.0 / 1.1).abs() < 1e-9);
    }

    #[test]
    fn what_is_unknown_is_never_zero() {
        let hidden = figures(
            |seen| seen.vcpus[0].residency = Availability::Unavailable("no BPF".to_owned()),
            &Assignment::default(),
        );
        for row in [&hidden.vcpus[0].figures, &hidden.vms[0].figures, &hidden.host] {
            assert_eq!((row.run.reason(), row.own_domain.reason()), (Some("no BPF"), Some("no BPF")));
        }
        let idle = figures(
            |seen| seen.vcpus[0].residency = Availability::Available(Vec::new()),
            &Assignment::default(),
        );
        assert_eq!(idle.vcpus[0].figures.run, Availability::Available(0.0));
        assert!(idle.vcpus[0].figures.own_domain.value().is_none());
        let anywhere = figures(
            |seen| {
                seen.vcpus[0].residency = Availability::Unavailable("Xen".to_owned());
                seen.vcpus[0].run_ns_anywhere = Some(500_000_000);
            },
            &Assignment::default(),
        );
        assert_eq!(anywhere.vcpus[0].figures.run, Availability::Available(0.5));
        assert_eq!(anywhere.vcpus[0].figures.own_domain.reason(), Some("Xen"));
    }

    #[test]
    fn operations_are_those_that_workloads_reported() {
        let none = figures(|_| {}, &Assignment::default());
        assert_eq!(none.host.operations.reason(), Some(NONE_REPORTS));
        assert!(!none.known(false).contains(&Metric::Operations));
        let some = figures(
            |seen| {
                let vm = seen.vcpus[0].vm.clone();
                seen.reported = vec![ReportObservation { vm, operations: 1200, latency_us: None }];
            },
            &Assignment::default(),
        );
        assert_eq!(some.vms[0].figures.operations, Availability::Available(1200.0));
        assert_eq!(some.host.operations, Availability::Available(1200.0));
        assert_eq!(some.vms[1].figures.operations.reason(), Some(NOT_REPORTED));
        assert!(some.known(false).contains(&Metric::Operations));
        assert!(!some.known(true).contains(&Metric::Operations), "vCPUs have none");
    }

    #[test]
    fn without_a_pmu_what_can_be_known_is() {
        let counterless = figures(
            |seen| {
                let none = CounterDelta::unavailable("no PMU");
                seen.vcpus.iter_mut().for_each(|vcpu| vcpu.counters = none.clone());
            },
            &Assignment::default(),
        );
        assert_eq!(counterless.known(false), [Metric::Run, Metric::OwnDomain]);
    }
}
