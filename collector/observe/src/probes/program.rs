//! The BPF programs and their state.

use huddle_model::availability::Availability;

/// One BPF program of huddle; each is optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// A pass of ksmd begins.
    KsmStartScan,
    /// A pass of ksmd is complete.
    KsmStopScan,
    /// A page was merged with the kernel's zero page.
    KsmMergeOnePage,
    /// A page was merged.
    KsmMergeWithKsmPage,
    /// A page has left a merged frame that is gone.
    KsmRemoveRmapItem,
    /// A merged frame is gone.
    KsmRemoveKsmPage,
    /// Run time of watched threads per CPU.
    SchedSwitch,
    /// Moves of watched threads between CPUs and cache domains.
    SchedMigrateTask,
    /// Samples of a software clock.
    SampleClock,
    /// Samples of last-level cache misses.
    SampleMisses,
    /// Entries into guest mode, and which thread is which vCPU.
    KvmEntry,
    /// Exits from guest mode by reason.
    KvmExit,
}

impl Program {
    /// All programs.
    pub const ALL: [Self; 12] = [
        Self::KsmStartScan,
        Self::KsmStopScan,
        Self::KsmMergeOnePage,
        Self::KsmMergeWithKsmPage,
        Self::KsmRemoveRmapItem,
        Self::KsmRemoveKsmPage,
        Self::SchedSwitch,
        Self::SchedMigrateTask,
        Self::SampleClock,
        Self::SampleMisses,
        Self::KvmEntry,
        Self::KvmExit,
    ];

    /// Its name in the object, in `bpftool prog` and in recordings; for tracepoint programs also the
    /// tracepoint's.
    pub fn name(self) -> &'static str {
        match self {
            Self::KsmStartScan => "ksm_start_scan",
            Self::KsmStopScan => "ksm_stop_scan",
            Self::KsmMergeOnePage => "ksm_merge_one_page",
            Self::KsmMergeWithKsmPage => "ksm_merge_with_ksm_page",
            Self::KsmRemoveRmapItem => "ksm_remove_rmap_item",
            Self::KsmRemoveKsmPage => "ksm_remove_ksm_page",
            Self::SchedSwitch => "sched_switch",
            Self::SchedMigrateTask => "sched_migrate_task",
            Self::SampleClock => "sample_clock",
            Self::SampleMisses => "sample_misses",
            Self::KvmEntry => "kvm_entry",
            Self::KvmExit => "kvm_exit",
        }
    }

    /// What it provides, for `doctor`.
    pub fn gives(self) -> &'static str {
        match self {
            Self::KsmStartScan => "when a pass of ksmd began",
            Self::KsmStopScan => "the loop starts at once when ksmd completes a pass",
            Self::KsmMergeOnePage => "merges with the zero page per VM",
            Self::KsmMergeWithKsmPage => "merges and breaks per VM",
            Self::KsmRemoveRmapItem => "pages found to have left a merged frame that is gone",
            Self::KsmRemoveKsmPage => "merged frames that are gone",
            Self::SchedSwitch => "run time per vCPU and CPU",
            Self::SchedMigrateTask => "moves of vCPUs between CPUs and cache domains",
            Self::SampleClock => "where vCPUs run, by samples",
            Self::SampleMisses => "cache misses per vCPU and cache domain, by samples",
            Self::KvmEntry => "which thread is which vCPU, and time in the guest",
            Self::KvmExit => "exits by reason, and time in the guest",
        }
    }
}

/// A program and whether it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStatus {
    /// The program.
    pub program: Program,
    /// Attached, or why not.
    pub attached: Availability<()>,
}
