//! A host whose VMs are processes, by the collector's crates.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::Path;

use huddle_engine::backend::{Backend as _, CounterChoice, HostBackend, SharingChoice};
use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, NamedProcess};
use huddle_host::pin::{HostPinner, Journal};
use huddle_host::topology;
use huddle_model::cache::CacheModel;
use huddle_model::matrix::{Method, SharingMatrix, Weigh};
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::topology::{DomainId, Topology};
use huddle_model::vm::Vm;
use huddle_observe::perf::EventSet;
use huddle_sharing::{KernelAccess, frames_visible};
use nix::errno::Errno;
use nix::sched;
use nix::unistd::{Pid, Uid};

use super::{CONTENT, Host, HostFailure, check_vcpus, empty_journal, lock, place_vcpus};
use crate::access_stream::{AccessStreams, StreamFile, Streamed};
use crate::data_pages::{DataPages, ProcessMemory};
use crate::guest::{GuestData, GuestId};
use crate::probes::{HostWindow, Watch};

/// KSM at full speed and over everything. With `smart_scan` a part of equal data is skipped
/// (Documentation/admin-guide/mm/ksm.rst, Linux 6.18), and an advisor would set `pages_to_scan` itself.
/// `run` comes last, so that the scan begins with all of it.
const MERGE_FAST: [(&str, &str); 5] = [
    ("advisor_mode", "none"),
    ("smart_scan", "0"),
    ("pages_to_scan", "20000"),
    ("sleep_millisecs", "10"),
    ("run", "1"),
];

/// This host, by the collector's crates: every change goes through its journal.
pub struct CollectorHost {
    root: HostRoot,
    backend: HostBackend,
    /// How sharing is measured: by the frames that VMs share, or, where nothing is merged, by their contents.
    method: Method,
    pinner: HostPinner,
    watch: Watch,
    /// Where the data that VMs were given was found.
    data_pages: Option<DataPages>,
    vcpus: u32,
}

impl CollectorHost {
    /// Makes sure that this host can do it and that no other huddle changes it at the same time. Changes
    /// only the lock in the state directory. Each VM is to have `vcpus` vCPUs, on which
    /// `events` are counted while they are watched. Unless it `merges`, what VMs have in common is measured by
    /// their contents.
    ///
    /// # Errors
    /// [`HostFailure::Cannot`] without root, frames or KSM; [`HostFailure::Failed`] when another huddle
    /// holds the lock, or the journal of an earlier one is not undone.
    pub fn open(
        root: HostRoot,
        state_dir: Option<&Path>,
        vcpus: u32,
        events: EventSet,
        merges: bool,
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
        let lock = lock(&root, state_dir)?;
        let journal = empty_journal(Journal::open(&root, &lock).map_err(HostFailure::failed)?)?;
        let backend = HostBackend {
            root: root.clone(),
            cache_level: None,
            // The guests are this run's own, and so are their affinities.
            discover: DiscoverOptions {
                scan_host: false,
                override_bindings: true,
                ..DiscoverOptions::default()
            },
            sharing: SharingChoice::default(),
            counters: CounterChoice::default(),
            kernel: KernelAccess::default(),
        };
        Ok(Self {
            pinner: backend.pinner(journal)?,
            method: if merges { Method::Merged } else { Method::Content },
            backend,
            watch: Watch::new(&root, events),
            data_pages: None,
            vcpus,
            root,
        })
    }

