//! Windows of observation on Xen: the CPU time of vCPUs, the processor's cache monitoring where available,
//! and reports of workloads. LLC misses of single vCPUs are not available: the processor's counters belong to
//! Xen itself, or virtually to one domain (vPMU), and dom0's count only dom0.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::observation::{
    CountedEvent, CpuResidency, Observation, OccupancyObservation, VcpuObservation,
};
use huddle_model::rates::CounterDelta;
use huddle_model::topology::Topology;
use huddle_model::vm::{Vcpu, VcpuId, Vm, VmId};

use super::toolstack::{CacheMonitor, Domain, DomainRef, SocketReading, Toolstack, XenError};
use huddle_host::clock::HostClock;
use huddle_host::clock::{OwnCost, micros};
use huddle_host::stages::{Clock, Observer, WorkloadReports};

/// Why there are no counters of vCPUs.
pub const NO_COUNTERS: &str = "Xen gives dom0 no counters of other domains' vCPUs; cache occupancy and memory traffic \
                               of domains, where the processor measures them, are the nearest";
const NO_PROGRAMS: &str = "no BPF programs observe domains: Xen, not dom0's kernel, schedules them";

/// Observes domains.
pub struct XenObserver {
    toolstack: Box<dyn Toolstack>,
    monitor: Availability<Box<dyn CacheMonitor>>,
    reports: Box<dyn WorkloadReports>,
    /// Domains under cache monitoring.
    monitored: BTreeMap<VmId, Monitored>,
    window: u64,
    running: Option<Began>,
}

/// A domain under the processor's cache monitoring.
struct Monitored {
    domain: DomainRef,
    /// The last reading of each socket.
    before: BTreeMap<u32, SocketReading>,
    /// Why the domain is not monitored.
    trouble: Option<String>,
}

/// The current window.
struct Began {
    unix_us: u64,
    at: Instant,
    own: OwnCost,
    vms: Vec<Vm>,
    /// CPU time of each vCPU so far.
    cpu_time_ns: Result<BTreeMap<VcpuId, u64>, String>,
}

impl XenObserver {
    /// An observer with these sources.
    pub fn new(
        toolstack: Box<dyn Toolstack>,
        monitor: Availability<Box<dyn CacheMonitor>>,
        reports: Box<dyn WorkloadReports>,
    ) -> Self {
        Self { toolstack, monitor, reports, monitored: BTreeMap::new(), window: 0, running: None }
    }

    fn end(&mut self, began: &Began, domains: &Result<Vec<Domain>, XenError>) -> Observation {
        self.window += 1;
        let now = cpu_times(domains);
        let vcpus = began.vms.iter().flat_map(|vm| vm.vcpus.iter().map(move |vcpu| (vm, vcpu)));
        let vcpus = vcpus.map(|(vm, vcpu)| seen_of(vm, vcpu, &began.cpu_time_ns, &now)).collect();
        let occupancy = match &mut self.monitor {
            Availability::Unavailable(reason) => Availability::Unavailable(reason.clone()),
            Availability::Available(monitor) => {
                let rows = began.vms.iter().flat_map(|vm| {
                    let monitored = self.monitored.get_mut(&vm.id);
                    monitored.map(|of| of.read(&mut **monitor, &vm.name)).unwrap_or_default()
                });
                let rows: Vec<_> = rows.collect();
                if rows.is_empty() && !began.vms.is_empty() {
                    // No domain has a value, so the result is unavailable, not an empty list.
                    let trouble = self.monitored.values().find_map(|of| of.trouble.clone());
                    let trouble = trouble.unwrap_or_else(|| "no domain could be read".to_owned());
                    Availability::Unavailable(trouble)
                } else {
                    Availability::Available(rows)
                }
            }
        };
        let none = |role| CountedEvent { role, event: Availability::Unavailable(NO_COUNTERS.to_owned()) };
        Observation {
            window: self.window,
            round: 0,
            trial: None,
            begin_unix_us: began.unix_us,
            end_unix_us: began.unix_us + micros(began.at.elapsed()),
            vms: began.vms.iter().map(Vm::reference).collect(),
            vcpus,
            merging: Vec::new(),
            occupancy,
            reported: self.reports.take(&began.vms),
            events: CounterRole::ALL.into_iter().map(none).collect(),
            programs: Vec::new(),
            losses: Availability::Unavailable(NO_PROGRAMS.to_owned()),
            own_cpu_us: OwnCost::now().process_since(&began.own),
            reading_cpu_us: Availability::Unavailable("not read yet".into()),
        }
    }

