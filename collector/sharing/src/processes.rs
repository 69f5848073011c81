//! The processes whose memory is scanned, and their open kernel files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use huddle_model::id::TaskId;
use huddle_model::vm::{GuestRegion, MemoryKind, Vm, VmmKind};

use super::SharingError;
use super::pagemap;
use huddle_host::stages::Unmeasured;
use huddle_host::{HostError, HostRoot, ksm, process_ksm, task};

/// Why a process that ended or was replaced since discovery cannot be measured.
const ENDED: &str = "it ended while it was measured";
const NO_PROCESS: &str = "no process of this host holds it";
/// Its descriptor still works, but the memory behind it is gone.
const MEMORY_GONE: &str =
    "its memory was released while it was measured (it ended or executed another program)";

const HIDDEN: &str = "its memory cannot be read: run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";

/// A VM that is not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmeasuredVm {
    /// Its position among the VMs to measure.
    pub vm: usize,
    /// Whether it ended.
    pub is_gone: bool,
    /// The reason, as the end of a sentence about the VM.
    pub reason: String,
}

impl UnmeasuredVm {
    /// A VM that ended or was replaced since discovery.
    pub fn ended(vm: usize) -> Self {
        Self { vm, is_gone: true, reason: ENDED.to_owned() }
    }

    /// A VM that goes on, and cannot be read.
    pub fn unreadable(vm: usize, reason: String) -> Self {
        Self { vm, is_gone: false, reason }
    }

    /// The same with its name, which its position among `vms` gives.
    pub(super) fn named(self, vms: &[Vm]) -> Unmeasured {
        let Self { vm, is_gone, reason } = self;
        Unmeasured { vm: vms[vm].name.clone(), is_gone, reason }
    }
}

/// What a scan reads of the memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Which frames it maps; contents only where they can be read.
    PageTables,
    /// Contents too.
    Contents,
}

/// A range of pages of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// Page number of the first page.
    pub(super) first_page: u64,
    /// How many pages.
    pub(super) pages: u64,
    /// Whether KSM may have merged pages here.
    pub(super) may_be_merged: bool,
    /// Whether pages of the page cache may be here.
    pub(super) may_be_file: bool,
}

/// One process with guest memory.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: TaskId,
    /// Position of its VM.
    pub(super) vm: usize,
    pub(super) regions: Vec<Region>,
    /// Whether the kernel counts pages of it as merged, or does not say. Pages that were merged before the process was
    /// forked are not counted.
    pub(super) counts_merged: bool,
    /// Bound to the address space at the time of opening: it never shows another process's pages.
    pub(super) pagemap: File,
    mem: OnceLock<Option<File>>,
    gone: AtomicBool,
    /// Whether the accessed bits of its pages were cleared for this scan.
    cleared: AtomicBool,
}

impl Process {
    /// Whether it ended while it was measured.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Records that its memory can no longer be read.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether it is seen what it reads: the accessed bits of its pages were cleared.
    pub(super) fn is_cleared(&self) -> bool {
        self.cleared.load(Ordering::Relaxed)
    }

    /// Records that the accessed bits of its pages were cleared.
    pub(super) fn set_cleared(&self) {
        self.cleared.store(true, Ordering::Relaxed);
    }

    /// Reads memory of the process at an address; false if it cannot be read.
    ///
    /// Through `/proc/PID/mem` and never `process_vm_readv`: the latter pins pages, and pinning a merged page
    /// first gives the process its own copy (FAULT_FLAG_UNSHARE, Linux 5.19 and later), so it would undo the
    /// sharing that is being measured.
    pub(super) fn read_memory(&self, root: &HostRoot, address: u64, bytes: &mut [u8]) -> bool {
        let mem = self.mem.get_or_init(|| pagemap::open(&root.proc(format!("{}/mem", self.id.id))).ok());
        mem.as_ref().is_some_and(|mem| mem.read_exact_at(bytes, address).is_ok())
    }

    /// Whether its memory could be opened for reading; true if it was not tried.
    pub(super) fn memory_opened(&self) -> bool {
        !matches!(self.mem.get(), Some(None))
    }
}

