//! What an experiment asks of the host, and the collector as the one that answers.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::Path;

use huddle_collector::discover::{DiscoverOptions, NamedProcess, discover};
use huddle_collector::host::HostRoot;
use huddle_collector::host::topology::{self, TopologyReadError};
use huddle_collector::observe::perf::EventSet;
use huddle_collector::pin::{HostPinner, Journal, StateDir, ThreadPin};
use huddle_collector::sharing::{MergedScan, frames_visible};
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::topology::{DomainId, Topology};
use huddle_model::vm::Vm;
use nix::errno::Errno;
use nix::sched;
use nix::unistd::{Pid, Uid};

use crate::data_pages::DataPages;
use crate::guest::GuestData;
use crate::probes::{HostWindow, Watch};

/// The host as an experiment needs it; tests put a fake in its place.
pub trait Host {
    /// The cache domains at `level`, or at the default level.
    fn topology(&self, level: Option<u8>) -> Result<Topology, HostFailure>;

    /// The VMs that the processes `(name, pid)` stand for, in that order.
    fn find(&self, processes: &[(String, i32)]) -> Result<Vec<Vm>, HostFailure>;

    /// What the VMs share now.
    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure>;

    /// How many pages of the data that each pair of VMs was given, in the order of `vms`, are on one frame;
    /// 0 for pairs with different data.
    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure>;

    /// Sets the affinity of every vCPU to its domain, and makes sure that it holds. The other threads of
    /// its process go with it.
    fn place(&mut self, vms: &[Vm], plan: &Plan) -> Result<(), HostFailure>;

    /// Begins to watch what each vCPU does, as the first window, and ends the watching begun before.
    fn watch(&mut self, vms: &[Vm], topology: &Topology);

    /// Ends the window and tells what was seen in it; the next begins.
    fn window(&mut self) -> HostWindow;

    /// The event that is counted for each role, or why none is, and what one should know of the choice.
    fn counted(&self) -> (Vec<CountedEvent>, Vec<String>);

    /// Makes KSM merge everything it may, fast.
    fn merge(&mut self) -> Result<(), HostFailure>;

    /// Stops KSM's scan; what is merged stays merged.
    fn pause_merging(&mut self) -> Result<(), HostFailure>;

    /// Undoes everything the above have changed. Also done when it is dropped, but only here can one
    /// learn that it failed.
    fn undo(&mut self) -> Result<(), HostFailure>;
}

