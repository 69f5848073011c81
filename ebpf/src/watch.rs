//! Which threads are watched, and where their numbers go.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use huddle_abi::{Residency, Slot};

/// Bit `tid % 64` of element `tid / 64` is set for a watched thread. An array look-up is a few
/// instructions without a call, so that a switch of a thread nobody watches costs next to nothing.
#[map]
static WATCH_BITS: Array<u64> = Array::with_max_entries(1, 0);

/// Thread id to slot.
#[map]
static WATCHED: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Element `slot * CPUS + cpu`.
#[map]
static RESIDENCY: Array<Residency> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[unsafe(no_mangle)]
static CPUS: Global<u32> = Global::new(1);

/// The slot of a thread that is watched.
#[inline(always)]
pub fn slot_of(tid: u32) -> Option<u32> {
    let bits = WATCH_BITS.get(tid >> 6)?;
    if *bits & (1 << (tid & 63)) == 0 {
        return None;
    }
    // SAFETY: the value is a plain number that user space writes once before the bit is set.
    unsafe { WATCHED.get(tid) }.copied()
}

#[inline(always)]
pub fn slot(index: u32) -> Option<*mut Slot> {
    SLOTS.get_ptr_mut(index)
}

#[inline(always)]
pub fn residency(slot: u32, cpu: u32) -> Option<*mut Residency> {
    RESIDENCY.get_ptr_mut(slot * CPUS.load() + cpu)
}
