//! Beginning and end of each pass of ksmd: what triggers the loop.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::RingBuf,
    programs::BtfTracePointContext,
};
use huddle_abi::{Loss, PASS_START, PASS_STOP, PassEvent};

#[map]
static PASSES: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

// TP_PROTO(int seq, u32 rmap_entries) in include/trace/events/ksm.h.
#[btf_tracepoint(function = "ksm_start_scan")]
pub fn ksm_start_scan(ctx: BtfTracePointContext) -> i32 {
    tell(PASS_START, ctx.arg::<u32>(0), ctx.arg::<u32>(1))
}

#[btf_tracepoint(function = "ksm_stop_scan")]
pub fn ksm_stop_scan(ctx: BtfTracePointContext) -> i32 {
    tell(PASS_STOP, ctx.arg::<u32>(0), ctx.arg::<u32>(1))
}

fn tell(kind: u32, sequence: u32, rmap_items: u32) -> i32 {
    match PASSES.reserve::<PassEvent>(0) {
        Some(mut entry) => {
            // SAFETY: the helper only reads the clock.
            let at_ns = unsafe { bpf_ktime_get_ns() };
            entry.write(PassEvent { at_ns, kind, sequence, rmap_items, reserved: 0 });
            entry.submit(0);
        }
        None => crate::loss::count(Loss::PassRing),
    }
    0
}
