//! An object of its own: what changes which page of a watched process is on which merged frame.
//!
//! ksmd's tracepoints tell every merge, but not when a page leaves its merged frame: that is an ordinary
//! write fault. So faults are watched: those of the processor (a process writes, or the kernel for it)
//! and those of KVM's guests, for which KVM takes the page out of its own tables at the same moment. Each
//! program is on a path of every process, so each first asks the cheapest question that sends most away.
#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::{btf_tracepoint, map},
    maps::{HashMap, PerCpuArray, RingBuf},
    programs::BtfTracePointContext,
};
use huddle_abi::{
    GRAPH_LEFT, GRAPH_MERGE, GRAPH_RANGE, GRAPH_WRITE_FAULT, GRAPH_ZERO_MERGE, GraphEvent, GraphLosses,
};

#[map]
static GRAPH_EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// The number that user space gave to each watched process, by process id.
#[map]
static GRAPH_PROCESSES: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

#[map]
static GRAPH_LOSSES: PerCpuArray<GraphLosses> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static MM_OWNER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TASK_TGID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static RMAP_ADDRESS: Global<u32> = Global::new(0);
/// ksmd's flags and its number of the pass are below this bit of an address, whatever the size of a page (`SEQNR_MASK`,
/// `UNSTABLE_FLAG` and `STABLE_FLAG`, mm/ksm.c, Linux 6.18).
const PAGE_SHIFT: u64 = 12;
/// What a write to a page that is there and write-protected gives (x86-64: bit 0 present, bit 1 write).
const WRITE_PROTECTED: u64 = 3;
/// `BPF_RB_NO_WAKEUP`: user space looks when it wants to know, so nobody has to be woken.
const NO_WAKEUP: u64 = 1;

// (void *ksm_page, unsigned long pfn, void *rmap_item, void *mm, int err) in include/trace/events/ksm.h.
#[btf_tracepoint(function = "ksm_merge_with_ksm_page")]
pub fn graph_merge(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(4) == 0 {
        merged(GRAPH_MERGE, ctx.arg(1), ctx.arg(2), ctx.arg(3));
    }
    0
}

// (unsigned long pfn, void *rmap_item, void *mm, int err)
#[btf_tracepoint(function = "ksm_merge_one_page")]
pub fn graph_zero(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(3) == 0 {
        merged(GRAPH_ZERO_MERGE, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    }
    0
}

// (unsigned long pfn, void *rmap_item, void *mm): a page that ksmd had put on a merged frame, when it finds
// that nobody maps the frame any more. Where the page went it does not say.
#[btf_tracepoint(function = "ksm_remove_rmap_item")]
pub fn graph_left(ctx: BtfTracePointContext) -> i32 {
    merged(GRAPH_LEFT, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

// (unsigned long address, struct pt_regs *regs, unsigned long error_code) in
// include/trace/events/exceptions.h.
#[btf_tracepoint(function = "page_fault_user")]
pub fn graph_fault_user(ctx: BtfTracePointContext) -> i32 {
    fault(ctx.arg(0), ctx.arg(2))
}

#[btf_tracepoint(function = "page_fault_kernel")]
pub fn graph_fault_kernel(ctx: BtfTracePointContext) -> i32 {
    fault(ctx.arg(0), ctx.arg(2))
}

// (unsigned long start, unsigned long end) in include/trace/events/kvm.h: memory of this process that
// hosts a guest is about to be mapped otherwise, or not at all.
#[btf_tracepoint(function = "kvm_unmap_hva_range")]
pub fn graph_kvm_unmap(ctx: BtfTracePointContext) -> i32 {
    match current() {
        Some(process) => {
            tell(GraphEvent { address: ctx.arg(0), frame: ctx.arg(1), process, kind: GRAPH_RANGE })
        }
        None => 0,
    }
}

#[inline(always)]
fn fault(address: u64, error_code: u64) -> i32 {
    if error_code & WRITE_PROTECTED != WRITE_PROTECTED {
        return 0;
    }
    match current() {
        Some(process) => tell(GraphEvent { address, frame: 0, process, kind: GRAPH_WRITE_FAULT }),
        None => 0,
    }
}

/// The number of the process that runs, if it is watched.
#[inline(always)]
fn current() -> Option<u32> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is one word, written before the process is watched.
    unsafe { GRAPH_PROCESSES.get(tgid) }.copied()
}

/// Tells of a page as ksmd knows it.
fn merged(kind: u32, frame: u64, rmap_item: *const u8, mm: *const u8) {
    let Some(process) = watched(mm) else { return };
    match read::<u64>(rmap_item, RMAP_ADDRESS.load()) {
        // The bits below the page are ksmd's own.
        Some(address) => {
            let address = address >> PAGE_SHIFT << PAGE_SHIFT;
            tell(GraphEvent { address, frame, process, kind });
        }
        None => lost(),
    }
}

/// The number of the process an address space belongs to (`mm->owner`, CONFIG_MEMCG), if it is watched.
#[inline(always)]
fn watched(mm: *const u8) -> Option<u32> {
    let task: *const u8 = read(mm, MM_OWNER.load())?;
    let tgid: u32 = read(task, TASK_TGID.load())?;
    // SAFETY: the value is one word, written before the process is watched.
    unsafe { GRAPH_PROCESSES.get(tgid) }.copied()
}

#[inline(always)]
fn tell(event: GraphEvent) -> i32 {
    match GRAPH_EVENTS.reserve::<GraphEvent>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(NO_WAKEUP);
        }
        None => lost(),
    }
    0
}

fn lost() {
    if let Some(losses) = GRAPH_LOSSES.get_ptr_mut(0) {
        // SAFETY: an element of this CPU; a program that interrupts this one can at worst lose one count.
        unsafe { (*losses).events += 1 };
    }
}

#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    if base.is_null() {
        return None;
    }
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()).ok() }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