/// The processes of a scan.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) all: Vec<Process>,
    /// VMs that had ended before anything was read, or may not be read.
    unmeasured: Vec<UnmeasuredVm>,
    /// Ended processes of VMs that go on: position of the VM and the process.
    pub(super) missing: Vec<(usize, TaskId)>,
}

impl Processes {
    /// Opens the kernel files of every process of `vms`.
    ///
    /// # Errors
    /// Memory claimed by two VMs; no VM's processes may be inspected; a kernel file that cannot be opened
    /// although its process exists.
    pub(super) fn open(
        root: &HostRoot,
        vms: &[Vm],
        page_bytes: u64,
        reads: Reads,
    ) -> Result<Self, SharingError> {
        check_disjoint(vms)?;
        let opening = Opening { root, page_bytes, has_merged: ksm::has_merged(root)?, reads };
        let mut processes = Self::default();
        let mut hidden = None;
        for (vm, found) in vms.iter().enumerate() {
            let Some(holder) = found.process() else {
                processes.unmeasured.push(UnmeasuredVm::unreadable(vm, NO_PROCESS.to_owned()));
                continue;
            };
            if !task::is_alive(root, holder)? {
                processes.unmeasured.push(UnmeasuredVm::ended(vm));
                continue;
            }
            let mut ids: BTreeSet<TaskId> = found.memory.iter().filter_map(|region| region.process).collect();
            // Where discovery could not look into it, the VM has no memory here, which is not to say that it has none:
            // its holder is opened only to see whether it may be read.
            let has_memory = !ids.is_empty();
            if !has_memory {
                ids.insert(holder);
            }
            match opening.all(found, vm, &ids)? {
                Opened::Hidden(path) => {
                    processes.unmeasured.push(UnmeasuredVm::unreadable(vm, HIDDEN.to_owned()));
                    hidden.get_or_insert(SharingError::MemoryHidden { vm: found.name.clone(), path });
                }
                Opened::Open { .. } if !has_memory => {}
                Opened::Open { there, missing } => {
                    processes.all.extend(there);
                    processes.missing.extend(missing.into_iter().map(|id| (vm, id)));
                }
            }
        }
        match hidden {
            Some(error) if processes.all.is_empty() => Err(error),
            _ => Ok(processes),
        }
    }

    /// Checks which processes are still the opened ones; returns the VMs that are not measured.
    ///
    /// A VM ends with the process that holds it; a cgroup only with the last of its processes.
    pub(super) fn check_again(
        &mut self,
        root: &HostRoot,
        vms: &[Vm],
    ) -> Result<Vec<UnmeasuredVm>, SharingError> {
        for process in &self.all {
            if !process.is_gone() && !task::is_alive(root, process.id)? {
                process.set_gone();
            }
        }
        let mut unmeasured = self.unmeasured.clone();
        for (vm, found) in vms.iter().enumerate() {
            if unmeasured.iter().any(|left_out| left_out.vm == vm) {
                continue;
            }
            let mut own = self.all.iter().filter(|process| process.vm == vm).peekable();
            let had_memory = own.peek().is_some() || self.missing.iter().any(|(position, _)| *position == vm);
            let all_gone = had_memory && own.all(Process::is_gone);
            if !found.process().map_or(Ok(false), |holder| task::is_alive(root, holder))? {
                let is_cgroup = found.vmm == VmmKind::Cgroup;
                if !is_cgroup || all_gone || !had_memory {
                    unmeasured.push(UnmeasuredVm::ended(vm));
                }
            } else if all_gone {
                unmeasured.push(UnmeasuredVm { reason: MEMORY_GONE.to_owned(), ..UnmeasuredVm::ended(vm) });
            }
        }
        let gone = self.all.iter().filter(|process| process.is_gone());
        self.missing.extend(gone.map(|process| (process.vm, process.id)));
        Ok(unmeasured)
    }
}

/// The processes of one VM.
enum Opened {
    /// Those that are there, and the ids of those that ended.
    Open { there: Vec<Process>, missing: Vec<TaskId> },
    /// A file that is needed may not be opened.
    Hidden(PathBuf),
}

