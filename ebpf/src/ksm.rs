//! Merges and removals of KSM, per process.

use aya_ebpf::{
    helpers::bpf_probe_read_kernel,
    macros::{btf_tracepoint, map},
    maps::{PerCpuArray, PerCpuHashMap},
    programs::BtfTracePointContext,
};
use huddle_abi::{KsmCounts, KsmTotals, Loss, ProcessKey};

use crate::task::{MM_OWNER, TASK_GROUP_LEADER, TASK_START_BOOTTIME, TASK_TGID};

#[map]
static KSM_PROCESSES: PerCpuHashMap<ProcessKey, KsmCounts> = PerCpuHashMap::with_max_entries(4096, 0);

#[map]
static KSM_TOTALS: PerCpuArray<KsmTotals> = PerCpuArray::with_max_entries(1, 0);

// Arguments as in TP_PROTO of include/trace/events/ksm.h, Linux 6.4 and later.

// (unsigned long pfn, void *rmap_item, void *mm, int err): a page on the kernel's zero page.
#[btf_tracepoint(function = "ksm_merge_one_page")]
pub fn ksm_merge_one_page(ctx: BtfTracePointContext) -> i32 {
    let failed = ctx.arg::<i32>(3) != 0;
    count(ctx.arg(2), |counts| if failed { counts.failures += 1 } else { counts.zero_merges += 1 })
}

// (void *ksm_page, unsigned long pfn, void *rmap_item, void *mm, int err): a page on a merged frame.
#[btf_tracepoint(function = "ksm_merge_with_ksm_page")]
pub fn ksm_merge_with_ksm_page(ctx: BtfTracePointContext) -> i32 {
    let failed = ctx.arg::<i32>(4) != 0;
    count(ctx.arg(3), |counts| if failed { counts.failures += 1 } else { counts.merges += 1 })
}

// (unsigned long pfn, void *rmap_item, void *mm)
#[btf_tracepoint(function = "ksm_remove_rmap_item")]
pub fn ksm_remove_rmap_item(ctx: BtfTracePointContext) -> i32 {
    count(ctx.arg(2), |counts| counts.removals += 1)
}

// (unsigned long pfn)
#[btf_tracepoint(function = "ksm_remove_ksm_page")]
pub fn ksm_remove_ksm_page(_: BtfTracePointContext) -> i32 {
    total(|totals| totals.frames_removed += 1);
    0
}

fn count(mm: *const u8, add: impl FnOnce(&mut KsmCounts)) -> i32 {
    let Some(key) = owner(mm) else {
        total(|totals| totals.unattributed += 1);
        return 0;
    };
    if KSM_PROCESSES.get_ptr_mut(&key).is_none()
        && KSM_PROCESSES.insert(&key, &KsmCounts::default(), 0).is_err()
    {
        crate::loss::count(Loss::KsmProcesses);
        return 0;
    }
    if let Some(counts) = KSM_PROCESSES.get_ptr_mut(&key) {
        // SAFETY: an element of this CPU; these programs run in task context and do not nest.
        add(unsafe { &mut *counts });
    }
    0
}

fn total(add: impl FnOnce(&mut KsmTotals)) {
    if let Some(totals) = KSM_TOTALS.get_ptr_mut(0) {
        // SAFETY: as in `count`.
        add(unsafe { &mut *totals });
    }
}

/// The process an address space belongs to, by `mm->owner` (CONFIG_MEMCG). The tracepoints give `mm` as
/// `void *`, so every step goes through a helper that survives a stale pointer.
fn owner(mm: *const u8) -> Option<ProcessKey> {
    let task: *const u8 = read(mm, MM_OWNER.load())?;
    let leader: *const u8 = read(task, TASK_GROUP_LEADER.load())?;
    Some(ProcessKey {
        start_boottime_ns: read(leader, TASK_START_BOOTTIME.load())?,
        tgid: read(leader, TASK_TGID.load())?,
        reserved: 0,
    })
}

fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    if base.is_null() {
        return None;
    }
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()).ok() }
}
