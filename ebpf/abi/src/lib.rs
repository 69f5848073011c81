//! What the BPF programs and user space tell each other: map values, keys and events.
//!
//! Both sides are built apart, possibly by different compilers, so every type is `repr(C)`, has no
//! padding (the kernel compares and copies whole keys), and its size is asserted at compile time.
//! A change of any of them needs `cargo xtask ebpf`.
#![no_std]
#![warn(missing_docs)]

/// The end or the beginning of one pass of ksmd over all mergeable memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassEvent {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
    /// [`PASS_START`] or [`PASS_STOP`].
    pub kind: u32,
    /// The kernel's number of the pass: `full_scans` before the pass is complete.
    pub sequence: u32,
    /// Pages that ksmd keeps book of.
    pub rmap_items: u32,
    /// Always 0.
    pub reserved: u32,
}

/// [`PassEvent::kind`]: a pass begins.
pub const PASS_START: u32 = 1;
/// [`PassEvent::kind`]: a pass is complete.
pub const PASS_STOP: u32 = 2;

/// A process that cannot be confused with a later one of the same number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Start of its first thread on `CLOCK_BOOTTIME`, in nanoseconds; `/proc/PID/stat` shows it in
    /// clock ticks.
    pub start_boottime_ns: u64,
    /// Process id in the host's pid namespace.
    pub tgid: u32,
    /// Always 0.
    pub reserved: u32,
}

/// What KSM did to the pages of one process since the programs were attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsmCounts {
    /// Pages put on a merged frame.
    pub merges: u64,
    /// Pages put on the kernel's zero page (`use_zero_pages`).
    pub zero_merges: u64,
    /// Merges that were tried and failed (the page changed, or was busy).
    pub failures: u64,
    /// Pages that ksmd found to have left a merged frame that is gone. The kernel traces only part of
    /// the breaks, see `huddle_observe::probes::ksm`.
    pub removals: u64,
}

/// What KSM did on the whole host since the programs were attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsmTotals {
    /// Merged frames that nobody mapped any more.
    pub frames_removed: u64,
    /// Events whose process is not known (it was exiting).
    pub unattributed: u64,
}

/// One watched thread. Written by user space before it is watched, by the programs afterwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// User space: start of the thread in clock ticks after boot, field 22 of `/proc/PID/task/TID/stat`.
    /// A thread of the same number that started at another time is not counted.
    pub start_ticks: u64,
    /// User space: CPU time of the thread when the watch began, in nanoseconds.
    pub cpu_time_from_ns: u64,
    /// CPU time of the thread when it was switched to last, in nanoseconds.
    pub cpu_time_since_ns: u64,
    /// The CPU it was switched to last, plus one; 0 while it is on none.
    pub on_cpu_plus_one: u32,
    /// 1 once a switch was seen.
    pub seen: u32,
    /// Moves from one CPU's queue to another's.
    pub migrations: u64,
    /// Those of them that crossed cache domains.
    pub domain_migrations: u64,
    /// Entries into guest mode.
    pub kvm_entries: u64,
    /// Time between entry and exit, in nanoseconds.
    pub guest_ns: u64,
    /// When it entered guest mode, on `CLOCK_MONOTONIC` in nanoseconds; 0 outside.
    pub guest_since_ns: u64,
}

/// One watched thread on one CPU. Only that CPU writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// CPU time it used there, in nanoseconds, up to the last switch away.
    pub run_ns: u64,
    /// Times it was switched away from there.
    pub switches: u64,
    /// Samples of the software clock that hit it there.
    pub clock_samples: u64,
    /// Samples of last-level cache misses that hit it there.
    pub miss_samples: u64,
}

/// A vCPU thread and why it left guest mode.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExitKey {
    /// The slot of the thread.
    pub slot: u32,
    /// Why, by the numbering of the architecture: x86's exit reason; on ARM64 the exception class of a trap, and
    /// [`EXIT_RETURNED`] plus KVM's return code for any other exit.
    pub reason: u32,
}

/// [`ExitKey::reason`] on ARM64: added to the return code of an exit that is no trap. Exception classes have 6 bits
/// (`ESR_ELx_EC_MASK`, arch/arm64/include/asm/esr.h, Linux 6.18), so the two cannot be confused.
pub const EXIT_RETURNED: u32 = 1 << 8;

/// The return code that means a trap on ARM64: `ARM_EXCEPTION_TRAP` (arch/arm64/include/asm/kvm_asm.h, Linux 6.18).
pub const ARM_EXCEPTION_TRAP: u32 = 2;

/// A thread that entered guest mode: which vCPU it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuThread {
    /// Its process.
    pub tgid: u32,
    /// KVM's number of the vCPU; [`NO_VCPU_ID`] where the tracepoint does not tell it.
    pub vcpu_id: u32,
}

/// [`VcpuThread::vcpu_id`]: not told. No vCPU has this number: KVM's are below `KVM_MAX_VCPU_IDS`.
pub const NO_VCPU_ID: u32 = u32::MAX;

/// Places where something can be lost: indices into the map `LOSSES`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A pass event found the ring buffer full.
    PassRing = 0,
    /// A KSM event found the map of processes full.
    KsmProcesses = 1,
    /// A guest exit found the map of exit reasons full.
    ExitReasons = 2,
    /// A vCPU thread found the map of vCPU threads full.
    VcpuThreads = 3,
}

/// Number of [`Loss`] places.
pub const LOSSES: u32 = 4;

/// A kernel offset that this kernel's BTF, or its format of a tracepoint, does not have.
pub const NO_OFFSET: u32 = u32::MAX;

const _: () = {
    assert!(size_of::<PassEvent>() == 24);
    assert!(size_of::<ProcessKey>() == 16);
    assert!(size_of::<KsmCounts>() == 32);
    assert!(size_of::<KsmTotals>() == 16);
    assert!(size_of::<Slot>() == 72);
    assert!(size_of::<Residency>() == 32);
    assert!(size_of::<ExitKey>() == 8);
    assert!(size_of::<VcpuThread>() == 8);
    assert!(align_of::<PassEvent>() == 8 && align_of::<Slot>() == 8 && align_of::<Residency>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: every type here is `repr(C)` of integers alone, without padding (sizes above).
    unsafe impl aya::Pod for super::ProcessKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::KsmCounts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::KsmTotals {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Slot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Residency {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ExitKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::VcpuThread {}
}
