//! The kernel's own structures of processes: their layout, and a program that reads them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_host::status::{self, Capability};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::bpf::kernel_read::KernelRead;
use crate::kernel_types::{self, BtfError, KernelTypes};
use crate::pagemap;

/// Time after which what failed is tried again: descriptors or memory may have been short.
const AGAIN: Duration = Duration::from_secs(60);

/// Access to the kernel's structures, opened when it is first needed and shared by all clones, or the reason why there
/// is none.
#[derive(Clone, Debug, Default)]
pub struct KernelAccess(Arc<Mutex<Option<Opened>>>);

#[derive(Debug)]
struct Opened {
    at: Instant,
    structures: Result<Arc<Structures>, String>,
}

impl KernelAccess {
    /// The structures.
    ///
    /// # Errors
    /// Why they cannot be read here, as one clause.
    pub(crate) fn structures(&self, root: &HostRoot) -> Result<Arc<Structures>, String> {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_kept = |opened: &Opened| opened.structures.is_ok() || opened.at.elapsed() < AGAIN;
        let kept = opened.take().filter(is_kept);
        let open = || Opened { at: Instant::now(), structures: Structures::open(root).map(Arc::new) };
        opened.insert(kept.unwrap_or_else(open)).structures.clone()
    }
}

/// What is needed to read structures of processes.
#[derive(Debug)]
pub(crate) struct Structures {
    pub(crate) kernel: KernelRead,
    pub(crate) types: KernelTypes,
}

/// The `mm_struct` of a process, by its address. It stays as long as the pagemap it was found by is open, also when the
/// process has ended (`proc_mem_open` in fs/proc/base.c, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) u64);

impl Structures {
    fn open(root: &HostRoot) -> Result<Self, String> {
        // A command that dropped it is not to try: its filter of system calls may forbid bpf(2).
        let status = status::own(root).map_err(|error| error.to_string())?;
        let has = |capability| status.has(capability);
        let may_read = has(Capability::SysAdmin) || has(Capability::Bpf) && has(Capability::Perfmon);
        if !may_read {
            return Err("reading the kernel's memory takes CAP_BPF and CAP_PERFMON".into());
        }
        let own = pagemap::open(&root.proc("self/pagemap")).map_err(|error| error.to_string())?;
        if !fstatfs(&own).is_ok_and(|system| system.filesystem_type() == PROC_SUPER_MAGIC) {
            return Err(format!("{} is not the kernel's", root.proc("").display()));
        }
        let types = root.sys("kernel/btf/vmlinux");
        let types = File::open(&types)
            .map_err(BtfError::from)
            .and_then(|file| kernel_types::kernel_types(&file))
            .map_err(|error| format!("{} does not describe this kernel: {error}", types.display()))?;
        Ok(Self { kernel: KernelRead::open()?, types })
    }

    /// The memory of the process that a pagemap is of; `None` if it has none.
    pub(crate) fn memory_of(&self, pagemap: &File) -> Option<Memory> {
        // Another thread may make the table of files larger, and the kernel then frees the old one.
        for _ in 0..8 {
            let (first, second) = (self.follow(pagemap), self.follow(pagemap));
            if first == second {
                return first.map(Memory);
            }
        }
        None
    }

    fn follow(&self, pagemap: &File) -> Option<u64> {
        let descriptor = pagemap.as_raw_fd() as u64;
        let of = &self.types.offsets;
        let files = self.word(self.kernel.current_task()?, of.task_files)?;
        let table = self.word(files, of.files_table)?;
        if descriptor >= self.word(table, of.table_length)? & u64::from(u32::MAX) {
            return None;
        }
        let file = self.kernel.word(self.word(table, of.table_files)?.checked_add(descriptor * 8)?)?;
        self.word(file, of.file_private)
    }

    /// The word of a structure at an offset.
    pub(crate) fn word(&self, address: u64, offset: u32) -> Option<u64> {
        self.kernel.word(address.checked_add(offset.into())?)
    }
}
