//! Successive windows of what counters and probes see of the VMs: at the end of a window everything is read
//! and converted to differences, and then follows the current VMs.

mod cost;
mod merging;
mod residency;

use std::time::Instant;

use huddle_model::availability::Availability;
use huddle_model::observation::{Observation, VcpuObservation};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use super::perf::{VcpuCounters, VcpuReading};
use super::probes::Probes;
use super::reported::{ReportSocket, Reports};
use super::resctrl::Resctrl;
use cost::CostWindow;
use huddle_host::HostRoot;
use huddle_host::clock::{HostClock, OwnCost, micros};
use huddle_host::discover::complete_vcpus_on_host;
use huddle_host::stages::{Clock, Observer, WorkloadReports};
use merging::MergeWindow;
use residency::{ResidencyWindow, ThreadWindow};

/// The sources of observation; each is optional, with a reason if it is missing.
pub struct Sources {
    /// BPF programs.
    pub probes: Result<Probes, String>,
    /// Counters of the processor.
    pub counters: VcpuCounters,
    /// Cache occupancy.
    pub resctrl: Availability<Resctrl>,
    /// Reports of workloads.
    pub reports: Option<ReportSocket>,
}

/// Observation of all VMs of this host.
pub struct HostObserver {
    root: HostRoot,
    counters: VcpuCounters,
    resctrl: Availability<Resctrl>,
    reports: Reports,
    threads: ResidencyWindow,
    merging: MergeWindow,
    cost: CostWindow,
    /// The topology last passed to resctrl.
    topology: Option<Topology>,
    window: u64,
    /// The current window: when it began, and the VMs observed in it.
    running: Option<(Began, Vec<Vm>)>,
}

/// When a window began.
struct Began {
    unix_us: u64,
    at: Instant,
    own: OwnCost,
}

impl HostObserver {
    /// An observer with these sources.
    pub fn new(root: HostRoot, sources: Sources) -> Self {
        let Sources { probes, counters, resctrl, reports } = sources;
        let (threads, merging, cost) = match probes {
            Ok(probes) => {
                let Probes { ksm, threads, losses, programs, .. } = probes;
                (threads, ksm, CostWindow::new(programs, losses))
            }
            Err(reason) => (
                Availability::Unavailable(reason.clone()),
                Availability::Unavailable(reason.clone()),
                CostWindow::without(reason),
            ),
        };
        let threads = ResidencyWindow::new(threads, cost.reasons());
        let merging = MergeWindow::new(merging);
        Self {
            root,
            counters,
            resctrl,
            reports: Reports::new(reports),
            threads,
            merging,
            cost,
            topology: None,
            window: 0,
            running: None,
        }
    }

    /// Reads all sources and returns the window that ends now.
    fn end(&mut self, began: &Began, vms: &[Vm]) -> Observation {
        self.window += 1;
        let mut threads = self.threads.read(&self.root);
        // In the order of the VMs passed to `sync`.
        let counted = self.counters.read().into_iter();
        let vcpus = counted.map(|vcpu| {
            let thread = threads.of(vcpu.thread);
            vcpu_observation(vcpu, thread)
        });
        let vcpus = vcpus.collect();
        let merging = self.merging.read(&self.root, vms);
        let occupancy = match &mut self.resctrl {
            Availability::Available(resctrl) => Availability::Available(resctrl.read()),
            Availability::Unavailable(reason) => Availability::Unavailable(reason.clone()),
        };
        let (programs, losses) = self.cost.read();
        let now = OwnCost::now();
        Observation {
            window: self.window,
            round: 0,
            trial: None,
            begin_unix_us: began.unix_us,
            // By the monotonic clock: a step of the wall clock does not change a window's length.
            end_unix_us: began.unix_us + micros(began.at.elapsed()),
            vms: vms.iter().map(Vm::reference).collect(),
            vcpus,
            merging,
            occupancy,
            reported: self.reports.take(vms),
            events: self.counters.events(),
            programs,
            losses,
            own_cpu_us: now.process_since(&began.own),
            // Only the work of this thread since the call is reading; observation itself is done by the
            // programs.
            reading_cpu_us: Availability::Unavailable("not read yet".into()),
        }
    }
}

impl Observer for HostObserver {
    fn complete(&mut self, vms: &mut [Vm]) -> Vec<String> {
        match self.threads.guest_threads() {
            Ok(seen) => complete_vcpus_on_host(&self.root, vms, &seen),
            Err(error) => vec![format!("which thread is which vCPU is not known: {error}")],
        }
    }

    fn observe(&mut self, vms: &[Vm], topology: Option<&Topology>) -> Availability<Observation> {
        let asked = OwnCost::now();
        let ended = self.running.take().map(|(began, watched)| self.end(&began, &watched));
        let began = Began { unix_us: HostClock.now_unix_us(), at: Instant::now(), own: OwnCost::now() };
        self.threads.follow(&self.root, vms, topology);
        self.merging.follow(&self.root, vms);
        self.counters.sync(vms);
        if let Availability::Available(resctrl) = &mut self.resctrl {
            if let Some(topology) = topology.filter(|topology| self.topology.as_ref() != Some(*topology)) {
                resctrl.set_domains(topology);
                self.topology = Some(topology.clone());
            }
            resctrl.sync(vms);
        }
        self.running = Some((began, vms.to_vec()));
        let reading_cpu_us = OwnCost::now().thread_since(&asked);
        match ended {
            Some(seen) => Availability::Available(Observation { reading_cpu_us, ..seen }),
            None => Availability::Unavailable("the first window of observation has not ended yet".into()),
        }
    }
}

fn vcpu_observation(counted: VcpuReading, thread: ThreadWindow) -> VcpuObservation {
    VcpuObservation {
        vm: counted.vm,
        vcpu: counted.vcpu,
        id: counted.thread.into(),
        process: Some(counted.process),
        counters: counted.delta,
        residency: thread.residency,
        run_ns_anywhere: None,
        migrations: thread.migrations,
        domain_migrations: thread.domain_migrations,
        guest_entries: thread.guest_entries,
        guest_ns: thread.guest_ns,
        exits: thread.exits,
    }
}
