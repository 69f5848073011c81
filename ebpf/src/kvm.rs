//! Entries into guest mode and exits from it.
//!
//! Classic tracepoints: only their record holds the exit reason (KVM computes it for the record), at
//! offsets that user space reads from the tracepoint's `format`. The fields are those of the architecture: ARM64's
//! entries do not tell the vCPU, and its exits have a return code beside the exception class.

use aya_ebpf::{
    Global,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::{map, tracepoint},
    maps::HashMap,
    programs::TracePointContext,
};
use huddle_abi::{ARM_EXCEPTION_TRAP, EXIT_RETURNED, ExitKey, Loss, NO_OFFSET, NO_VCPU_ID, VcpuThread};

use crate::watch::{slot, slot_of};

/// Exits per watched thread and reason.
#[map]
static KVM_EXITS: HashMap<ExitKey, u64> = HashMap::with_max_entries(16 * 1024, 0);

/// Every thread that entered guest mode, watched or not: how vCPU threads are found for any VMM.
#[map]
static VCPU_THREADS: HashMap<u32, VcpuThread> = HashMap::with_max_entries(8 * 1024, 0);

#[unsafe(no_mangle)]
static KVM_ENTRY_VCPU_ID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static KVM_EXIT_REASON: Global<u32> = Global::new(0);
/// The return code of an exit; [`NO_OFFSET`] where the architecture has none (x86).
#[unsafe(no_mangle)]
static KVM_EXIT_RETURN: Global<u32> = Global::new(0);

#[tracepoint]
pub fn kvm_entry(ctx: TracePointContext) -> u32 {
    let id = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let vcpu_id = match KVM_ENTRY_VCPU_ID.load() {
        NO_OFFSET => NO_VCPU_ID,
        // SAFETY: the helper reads the record within the offset that its format gives.
        offset => match unsafe { ctx.read_at::<u32>(offset as usize) } {
            Ok(vcpu_id) => vcpu_id,
            Err(_) => return 0,
        },
    };
    let thread = VcpuThread { tgid, vcpu_id };
    // SAFETY: the value is only compared; a torn one would be written again.
    if unsafe { VCPU_THREADS.get(tid) } != Some(&thread) && VCPU_THREADS.insert(tid, thread, 0).is_err() {
        crate::loss::count(Loss::VcpuThreads);
    }
    if let Some(slot) = slot_of(tid).and_then(slot) {
        // SAFETY: only the thread itself enters guest mode.
        unsafe {
            (*slot).kvm_entries += 1;
            (*slot).guest_since_ns = bpf_ktime_get_ns();
        }
    }
    0
}

#[tracepoint]
pub fn kvm_exit(ctx: TracePointContext) -> u32 {
    let Some(index) = slot_of(bpf_get_current_pid_tgid() as u32) else { return 0 };
    let Some(slot) = slot(index) else { return 0 };
    // SAFETY: only the thread itself leaves guest mode.
    unsafe {
        if (*slot).guest_since_ns != 0 {
            (*slot).guest_ns += bpf_ktime_get_ns() - (*slot).guest_since_ns;
            (*slot).guest_since_ns = 0;
        }
    }
    let Some(reason) = reason(&ctx) else { return 0 };
    let key = ExitKey { slot: index, reason };
    match KVM_EXITS.get_ptr_mut(key) {
        // SAFETY: the key holds the thread, and a thread leaves guest mode on one CPU at a time.
        Some(exits) => unsafe { *exits += 1 },
        None if KVM_EXITS.insert(key, 1, 0).is_err() => crate::loss::count(Loss::ExitReasons),
        None => {}
    }
    0
}

/// Why the guest was left: see [`ExitKey::reason`]; `None` where the record cannot be read.
fn reason(ctx: &TracePointContext) -> Option<u32> {
    let returned = KVM_EXIT_RETURN.load();
    if returned != NO_OFFSET {
        // SAFETY: as in `kvm_entry`.
        let code = unsafe { ctx.read_at::<u32>(returned as usize) }.ok()?;
        if code != ARM_EXCEPTION_TRAP {
            return Some(EXIT_RETURNED.wrapping_add(code));
        }
    }
    // SAFETY: as in `kvm_entry`.
    unsafe { ctx.read_at::<u32>(KVM_EXIT_REASON.load() as usize) }.ok()
}
