//! What VMs read of their memory. The processor sets the accessed bit of a page table's entry when it uses it; here the bits
//! of all pages of a process are cleared (`/proc/PID/clear_refs`), and the scan after a window reads them again.
//!
//! Clearing takes about 0.1 us a page, and needs `mmap_lock`: the process can map no memory meanwhile. The kernel's
//! reclaim takes pages whose bits were cleared for unused until they are used again. So it is done only where it was asked
//! for, and the next clearing has to wait until a share of a CPU is kept ([`ReadSettings::cpu_share`]).
//!
//! What is not seen:
//! - reads of a guest that runs in KVM: its processor walks second-level page tables, which have accessed bits of their own.
//!   `clear_refs` leaves these alone (`clear_refs_pte_range` in fs/proc/task_mmu.c, Linux 6.18);
//! - reads of hugetlbfs, whose bits it does not clear either;
//! - reads through an entry that is still in a TLB, which is not flushed: until the thread is switched out, or for some
//!   milliseconds where little is used.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use huddle_host::discover::holds_kvm;
use huddle_host::{HostError, HostRoot};
use huddle_model::matrix::{FrameReading, ReadBy, SharedGroups, SharedReads};
use huddle_model::vm::{MemoryKind, Vm, VmmKind};
use nix::fcntl::OFlag;

use crate::content::{Share, thread_cpu_time};
use crate::count::Counted;
use crate::of_stayed;
use crate::processes::Process;

/// How long VMs run between clearing and reading by default: long enough for every thread to have been switched out, and
/// what is not read in this time is not kept in a cache.
const WINDOW_MS: u32 = 100;

/// Whether and how it is measured what VMs read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadSettings {
    /// Least time between clearing an accessed bit and reading it again, in milliseconds.
    pub window_ms: u32,
    /// Most processor time for clearing, as a share of one CPU: the next measurement waits as long as that takes.
    pub cpu_share: Share,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self { window_ms: WINDOW_MS, cpu_share: Share::TWENTIETH }
    }
}

/// Accessed bits that were cleared.
#[derive(Debug)]
pub(crate) struct Cleared {
    settings: ReadSettings,
    /// By position of the VM: why its reads are not seen, as one clause; `None` where they are.
    unavailable: Vec<Option<String>>,
    /// Processor time that it took.
    cpu_time: Duration,
}

impl Cleared {
    /// Clears the accessed bits of all processes whose reads can be seen.
    pub(crate) fn of(settings: ReadSettings, root: &HostRoot, vms: &[Vm], processes: &[Process]) -> Self {
        let begun = thread_cpu_time();
        let mut unavailable: Vec<Option<String>> =
            vms.iter().map(|vm| unseen(vm).map(str::to_owned)).collect();
        for process in processes {
            let (vm, kind) = (process.vm, vms[process.vm].vmm);
            if unavailable[vm].is_none() {
                unavailable[vm] = clear_process(root, process, kind).err();
            }
        }
        Self { settings, unavailable, cpu_time: thread_cpu_time().saturating_sub(begun) }
    }

    /// How long VMs run before the bits are read.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_millis(self.settings.window_ms.into())
    }

    /// Whether reads of the VM at this position are seen, as far as it is known now.
    pub(crate) fn sees(&self, vm: usize) -> bool {
        self.unavailable[vm].is_none()
    }

    /// What was read, if only page tables were; `counted` has the frames that were read, `shared` those that are shared.
    pub(crate) fn counted(self, counted: Counted, shared: &[Vec<u64>], reading: &FrameReading) -> ReadFrames {
        let Self { settings, mut unavailable, cpu_time } = self;
        if let (ReadBy::Pagemap, reason) = (reading.by, reading.reason.as_deref().unwrap_or("they cannot be"))
        {
            unavailable
                .fill(Some(format!("accessed bits are in page tables, which were not read: {reason}")));
        }
        let Counted { mut frames, sets, rest, .. } = counted;
        // A page that changed between reading its entry and its pagemap.
        let mut exceeds = false;
        for (read, shared) in frames.iter_mut().flatten().zip(shared.iter().flatten()) {
            exceeds |= *read > *shared;
            *read = (*read).min(*shared);
        }
        let groups = (!exceeds).then(|| SharedGroups::of(sets, rest));
        let least_interval = cpu_time.div_f64(settings.cpu_share.get());
        ReadFrames { frames, groups, window_ms: settings.window_ms, unavailable, least_interval }
    }
}