    /// Sets cache monitoring to exactly these domains.
    fn follow(&mut self, vms: &[Vm], domains: &Result<Vec<Domain>, XenError>) {
        let Availability::Available(monitor) = &mut self.monitor else { return };
        let wanted: BTreeSet<VmId> = vms.iter().map(|vm| vm.id).collect();
        let left: Vec<VmId> = self.monitored.keys().filter(|id| !wanted.contains(id)).copied().collect();
        for id in left {
            let Some(monitored) = self.monitored.remove(&id) else { continue };
            if let Err(error) = monitor.detach(monitored.domain) {
                tracing::debug!("the processor still monitors {id}: {error}");
            }
        }
        for domain in domains.iter().flatten().map(|domain| domain.domain) {
            let id = VmId::from(domain.xen_id());
            if !wanted.contains(&id) || self.monitored.contains_key(&id) {
                continue;
            }
            let trouble = monitor.attach(domain).err().map(|error| error.to_string());
            let mut of = Monitored { domain, before: BTreeMap::new(), trouble };
            // Earlier counts do not count: the id may have belonged to another domain.
            of.read(&mut **monitor, "");
            self.monitored.insert(id, of);
        }
    }
}

impl Observer for XenObserver {
    fn observe(&mut self, vms: &[Vm], topology: Option<&Topology>) -> Availability<Observation> {
        let asked = OwnCost::now();
        let domains = self.toolstack.domains();
        let ended = self.running.take().map(|began| self.end(&began, &domains));
        self.follow(vms, &domains);
        self.running = Some(Began {
            unix_us: HostClock.now_unix_us(),
            at: Instant::now(),
            own: OwnCost::now(),
            vms: vms.to_vec(),
            cpu_time_ns: cpu_times(&domains),
        });
        let reading_cpu_us = OwnCost::now().thread_since(&asked);
        match ended {
            Some(mut seen) => {
                if let (Some(topology), Availability::Available(rows)) = (topology, &mut seen.occupancy) {
                    in_domains(rows, topology, &self.toolstack.machine());
                }
                Availability::Available(Observation { reading_cpu_us, ..seen })
            }
            None => Availability::Unavailable("the first window of observation has not ended yet".into()),
        }
    }
}

impl Drop for XenObserver {
    fn drop(&mut self) {
        self.follow(&[], &Ok(Vec::new()));
    }
}

impl Monitored {
    fn read(&mut self, monitor: &mut dyn CacheMonitor, vm: &str) -> Vec<OccupancyObservation> {
        let readings = match &self.trouble {
            Some(trouble) => Err(trouble.clone()),
            None => monitor.read(self.domain).map_err(|error| error.to_string()),
        };
        let readings = match readings {
            Ok(readings) => readings,
            Err(reason) => {
                let none = || Availability::Unavailable(reason.clone());
                return self.before.keys().map(|socket| row(vm, *socket, [none(), none(), none()])).collect();
            }
        };
        let mut rows = Vec::new();
        for now in readings {
            let before = self.before.insert(now.socket, now);
            let moved =
                |part: fn(&SocketReading) -> Option<u64>| match (before.as_ref().map(part), part(&now)) {
                    (_, None) => Availability::Unavailable("this processor does not measure it".into()),
                    (None | Some(None), _) => Availability::Unavailable("no earlier reading".into()),
                    (Some(Some(before)), Some(now)) => match now.checked_sub(before) {
                        Some(moved) => Availability::Available(moved),
                        None => Availability::Unavailable("the processor's counter was reset".into()),
                    },
                };
            let llc_bytes = match now.llc_bytes {
                Some(bytes) => Availability::Available(bytes),
                None => Availability::Unavailable("this processor does not measure it".into()),
            };
            let (total, local) = (moved(|of| of.total_bytes), moved(|of| of.local_bytes));
            rows.push(row(vm, now.socket, [llc_bytes, total, local]));
        }
        rows
    }
}

