//! What could not be noted, counted per place.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use huddle_abi::Loss;

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(huddle_abi::LOSSES, 0);

pub fn count(loss: Loss) {
    if let Some(count) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the pointer is into this CPU's element; a program that interrupts this one on the
        // same CPU can at worst lose one count of a loss.
        unsafe { *count += 1 };
    }
}
