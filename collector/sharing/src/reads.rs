//! What VMs read of their memory. The processor sets the accessed bit of a page table's entry when it uses it; here the bits
//! of all pages of a process are cleared (`/proc/PID/clear_refs`), and the scan after a window reads them again.
//!
//! Clearing takes some 20 to 120 ns a page of the whole process, with `mmap_lock` held for writing: the process can map no
//! memory meanwhile, and page faults that need the lock wait. The kernel's reclaim takes pages whose bits were cleared for
//! unused until they are used again. So it is done only where it was asked for and page tables are read, and the next
//! clearing has to wait until a share of a CPU is kept ([`ReadSettings::cpu_share`]).
//!
//! What is not seen:
//! - reads of a guest that runs in KVM: its processor walks second-level page tables, which have accessed bits of their own.
//!   `clear_refs` leaves these alone (`clear_refs_pte_range` in fs/proc/task_mmu.c, Linux 6.18);
//! - reads of hugetlbfs, whose bits it does not clear either;
//! - reads through an entry that is still in a TLB, which is not flushed. It stays there until others take its place: where
//!   the processor tags entries (PCID) also while other threads run.
//!
//! What is seen and was no read: a page that KSM merged, or that the kernel mapped around another, within the window, whose
//! new entry has the bit from the beginning.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use huddle_host::discover::any_holds_kvm;
use huddle_host::{HostError, HostRoot};
use huddle_model::matrix::{FrameReading, ReadBy, SharedGroups, SharedReads};
use huddle_model::vm::{MemoryKind, Vm, VmmKind};
use nix::fcntl::OFlag;

use crate::content::{Share, thread_cpu_time};
use crate::count::Counted;
use crate::of_stayed;
use crate::processes::Process;

/// How long VMs run between clearing and reading by default. In a tenth of it, two thirds of 300 pages that a busy thread
/// reads all the time were not seen, since their entries stayed in the TLB (docs/decisions/what-vms-read.md).
const WINDOW_MS: u32 = 1000;

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

/// When accessed bits were cleared last, and when they may be again. Shared by all clones of a scan, so that no error and
/// no shorter interval of rounds gets around it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pauses(Arc<Mutex<Option<Instant>>>);

impl Pauses {
    /// How long clearing has to wait.
    fn left(&self) -> Duration {
        let due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
    }

    fn wait_for(&self, pause: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(pause);
    }
}

/// Accessed bits that were cleared.
#[derive(Debug)]
pub(crate) struct Cleared {
    settings: ReadSettings,
    /// By position of the VM: why its reads are not seen, as one clause; `None` where they are.
    unavailable: Vec<Option<String>>,
    /// Least time from this clearing to the next.
    least_interval: Duration,
}

impl Cleared {
    /// Clears the accessed bits of all processes whose reads can be seen, if that may be done again.
    pub(crate) fn of(
        settings: ReadSettings,
        pauses: &Pauses,
        root: &HostRoot,
        vms: &[Vm],
        processes: &[Process],
    ) -> Self {
        let left = pauses.left();
        if !left.is_zero() {
            let why = format!(
                "accessed bits are cleared again in {:.1} s, so that it takes no more than the cpu_share that was given",
                left.as_secs_f64()
            );
            return Self { least_interval: left, ..Self::nothing(settings, vms.len(), &why) };
        }
        let begun = thread_cpu_time();
        let unseen = |(at, vm): (usize, &Vm)| {
            let own: Vec<&Process> = processes.iter().filter(|process| process.vm == at).collect();
            clear_vm(root, vm, &own).err()
        };
        let unavailable = vms.iter().enumerate().map(unseen).collect();
        let cpu_time = thread_cpu_time().saturating_sub(begun);
        // A day is longer than any pause is worth, and no overflow.
        const DAY_S: f64 = 86_400.0;
        let least_interval =
            Duration::from_secs_f64((cpu_time.as_secs_f64() / settings.cpu_share.get()).min(DAY_S));
        pauses.wait_for(least_interval.saturating_sub(cpu_time));
        Self { settings, unavailable, least_interval }
    }

    /// Of so many VMs whose reads are not seen, all for one reason.
    pub(crate) fn nothing(settings: ReadSettings, vms: usize, why: &str) -> Self {
        Self { settings, unavailable: vec![Some(why.to_owned()); vms], least_interval: Duration::ZERO }
    }

    /// How long VMs run before the bits are read; not at all where none is seen.
    pub(crate) fn window(&self) -> Duration {
        match self.unavailable.iter().all(Option::is_some) {
            true => Duration::ZERO,
            false => Duration::from_millis(self.settings.window_ms.into()),
        }
    }

    /// Whether reads of the VM at this position are seen, as far as it is known now.
    pub(crate) fn sees(&self, vm: usize) -> bool {
        self.unavailable[vm].is_none()
    }

    /// What was read, if only page tables were; `counted` has the frames that were read, `shared` those that are shared.
    pub(crate) fn counted(
        self,
        counted: Counted,
        shared: &[Vec<u64>],
        reading: &FrameReading,
        processes: &[Process],
    ) -> ReadFrames {
        let Self { settings, mut unavailable, least_interval } = self;
        if let (ReadBy::Pagemap, reason) = (reading.by, reading.reason.as_deref().unwrap_or("they cannot be"))
        {
            unavailable.fill(Some(not_in_pagemap(reason)));
        }
        // One that seemed to have ended and has not.
        for process in processes.iter().filter(|process| !process.is_gone() && !process.is_cleared()) {
            unavailable[process.vm]
                .get_or_insert_with(|| format!("accessed bits of process {} were not cleared", process.id));
        }
        let Counted { mut frames, sets, rest, .. } = counted;
        let mut exceeds = false;
        for (i, (read, shared)) in frames.iter_mut().zip(shared).enumerate() {
            for (read, shared) in read.iter_mut().zip(shared).skip(i + 1) {
                // A page that changed between reading its entry and its pagemap.
                exceeds |= *read > *shared;
                *read = (*read).min(*shared);
            }
        }
        let groups = (!exceeds).then(|| SharedGroups::of(sets, rest));
        ReadFrames { frames, groups, window_ms: settings.window_ms, unavailable, least_interval }
    }
}

/// Why nothing is seen where pagemap is read, as one clause.
pub(crate) fn not_in_pagemap(reason: &str) -> String {
    format!("accessed bits are in page tables, which are not read: {reason}")
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

/// Clears the bits of all processes of a VM.
///
/// # Errors
/// Why reads of this VM are not seen, as one clause.
fn clear_vm(root: &HostRoot, vm: &Vm, processes: &[&Process]) -> Result<(), String> {
    if let Some(why) = unseen(vm) {
        return Err(why.to_owned());
    }
    // Of the emulator it is known that it holds none.
    if vm.vmm != VmmKind::QemuTcg {
        let pids: Vec<i32> = processes.iter().map(|process| process.id.id).collect();
        match any_holds_kvm(root, &pids) {
            Ok(false) => {}
            Ok(true) => return Err(IN_KVM.to_owned()),
            Err(error) => return Err(format!("whether it runs in KVM is not known: {error}")),
        }
    }
    processes.iter().try_for_each(|process| clear_process(root, process))
}

/// # Errors
/// Why reads of this process are not seen, as one clause.
fn clear_process(root: &HostRoot, process: &Process) -> Result<(), String> {
    let pid = process.id.id;
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
