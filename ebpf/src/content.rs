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
use huddle_abi::{FRAME_BATCH, FrameBatch, PEEK_ALL_ZERO, PEEK_NOT_ZERO, PEEK_UNREADABLE, PEEK_WORDS};

#[map]
static BATCH: Array<FrameBatch> = Array::with_max_entries(1, 0);

const PAGE_SHIFT: u64 = 12;

#[raw_tracepoint]
pub fn peek_frames(_: RawTracePointContext) -> i32 {
    let Some(batch) = BATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: the pointer is to the map's one element, which user space leaves alone during the run.
    let (count, direct_map) = unsafe { ((*batch).count, (*batch).direct_map) };
    let mut i = 0;
    while i < FRAME_BATCH && (i as u64) < count {
        // SAFETY: `i` is within the arrays, and the helper copes with any address: what cannot be read
        // is an error. Places are named by pointer: a reference would bring bounds checks that panic.
        unsafe {
            let frame = (&raw const (*batch).frames).cast::<u64>().add(i).read();
            let address = direct_map.wrapping_add(frame << PAGE_SHIFT);
            let mut words = [0u64; PEEK_WORDS];
            let failed = bpf_probe_read_kernel(
                words.as_mut_ptr().cast(),
                size_of::<[u64; PEEK_WORDS]>() as u32,
                address as *const _,
            );
            let verdict = match (failed, words[0] | words[1]) {
                (0, 0) => PEEK_ALL_ZERO,
                (0, _) => PEEK_NOT_ZERO,
                _ => PEEK_UNREADABLE,
            };
            (&raw mut (*batch).verdicts).cast::<u8>().add(i).write(verdict);
            (&raw mut (*batch).first_words).cast::<u64>().add(i).write(words[0]);
        }
        i += 1;
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