/// A host that does not do what the experiment asks.
#[derive(Debug, thiserror::Error)]
pub enum HostFailure {
    /// This host cannot do it at all: the reason and the remedy, one sentence.
    #[error("{0}")]
    Cannot(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

impl HostFailure {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn cannot(error: impl std::fmt::Display) -> Self {
        Self::Cannot(error.to_string())
    }
}

/// KSM at full speed and over everything. With `smart_scan` a part of equal data is passed over
/// (Documentation/admin-guide/mm/ksm.rst, Linux 6.18), and an advisor would set `pages_to_scan` itself.
/// `run` comes last, so that the scan begins with all of it.
const MERGE_FAST: [(&str, &str); 5] = [
    ("advisor_mode", "none"),
    ("smart_scan", "0"),
    ("pages_to_scan", "20000"),
    ("sleep_millisecs", "10"),
    ("run", "1"),
];

/// This host, by way of the collector: every change goes through its journal.
pub struct CollectorHost {
    root: HostRoot,
    pinner: HostPinner,
    scan: MergedScan,
    watch: Watch,
    /// Where the data that VMs were given was found.
    data_pages: Option<DataPages>,
    vcpus: u32,
}

impl CollectorHost {
    /// Makes sure that this host can do it and that nobody else changes it at the same time. Changes
    /// nothing but for the lock in the state directory. Each VM is to have `vcpus` vCPUs, on which
    /// `events` are counted while they are watched.
    ///
    /// # Errors
    /// [`HostFailure::Cannot`] without root, frames or KSM; [`HostFailure::Failed`] when another huddle
    /// holds the lock, or the journal of an earlier one is not undone.
    pub fn open(
        root: HostRoot,
        state_dir: Option<&Path>,
        vcpus: u32,
        events: EventSet,
    ) -> Result<Self, HostFailure> {
        if !Uid::effective().is_root() {
            return Err(HostFailure::cannot(
                "experiments need root, to see physical frames (CAP_SYS_ADMIN) and to set KSM; run it with `sudo -E`",
            ));
        }
        frames_visible(&root).map_err(HostFailure::cannot)?;
        let run = root.sys("kernel/mm/ksm/run");
        OpenOptions::new().write(true).open(&run).map_err(|error| {
            HostFailure::Cannot(format!(
                "KSM cannot be used: {}: {error}; use a kernel with CONFIG_KSM=y and a writable /sys",
                run.display()
            ))
        })?;
        let lock = StateDir::open(state_dir).and_then(|dir| dir.lock()).map_err(HostFailure::failed)?;
        let journal = Journal::open(&root, &lock).map_err(HostFailure::failed)?;
        if !journal.entries().is_empty() {
            // The pinner would undo it at the end, and somebody may want it as it is.
            return Err(HostFailure::Failed(format!(
                "an earlier huddle left changes in force (by `huddle pin`, or it was killed; see {}); \
                 undo them first: huddle restore",
                journal.path().display()
            )));
        }
        Ok(Self {
            pinner: HostPinner::new(root.clone(), journal),
            scan: MergedScan::new(root.clone()),
            watch: Watch::new(&root, events),
            data_pages: None,
            vcpus,
            root,
        })
    }

    /// Puts the threads of a guest that are no vCPU (QEMU's main loop, which serves the timers of its
    /// vCPUs) on the CPUs of its vCPUs, as libvirt's `emulatorpin` does: elsewhere they would use the
    /// other cache, and every placement would be a little of both. These are processes of this run's own,
    /// which end with it, so there is nothing to put back.
    fn place_helpers(&self, vm: &Vm, plan: &Plan) -> Result<(), HostFailure> {
        let placed = plan.placement.iter().filter(|placed| placed.vm == vm.name);
        let domains: BTreeSet<DomainId> = placed.map(|placed| placed.domain).collect();
        let used = plan.domains.iter().filter(|domain| domains.is_empty() || domains.contains(&domain.id));
        let mut cpus = sched::CpuSet::new();
        for cpu in used.flat_map(|domain| domain.cpus.iter()) {
            cpus.set(cpu as usize).map_err(HostFailure::failed)?;
        }
        let tasks = self.root.proc(format!("{}/task", vm.process.id));
        // A thread that ends meanwhile needs no place.
        let entries = std::fs::read_dir(&tasks).into_iter().flatten().filter_map(Result::ok);
        let threads = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for thread in threads.filter(|thread| !vm.vcpus.iter().any(|vcpu| vcpu.thread.id == *thread)) {
            match sched::sched_setaffinity(Pid::from_raw(thread), &cpus) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(HostFailure::Failed(format!(
                        "thread {thread} of the VM {} cannot be placed: {errno}",
                        vm.name
                    )));
                }
            }
        }
        Ok(())
    }

    fn has_setting(&self, file: &str) -> bool {
        self.root.sys("kernel/mm/ksm").join(file).exists()
    }
}

impl Host for CollectorHost {
    fn topology(&self, level: Option<u8>) -> Result<Topology, HostFailure> {
        topology::read(&self.root, level).map_err(|error| match error {
            TopologyReadError::Host(_) => HostFailure::failed(error),
            _ => HostFailure::cannot(error),
        })
    }

