//! An object of its own: looks at the first bytes of physical frames, for the sharing scan.
//!
//! The program is never attached. User space puts a batch of frame numbers into the map, runs it once
//! (BPF_PROG_TEST_RUN) and takes the verdicts out, which costs a twentieth of a read of
//! `/proc/PID/mem` a frame, and touches no page table, so merged pages stay merged.
#![no_std]
#![no_main]

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};
use huddle_abi::{FRAME_BATCH, FRAMES_A_RUN, FrameBatch, HEAD_WORDS};

#[map]
static BATCH: Array<FrameBatch> = Array::with_max_entries(1, 0);

const PAGE_SHIFT: u64 = 12;

// Its one argument is the position of the first frame to look at; it looks at `FRAMES_A_RUN` from there.
// The verifier walks every turn of the loop, so there are few of them and no branch in them: with a
// thousand turns and a branch it took a third of a second.
#[raw_tracepoint]
pub fn peek_frames(ctx: RawTracePointContext) -> i32 {
    let Some(batch) = BATCH.get_ptr_mut(0) else { return 1 };
    let first: u64 = ctx.arg(0);
    let mut turn = 0;
    while turn < FRAMES_A_RUN {
        // SAFETY: `i` is within the arrays, and the helper copes with any address: what cannot be read
        // becomes zero. Places are named by pointer: a reference would bring bounds checks that panic.
        unsafe {
            let i = (first as usize + turn) & (FRAME_BATCH - 1);
            let frame = (&raw const (*batch).frames).cast::<u64>().add(i).read();
            let address = (*batch).direct_map.wrapping_add(frame << PAGE_SHIFT);
            let head = (&raw mut (*batch).heads).cast::<[u64; HEAD_WORDS]>().add(i);
            bpf_probe_read_kernel(head.cast(), size_of::<[u64; HEAD_WORDS]>() as u32, address as *const _);
        }
        turn += 1;
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
