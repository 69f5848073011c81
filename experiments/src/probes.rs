//! What the host observes of each vCPU in a window: its CPU time, and what `huddle-observe` observes, as far as
//! this host has it: the processor's counters, where the thread ran, its moves, its time in guest
//! mode, KSM's merges and breaks, and cache occupancy.

use std::path::{Path, PathBuf};

use huddle_host::HostRoot;
use huddle_host::stages::Observer;
use huddle_model::availability::Availability;
use huddle_model::observation::{CountedEvent, MergeObservation, OccupancyObservation, VcpuObservation};
use huddle_model::summary::VcpuProbe;
use huddle_model::topology::Topology;
use huddle_model::vm::{Vcpu, Vm};
use huddle_observe::observer::{HostObserver, Sources};
use huddle_observe::perf::{EventSet, VcpuCounters};
use huddle_observe::probes::program::Program;
use huddle_observe::probes::{ProbeConfig, Probes};
use huddle_observe::resctrl::Resctrl;
use huddle_xen::observer::XenObserver;

/// The programs that run while guests are measured. Those that sample on a timer are left out: they
/// add nothing to the counters, and interrupt what is measured.
const PROGRAMS: [Program; 8] = [
    Program::KsmMergeOnePage,
    Program::KsmMergeWithKsmPage,
    Program::KsmRemoveRmapItem,
    Program::KsmRemoveKsmPage,
    Program::SchedSwitch,
    Program::SchedMigrateTask,
    Program::KvmEntry,
    Program::KvmExit,
];

/// What the host observed in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostWindow {
    /// Each vCPU, in the order of the VMs.
    pub vcpus: Vec<VcpuProbe>,
    /// What KSM did to each VM.
    pub merging: Vec<MergeObservation>,
    /// Cache occupancy of each VM, where the processor reports it.
    pub occupancy: Option<Availability<Vec<OccupancyObservation>>>,
}

/// Watches the vCPUs of a run, window by window.
pub(crate) struct Watch {
    root: HostRoot,
    events: EventSet,
    running: Option<Running>,
}

struct Running {
    observer: HostObserver,
    vms: Vec<Vm>,
    topology: Topology,
    /// Of each vCPU in the order of the VMs: its schedstat, and what that said when the window began.
    cpu_times: Vec<(PathBuf, Result<u64, String>)>,
}

impl Watch {
    /// Counts `events` once it is started.
    pub(crate) fn new(root: &HostRoot, events: EventSet) -> Self {
        Self { root: root.clone(), events, running: None }
    }

    /// The event that is really counted for each role, or why none is.
    pub(crate) fn counted(&self) -> Vec<CountedEvent> {
        self.events.probe()
    }

    /// Remarks on the choice of events.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.events.notes()
    }

    /// Begins to watch the vCPUs of `vms`, and with it the first window.
    pub(crate) fn start(&mut self, vms: &[Vm], topology: &Topology) {
        // What is attached for an earlier run is detached first.
        self.running = None;
        let probes = Probes::load(&self.root, &ProbeConfig::only(&PROGRAMS));
        let sources = Sources {
            probes: probes.map_err(|error| error.to_string()),
            counters: VcpuCounters::new(self.root.clone(), self.events.clone()),
            resctrl: Resctrl::open(&self.root).into(),
            reports: None,
        };
        let threads = vms.iter().flat_map(|vm| vm.vcpus.iter().filter_map(Vcpu::thread));
        let cpu_times = threads.map(|(process, thread)| {
            let file = format!("{}/task/{}/schedstat", process.id, thread.id);
            (self.root.proc(file), Err("the first window has not begun".to_owned()))
        });
        let mut running = Running {
            observer: HostObserver::new(self.root.clone(), sources),
            vms: vms.to_vec(),
            topology: topology.clone(),
            cpu_times: cpu_times.collect(),
        };
        // Begins the first window.
        running.window();
        self.running = Some(running);
    }

    /// Ends the window and begins the next.
    pub(crate) fn window(&mut self) -> HostWindow {
        self.running.as_mut().map(Running::window).unwrap_or_default()
    }

    /// Stops watching: detaches programs, counters and monitoring groups.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }
}

impl Running {
    fn window(&mut self) -> HostWindow {
        let cpu_times: Vec<Availability<u64>> = self.cpu_times.iter_mut().map(spent).collect();
        match self.observer.observe(&self.vms, Some(&self.topology)) {
            Availability::Available(seen) => HostWindow {
                vcpus: cpu_times.into_iter().zip(seen.vcpus).map(|(cpu, vcpu)| probe(cpu, vcpu)).collect(),
                merging: seen.merging,
                occupancy: Some(seen.occupancy),
            },
            Availability::Unavailable(why) => {
                let vcpu = |cpu_time_ns| VcpuProbe { cpu_time_ns, ..VcpuProbe::unavailable(&why) };
                HostWindow { vcpus: cpu_times.into_iter().map(vcpu).collect(), ..HostWindow::default() }
            }
        }
    }
}

/// Watches the vCPUs of domains of Xen's, window by window.
pub(crate) struct DomainWatch {
    observer: XenObserver,
    running: Option<(Vec<Vm>, Topology)>,
}