    fn find(&self, processes: &[(String, i32)]) -> Result<Vec<Vm>, HostFailure> {
        let named = processes.iter().map(|(name, pid)| NamedProcess { name: name.clone(), pid: *pid });
        let options =
            DiscoverOptions { processes: named.collect(), scan_host: false, ..DiscoverOptions::default() };
        let mut found = discover(&self.root, &options).map_err(HostFailure::failed)?.vms;
        let mut vms = Vec::new();
        for (name, pid) in processes {
            let Some(at) = found.iter().position(|vm| vm.name == *name) else {
                return Err(HostFailure::Failed(format!("the VM {name} (pid {pid}) was not found")));
            };
            let vm = found.swap_remove(at);
            if vm.vcpus.len() != self.vcpus as usize {
                return Err(HostFailure::Failed(format!(
                    "the VM {name} (pid {pid}) should have {} vCPU thread(s) and has {}",
                    self.vcpus,
                    vm.vcpus.len()
                )));
            }
            vms.push(vm);
        }
        Ok(vms)
    }

    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        Ok(self.scan.measure(vms).map_err(HostFailure::failed)?.matrix)
    }

    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure> {
        let held = self.data_pages.take().filter(|held| held.is_of(data));
        if let Some(held) = held {
            let shared = held.shared(&self.root, vms).map_err(HostFailure::failed)?;
            if held.is_all_of(&shared) {
                self.data_pages = Some(held);
                return Ok(shared);
            }
        }
        // Not looked for yet, or not where it was: a guest's kernel may move its pages.
        let found = DataPages::find(&self.root, vms, data).map_err(HostFailure::failed)?;
        let shared = found.shared(&self.root, vms).map_err(HostFailure::failed)?;
        self.data_pages = Some(found);
        Ok(shared)
    }

    fn place(&mut self, vms: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
        let report = if plan.placement.is_empty() {
            // Left to the kernel, but on the CPUs that the other arms use: else it would have more.
            let cpus: CpuSet = plan.domains.iter().flat_map(|domain| domain.cpus.iter()).collect();
            let pins = vms.iter().flat_map(|vm| vm.vcpus.iter().map(move |vcpu| (vm, vcpu)));
            let pins = pins.map(|(vm, vcpu)| ThreadPin {
                vm: vm.name.clone(),
                vcpu: vcpu.index,
                process: vcpu.process,
                thread: vcpu.thread,
                cpus: cpus.clone(),
            });
            self.pinner.set_affinities(&pins.collect::<Vec<_>>())
        } else {
            self.pinner.apply(vms, plan)
        };
        let report = report.map_err(HostFailure::failed)?;
        // Notes are about vCPUs that are elsewhere than they were asked to be.
        if report.outcome.skipped > 0 || !report.notes.is_empty() {
            return Err(HostFailure::Failed(format!(
                "the placement {} could not be made: {}",
                plan.policy,
                report.notes.join("; ")
            )));
        }
        vms.iter().try_for_each(|vm| self.place_helpers(vm, plan))
    }

    fn watch(&mut self, vms: &[Vm], topology: &Topology) {
        self.watch.start(vms, topology);
    }

    fn window(&mut self) -> HostWindow {
        self.watch.window()
    }

    fn counted(&self) -> (Vec<CountedEvent>, Vec<String>) {
        (self.watch.counted(), self.watch.notes())
    }

    fn merge(&mut self) -> Result<(), HostFailure> {
        // Older kernels have neither an advisor nor smart_scan.
        let settings: Vec<(&str, String)> = MERGE_FAST
            .iter()
            .filter(|(file, _)| self.has_setting(file))
            .map(|(file, value)| (*file, (*value).to_owned()))
            .collect();
        self.pinner.set_ksm(&settings).map_err(HostFailure::failed)
    }

    fn pause_merging(&mut self) -> Result<(), HostFailure> {
        self.pinner.set_ksm(&[("run", "0".to_owned())]).map_err(HostFailure::failed)
    }

    fn undo(&mut self) -> Result<(), HostFailure> {
        self.watch.stop();
        let report = self.pinner.undo();
        if report.failures.is_empty() { Ok(()) } else { Err(HostFailure::Failed(report.failures.join("; "))) }
    }
}