/// The frames that VMs read together.
#[derive(Debug)]
pub(crate) struct ReadFrames {
    /// `[i][j]` for `i < j`, by position of the VMs.
    frames: Vec<Vec<u64>>,
    groups: Option<SharedGroups>,
    window_ms: u32,
    /// By position of the VM: why its reads are not seen.
    unavailable: Vec<Option<String>>,
    /// Least time from this measurement to the next.
    pub(crate) least_interval: Duration,
}

impl ReadFrames {
    /// Those of the VMs at these positions.
    pub(crate) fn of_stayed(&self, stayed: &[usize]) -> SharedReads {
        let groups = self.groups.as_ref().map(|groups| groups.part(stayed));
        let unavailable = stayed.iter().map(|vm| self.unavailable[*vm].clone()).collect();
        SharedReads::new(&of_stayed(&self.frames, stayed), groups, self.window_ms, unavailable)
    }
}

const IN_KVM: &str =
    "it runs in KVM, whose page tables have accessed bits of their own, which cannot be cleared by process";

/// Why reads of a VM are not seen, as far as it is known without looking at its processes.
fn unseen(vm: &Vm) -> Option<&'static str> {
    use VmmKind::{
        Cgroup, CloudHypervisor, Crosvm, Firecracker, OtherKvm, Process, QemuKvm, QemuTcg, Unknown, Xen,
        XenHvm, XenPv, XenPvh,
    };
    let keeps_bits = |kind| matches!(kind, MemoryKind::HugeTlb | MemoryKind::Device);
    match vm.vmm {
        QemuKvm | Firecracker | CloudHypervisor | Crosvm | OtherKvm => Some(IN_KVM),
        XenPv | XenPvh | XenHvm | Xen => Some("it is a domain of Xen, whose page tables are not seen"),
        QemuTcg | Process | Cgroup | Unknown => vm
            .memory
            .iter()
            .any(|region| keeps_bits(region.kind))
            .then_some("it has memory of hugetlbfs or of a device, whose accessed bits are not cleared"),
    }
}

/// # Errors
/// Why reads of this process are not seen, as one clause.
fn clear_process(root: &HostRoot, process: &Process, kind: VmmKind) -> Result<(), String> {
    let pid = process.id.id;
    // Of the emulator it is known that it holds none.
    if kind != VmmKind::QemuTcg {
        match holds_kvm(root, pid) {
            Ok(false) => {}
            Ok(true) => return Err(IN_KVM.to_owned()),
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(format!("whether it runs in KVM is not known: {error}")),
        }
    }
    let path = root.proc(format!("{pid}/clear_refs"));
    let mut options = OpenOptions::new();
    let file = options.write(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits()).open(&path);
    // Bound to the process by its number only, so it is looked at again: whose bits were cleared instead loses nothing.
    let cleared = file.and_then(|mut file| file.write_all(b"1"));
    match cleared {
        Ok(()) => {
            process.set_cleared();
            Ok(())
        }
        Err(source) => {
            let is_missing =
                source.kind() == ErrorKind::NotFound && root.proc(format!("{pid}/stat")).exists();
            let error = HostError::Read { path: path.clone(), source };
            match error {
                HostError::Read { .. } if is_missing => {
                    Err(format!("{} is not there (CONFIG_PROC_PAGE_MONITOR)", path.display()))
                }
                // It has ended, which the scan finds out.
                error if error.is_gone() => Ok(()),
                HostError::Read { source, .. } => {
                    Err(format!("{} cannot be written: {source}", path.display()))
                }
                error => Err(error.to_string()),
            }
        }
    }
}