/// How processes are opened.
struct Opening<'a> {
    root: &'a HostRoot,
    page_bytes: u64,
    /// Whether KSM has anything merged on this host.
    has_merged: bool,
    reads: Reads,
}

impl Opening<'_> {
    fn all(&self, vm: &Vm, position: usize, ids: &BTreeSet<TaskId>) -> Result<Opened, SharingError> {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        if vm.vmm == VmmKind::Cgroup {
            // Discovery finds no memory of a process that it may not look into, and the rest is not the whole VM.
            let threads = vm.vcpus.iter().filter_map(|vcpu| vcpu.id.thread());
            if let Some(path) = threads.filter(|thread| !ids.contains(thread)).find_map(|id| self.denied(id))
            {
                return Ok(Opened::Hidden(path));
            }
        }
        for id in ids {
            if self.reads == Reads::Contents
                && let Some(path) = self.denied(*id)
            {
                return Ok(Opened::Hidden(path));
            }
            match self.process(vm, position, *id) {
                Ok(Some(process)) => there.push(process),
                Ok(None) => missing.push(*id),
                Err(SharingError::Host(HostError::Read { path, source }))
                    if source.kind() == ErrorKind::PermissionDenied =>
                {
                    return Ok(Opened::Hidden(path));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Opened::Open { there, missing })
    }

    /// The file that is read of a process or thread, if it may not be opened.
    fn denied(&self, id: TaskId) -> Option<PathBuf> {
        let name = match self.reads {
            Reads::PageTables => "pagemap",
            Reads::Contents => "mem",
        };
        let path = self.root.proc(format!("{}/{name}", id.id));
        let is_denied = pagemap::open(&path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        is_denied.then_some(path)
    }

    fn process(&self, vm: &Vm, position: usize, id: TaskId) -> Result<Option<Process>, SharingError> {
        let path = self.root.proc(format!("{}/pagemap", id.id));
        let pagemap = match pagemap::open(&path) {
            Ok(file) => file,
            Err(source) => {
                let error = HostError::Read { path, source };
                return if error.is_gone() { Ok(None) } else { Err(error.into()) };
            }
        };
        // Checked only now: the descriptor belongs to the current process or an earlier one.
        if !task::is_alive(self.root, id)? {
            return Ok(None);
        }
        let of_process = vm.memory.iter().filter(|region| region.process == Some(id));
        Ok(Some(Process {
            id,
            vm: position,
            regions: of_process.map(|region| self.region(region)).collect(),
            counts_merged: !matches!(process_ksm::merging_pages(self.root, id.id), Ok(0)),
            pagemap,
            mem: OnceLock::new(),
            gone: AtomicBool::new(false),
            cleared: AtomicBool::new(false),
        }))
    }

    fn region(&self, region: &GuestRegion) -> Region {
        let first_page = region.start / self.page_bytes;
        let may_be_file = !region.kind.is_anonymous();
        Region {
            first_page,
            pages: (region.end / self.page_bytes).saturating_sub(first_page),
            // What is not marked now may have been when it was merged, also in the process that this one was forked
            // from, whose merged pages its own `ksm_merging_pages` does not count.
            may_be_merged: self.has_merged && (!may_be_file || region.kind == MemoryKind::PrivateFile),
            may_be_file,
        }
    }
}

/// A page counted for two VMs would look shared although it is not.
fn check_disjoint(vms: &[Vm]) -> Result<(), SharingError> {
    let mut regions: Vec<_> = vms
        .iter()
        .flat_map(|vm| vm.memory.iter().filter_map(move |region| Some((region.process?, region, vm))))
        .collect();
    regions.sort_by_key(|(process, region, _)| (*process, region.start));
    for pair in regions.windows(2) {
        let [(of_left, left, first), (of_right, right, second)] = pair else { continue };
        if of_left == of_right && right.start < left.end {
            return Err(SharingError::SameMemory {
                first: first.name.clone(),
                second: second.name.clone(),
                pid: of_left.id,
                start: right.start,
            });
        }
    }
    Ok(())
}