/// A row with the socket's number as its cache; its cache domain is set later.
fn row(
    vm: &str,
    socket: u32,
    [llc_bytes, total_bytes, local_bytes]: [Availability<u64>; 3],
) -> OccupancyObservation {
    OccupancyObservation {
        vm: vm.to_owned(),
        cache: socket,
        domain: None,
        llc_bytes,
        total_bytes,
        local_bytes,
    }
}

/// Sets the cache domain of each socket's cache, where cache domains are sockets.
fn in_domains(
    rows: &mut [OccupancyObservation],
    topology: &Topology,
    machine: &Result<super::toolstack::Machine, XenError>,
) {
    let Ok(machine) = machine else { return };
    for row in rows {
        let of_socket = |cpu: u32| machine.cpus.iter().any(|of| of.cpu == cpu && of.socket == row.cache);
        let mut within = topology.domains().iter().filter(|domain| domain.cpus.iter().any(of_socket));
        row.domain = match (within.next(), within.next()) {
            (Some(domain), None) if domain.cpus.iter().all(of_socket) => Some(domain.id),
            _ => None,
        };
    }
}

fn cpu_times(domains: &Result<Vec<Domain>, XenError>) -> Result<BTreeMap<VcpuId, u64>, String> {
    let domains = domains.as_ref().map_err(ToString::to_string)?;
    let vcpus = domains.iter().flat_map(|domain| {
        domain.vcpus.iter().map(|vcpu| (domain.domain.vcpu_id(vcpu.index), vcpu.cpu_time_ns))
    });
    Ok(vcpus.collect())
}

fn seen_of(
    vm: &Vm,
    vcpu: &Vcpu,
    before: &Result<BTreeMap<VcpuId, u64>, String>,
    now: &Result<BTreeMap<VcpuId, u64>, String>,
) -> VcpuObservation {
    let run_ns = match (before, now) {
        (Err(reason), _) | (_, Err(reason)) => Err(reason.clone()),
        (Ok(before), Ok(now)) => match (before.get(&vcpu.id), now.get(&vcpu.id)) {
            (Some(before), Some(now)) => Ok(now.saturating_sub(*before)),
            _ => Err("the vCPU did not exist at both ends of the window".to_owned()),
        },
    };
    let only_cpu = (vcpu.affinity.len() == 1).then(|| vcpu.affinity.first()).flatten();
    let residency = match (&run_ns, only_cpu) {
        (Ok(run_ns), Some(cpu)) => Availability::Available(vec![CpuResidency {
            cpu,
            run_ns: Some(*run_ns),
            ..CpuResidency::default()
        }]),
        (Ok(_), None) => Availability::Unavailable(
            "Xen reports a vCPU's CPU time, but not on which of several CPUs it was used".into(),
        ),
        (Err(reason), _) => Availability::Unavailable(reason.clone()),
    };
    let not_told = || Availability::Unavailable(NO_PROGRAMS.to_owned());
    VcpuObservation {
        vm: vm.name.clone(),
        vcpu: vcpu.index,
        id: vcpu.id,
        process: None,
        counters: CounterDelta::unavailable(NO_COUNTERS),
        run_ns_anywhere: run_ns.ok().filter(|_| residency.value().is_none()),
        residency,
        migrations: not_told(),
        domain_migrations: not_told(),
        guest_entries: not_told(),
        guest_ns: not_told(),
        exits: Availability::Unavailable(NO_PROGRAMS.to_owned()),
    }
}
