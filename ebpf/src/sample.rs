//! Samples of perf events, attributed to the watched thread and the CPU they hit.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_smp_processor_id},
    macros::perf_event,
    programs::PerfEventContext,
};
use huddle_abi::Residency;

use crate::watch::{residency, slot_of};

#[perf_event]
pub fn sample_clock(_: PerfEventContext) -> u32 {
    // SAFETY: only this CPU writes this element, and only this program this field.
    hit(|residency| unsafe { (*residency).clock_samples += 1 })
}

#[perf_event]
pub fn sample_misses(_: PerfEventContext) -> u32 {
    // SAFETY: as above.
    hit(|residency| unsafe { (*residency).miss_samples += 1 })
}

#[inline(always)]
fn hit(add: impl FnOnce(*mut Residency)) -> u32 {
    let tid = bpf_get_current_pid_tgid() as u32;
    if let Some(slot) = slot_of(tid) {
        // SAFETY: the helper only reads the number of the CPU.
        if let Some(residency) = residency(slot, unsafe { bpf_get_smp_processor_id() }) {
            add(residency);
        }
    }
    0
}