impl DomainWatch {
    /// By this observer, which watches nothing yet.
    pub(crate) fn new(observer: XenObserver) -> Self {
        Self { observer, running: None }
    }

    /// Begins to watch the vCPUs of `vms`, and with it the first window.
    pub(crate) fn start(&mut self, vms: &[Vm], topology: &Topology) {
        self.running = Some((vms.to_vec(), topology.clone()));
        // Begins the first window; one that ran before is nobody's.
        self.window();
    }

    /// Ends the window and begins the next.
    pub(crate) fn window(&mut self) -> HostWindow {
        let Some((vms, topology)) = &self.running else { return HostWindow::default() };
        match self.observer.observe(vms, Some(topology)) {
            Availability::Available(seen) => HostWindow {
                vcpus: seen.vcpus.into_iter().map(|vcpu| probe(time_of(&vcpu), vcpu)).collect(),
                merging: seen.merging,
                occupancy: Some(seen.occupancy),
            },
            Availability::Unavailable(why) => {
                let vcpus = vms.iter().flat_map(|vm| &vm.vcpus);
                HostWindow {
                    vcpus: vcpus.map(|_| VcpuProbe::unavailable(&why)).collect(),
                    ..HostWindow::default()
                }
            }
        }
    }

    /// Stops watching and the processor's monitoring.
    pub(crate) fn stop(&mut self) {
        self.running = None;
        self.observer.observe(&[], None);
    }
}

/// CPU time of a vCPU, whether or not its CPUs are known.
fn time_of(seen: &VcpuObservation) -> Availability<u64> {
    seen.run_ns().map_or_else(
        || {
            Availability::Unavailable(
                seen.residency.reason().unwrap_or("it is not known on all CPUs").to_owned(),
            )
        },
        Availability::Available,
    )
}

fn probe(cpu_time_ns: Availability<u64>, seen: VcpuObservation) -> VcpuProbe {
    VcpuProbe {
        cpu_time_ns,
        counters: Some(seen.counters),
        residency: seen.residency,
        migrations: seen.migrations,
        domain_migrations: seen.domain_migrations,
        guest_entries: seen.guest_entries,
        guest_ns: seen.guest_ns,
        exits: seen.exits,
    }
}

/// CPU time since the last call.
fn spent((path, before): &mut (PathBuf, Result<u64, String>)) -> Availability<u64> {
    let now = cpu_time_ns(path);
    let earlier = std::mem::replace(before, now.clone());
    let spent = now.and_then(|now| {
        now.checked_sub(earlier?).ok_or_else(|| format!("{}: CPU time ran backwards", path.display()))
    });
    spent.into()
}

/// The first field of schedstat (Documentation/scheduler/sched-stats.rst): time on the CPU.
fn cpu_time_ns(path: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{}: {error} (needs CONFIG_SCHED_INFO)", path.display()))?;
    let first = text.split_ascii_whitespace().next().and_then(|field| field.parse().ok());
    first.ok_or_else(|| format!("{}: no CPU time in {text:?}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use huddle_model::observation::CpuResidency;
    use huddle_model::rates::CounterDelta;
    use huddle_model::vm::{TaskId, VcpuId};

    use super::*;

    #[test]
    fn cpu_time_is_a_difference_and_a_reason_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("schedstat");
        let mut watched = (path.clone(), Err("not begun".to_owned()));
        let mut after = |text: Option<&str>| {
            match text {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            spent(&mut watched)
        };
        assert_eq!(after(Some("100 5 7\n")).reason(), Some("not begun"));
        assert_eq!(after(Some("350 5 9\n")).value(), Some(&250));
        assert!(after(Some("300 5 9\n")).reason().unwrap().contains("backwards"));
        assert!(after(Some("\n")).reason().unwrap().contains("no CPU time"));
        assert!(after(None).reason().unwrap().contains("CONFIG_SCHED_INFO"));
    }

    #[test]
    fn the_time_of_a_vcpu_is_known_with_and_without_its_cpus() {
        let vcpu = |run_ns_anywhere, residency| VcpuObservation {
            vm: "vm1".into(),
            vcpu: 0,
            id: VcpuId::Thread(TaskId { id: 4, start_ticks: 7 }),
            process: Some(TaskId { id: 3, start_ticks: 7 }),
            counters: CounterDelta::unavailable("no PMU"),
            run_ns_anywhere,
            residency,
            migrations: Availability::Unavailable("no".into()),
            domain_migrations: Availability::Unavailable("no".into()),
            guest_entries: Availability::Unavailable("no".into()),
            guest_ns: Availability::Unavailable("no".into()),
            exits: Availability::Unavailable("no".into()),
        };
        let none = || Availability::Unavailable("on one of several".to_owned());
        let on = |run_ns: &[Option<u64>]| {
            let on = (0..).zip(run_ns);
            Availability::Available(
                on.map(|(cpu, run_ns)| CpuResidency { cpu, run_ns: *run_ns, ..CpuResidency::default() })
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(time_of(&vcpu(Some(50), none())).value(), Some(&50));
        assert_eq!(time_of(&vcpu(None, on(&[Some(20), Some(30)]))).value(), Some(&50));
        assert_eq!(time_of(&vcpu(None, none())).reason(), Some("on one of several"));
        assert!(time_of(&vcpu(None, on(&[Some(20), None]))).reason().is_some());
    }
}
