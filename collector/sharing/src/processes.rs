//! The processes whose memory is scanned, and their open kernel files.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use huddle_model::id::TaskId;
use huddle_model::vm::{MemoryKind, Vm};

use super::SharingError;
use super::pagemap;
use huddle_host::{HostError, HostRoot, read_number, task};

/// Why a process that ended or was replaced since discovery cannot be measured.
pub const ENDED: &str = "it ended while it was measured";
const NO_PROCESS: &str = "no process of this host holds it";
/// Its descriptor still works, but the memory behind it is gone.
const MEMORY_GONE: &str =
    "its memory was released while it was measured (it ended or executed another program)";

/// A range of pages of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// Page number of the first page.
    pub(super) first_page: u64,
    /// How many pages.
    pub(super) pages: u64,
    /// Whether KSM may have merged pages here.
    pub(super) may_be_merged: bool,
}

/// One process with guest memory.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: TaskId,
    /// Position of its VM.
    pub(super) vm: usize,
    pub(super) regions: Vec<Region>,
    /// Bound to the address space at the time of opening: it never shows another process's pages.
    pub(super) pagemap: File,
    mem: OnceLock<Option<File>>,
    gone: AtomicBool,
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
    /// VMs that had ended before anything was read, with the reason.
    pub(super) ended: Vec<(usize, String)>,
    /// Ended processes of VMs that go on: position of the VM and the process.
    pub(super) missing: Vec<(usize, TaskId)>,
}

impl Processes {
    /// Opens the kernel files of every process of `vms`.
    ///
    /// # Errors
    /// Memory claimed by two VMs; a VM whose process may not be inspected; a kernel file that cannot be opened
    /// although its process exists.
    pub(super) fn open(root: &HostRoot, vms: &[Vm], page_bytes: u64) -> Result<Self, SharingError> {
        check_disjoint(vms)?;
        let mut processes = Self::default();
        for (vm, found) in vms.iter().enumerate() {
            let Some(holder) = found.process() else {
                processes.ended.push((vm, NO_PROCESS.to_owned()));
                continue;
            };
            if !task::is_alive(root, holder)? {
                processes.ended.push((vm, ENDED.to_owned()));
                continue;
            }
            // Where discovery could not look into it, it has no memory here, which is not to say that it has
            // none.
            check_readable(root, found, "pagemap")?;
            let mut ids: Vec<TaskId> = found.memory.iter().filter_map(|region| region.process).collect();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                match open_process(root, found, vm, id, page_bytes)? {
                    Some(process) => processes.all.push(process),
                    None => processes.missing.push((vm, id)),
                }
            }
        }
        Ok(processes)
    }

    /// Checks which processes are still the opened ones; returns the VMs that ended.
    ///
    /// A VM ends with the process that holds it; a cgroup only with the last of its processes.
    pub(super) fn check_again(
        &mut self,
        root: &HostRoot,
        vms: &[Vm],
    ) -> Result<Vec<(usize, String)>, SharingError> {
        for process in &self.all {
            if !process.is_gone() && !task::is_alive(root, process.id)? {
                process.set_gone();
            }
        }
        let mut ended = self.ended.clone();
        for (vm, found) in vms.iter().enumerate() {
            if ended.iter().any(|(position, _)| *position == vm) {
                continue;
            }
            let mut own = self.all.iter().filter(|process| process.vm == vm).peekable();
            let had_memory = own.peek().is_some() || self.missing.iter().any(|(position, _)| *position == vm);
            let all_gone = had_memory && own.all(Process::is_gone);
            if !found.process().map_or(Ok(false), |holder| task::is_alive(root, holder))? {
                let is_cgroup = found.vmm == huddle_model::vm::VmmKind::Cgroup;
                if !is_cgroup || all_gone || !had_memory {
                    ended.push((vm, ENDED.to_owned()));
                }
            } else if all_gone {
                ended.push((vm, MEMORY_GONE.to_owned()));
            }
        }
        let gone = self.all.iter().filter(|process| process.is_gone());
        self.missing.extend(gone.map(|process| (process.vm, process.id)));
        Ok(ended)
    }
}

/// Tries to open one of the files of the process that holds a VM.
///
/// # Errors
/// [`SharingError::MemoryHidden`] where this process may not.
pub(super) fn check_readable(root: &HostRoot, vm: &Vm, file: &str) -> Result<(), SharingError> {
    let Some(process) = vm.process() else { return Ok(()) };
    let path = root.proc(format!("{}/{file}", process.id));
    match pagemap::open(&path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(SharingError::MemoryHidden { vm: vm.name.clone(), path })
        }
        _ => Ok(()),
    }
}

fn open_process(
    root: &HostRoot,
    vm: &Vm,
    position: usize,
    id: TaskId,
    page_bytes: u64,
) -> Result<Option<Process>, SharingError> {
    let path = root.proc(format!("{}/pagemap", id.id));
    let pagemap = match pagemap::open(&path) {
        Ok(file) => file,
        Err(source) => {
            let error = HostError::Read { path, source };
            return if error.is_gone() { Ok(None) } else { Err(error.into()) };
        }
    };
    // Checked only now: the descriptor belongs to the current process or an earlier one.
    if !task::is_alive(root, id)? {
        return Ok(None);
    }
    // 0 means for certain that KSM merged nothing here; older kernels lack the file.
    let never_merged =
        matches!(read_number::<u64>(&root.proc(format!("{}/ksm_merging_pages", id.id))), Ok(0));
    let mut regions = Vec::new();
    for region in vm.memory.iter().filter(|region| region.process == Some(id)) {
        let first_page = region.start / page_bytes;
        let pages = (region.end / page_bytes).saturating_sub(first_page);
        let may_be_merged = region.kind == MemoryKind::Mergeable && !never_merged;
        regions.push(Region { first_page, pages, may_be_merged });
    }
    Ok(Some(Process {
        id,
        vm: position,
        regions,
        pagemap,
        mem: OnceLock::new(),
        gone: AtomicBool::new(false),
    }))
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