    /// Puts the threads of a guest that are not vCPUs (QEMU's main loop, which serves the timers of its
    /// vCPUs) on the CPUs of its vCPUs, as libvirt's `emulatorpin` does: elsewhere they would use the
    /// other cache, and every placement would be a little of both. These are processes of this run's own,
    /// which end with it, so there is nothing to undo.
    fn place_helpers(&self, vm: &Vm, plan: &Plan) -> Result<(), HostFailure> {
        let placed = plan.placement.iter().filter(|placed| placed.vm == vm.name);
        let domains: BTreeSet<DomainId> = placed.map(|placed| placed.domain).collect();
        let used = plan.domains.iter().filter(|domain| domains.is_empty() || domains.contains(&domain.id));
        let mut cpus = sched::CpuSet::new();
        for cpu in used.flat_map(|domain| domain.cpus.iter()) {
            cpus.set(cpu as usize).map_err(HostFailure::failed)?;
        }
        let Some(process) = vm.process() else { return Ok(()) };
        let tasks = self.root.proc(format!("{}/task", process.id));
        // A thread may end meanwhile.
        let entries = std::fs::read_dir(&tasks).into_iter().flatten().filter_map(Result::ok);
        let threads = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_vcpu = |id: i32| vm.vcpus.iter().any(|vcpu| vcpu.id.thread().is_some_and(|of| of.id == id));
        for thread in threads.filter(|thread| !is_vcpu(*thread)) {
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
        Ok(HostBackend { cache_level: level, ..self.backend.clone() }.topology()?)
    }

    fn cache_model(&self, topology: &Topology) -> Result<CacheModel, HostFailure> {
        let caches = topology::usable_cpus(&self.root)
            .and_then(|usable| topology::cache_geometries(&self.root, &usable))
            .map_err(HostFailure::cannot)?;
        CacheModel::of_host("host", topology, &caches).map_err(HostFailure::cannot)
    }

    fn find(&self, guests: &[(String, GuestId)]) -> Result<Vec<Vm>, HostFailure> {
        let pid_of = |(name, id): &(String, GuestId)| match id {
            GuestId::Process(pid) => Ok(NamedProcess { name: name.clone(), pid: *pid }),
            GuestId::Domain(_) => Err(HostFailure::Failed(format!("the VM {name} ({id}) is not a process"))),
        };
        let processes = guests.iter().map(pid_of).collect::<Result<_, _>>()?;
        let discover = DiscoverOptions { processes, ..self.backend.discover.clone() };
        let mut found = HostBackend { discover, ..self.backend.clone() }.vms()?.vms;
        let vm_of = |(name, id): &(String, GuestId)| {
            let at = found.iter().position(|vm| vm.name == *name);
            let at = at.ok_or_else(|| HostFailure::Failed(format!("the VM {name} ({id}) was not found")))?;
            check_vcpus(found.swap_remove(at), *id, self.vcpus)
        };
        guests.iter().map(vm_of).collect()
    }

    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        Ok(self.backend.measure(self.method, CONTENT, vms)?.matrix)
    }

    fn measure_reads(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        let sharing = SharingChoice { weigh: Weigh::Read, ..self.backend.sharing };
        let backend = HostBackend { sharing, ..self.backend.clone() };
        Ok(backend.measure(Method::Merged, CONTENT, vms)?.matrix)
    }

    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure> {
        let mut memory = ProcessMemory::new(&self.root);
        let shared = DataPages::look(&mut self.data_pages, &mut memory, vms, data);
        let shared = shared.map_err(HostFailure::failed)?;
        if let (Method::Content, Some(held)) = (self.method, &self.data_pages) {
            held.check_found(vms).map_err(HostFailure::failed)?;
        }
        Ok(shared)
    }

    fn data_frames(
        &mut self,
        vms: &[Vm],
        data: &[GuestData],
        own: bool,
    ) -> Result<Vec<Vec<u64>>, HostFailure> {
        let mut memory = ProcessMemory::new(&self.root);
        DataPages::frames(&mut memory, vms, data, own).map_err(HostFailure::failed)
    }

    fn access_streams(
        &self,
        vms: &[Vm],
        memory_mib: u64,
        streams: &[StreamFile],
    ) -> Result<AccessStreams, HostFailure> {
        let streamed = vms.iter().zip(streams).map(|(vm, stream)| Streamed { vm, memory_mib, stream });
        AccessStreams::open(&self.root, streamed).map_err(HostFailure::failed)
    }

    fn place(&mut self, vms: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
        place_vcpus(&mut self.pinner, vms, plan)?;
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
