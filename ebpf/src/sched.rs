//! Where watched threads run, for how long, and when they move.

use aya_ebpf::{
    Global,
    helpers::generated::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use huddle_abi::Slot;

use crate::{
    task::Task,
    watch::{residency, slot, slot_of},
};

/// The cache domain of each CPU.
#[map]
static DOMAIN_OF: Array<u32> = Array::with_max_entries(1, 0);

/// Nanoseconds of a clock tick as `/proc/PID/stat` shows them.
#[unsafe(no_mangle)]
static TICK_NS: Global<u64> = Global::new(10_000_000);

// TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let (prev, next) = (Task::trusted(ctx.arg(1)), Task::trusted(ctx.arg(2)));
    let (leaving, entering) = (slot_of(prev.tid()), slot_of(next.tid()));
    if leaving.is_none() && entering.is_none() {
        return 0;
    }
    // SAFETY: the helper only reads the number of the CPU.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(index) = leaving {
        leave(index, prev, cpu);
    }
    if let Some(index) = entering {
        enter(index, next, cpu);
    }
    0
}

// TP_PROTO(struct task_struct *p, int dest_cpu); the task still holds the CPU it comes from.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate_task(ctx: BtfTracePointContext) -> i32 {
    let task = Task::trusted(ctx.arg(0));
    let Some(slot) = slot_of(task.tid()).and_then(|index| own(index, task)) else { return 0 };
    let (from, to) = (task.cpu(), ctx.arg::<u32>(1));
    if from == to {
        return 0;
    }
    let crosses = match (DOMAIN_OF.get(from), DOMAIN_OF.get(to)) {
        (Some(from), Some(to)) => from != to,
        _ => false,
    };
    // SAFETY: a task is moved under its own lock, so nobody else moves it at the same time.
    unsafe {
        (*slot).migrations += 1;
        (*slot).domain_migrations += u64::from(crosses);
    }
    0
}

// Time is the scheduler's own account of the thread (`se.sum_exec_runtime`), brought up to date before
// the tracepoint: what the kernel calls its CPU time, without interrupts and without what the hypervisor
// took where the kernel leaves them out. It also saves reading a clock.

#[inline(always)]
fn leave(index: u32, task: Task, cpu: u32) {
    let (Some(slot), Some(residency)) = (own(index, task), residency(index, cpu)) else { return };
    // SAFETY: the thread is being switched away on this CPU, under the lock of this CPU's queue: no
    // other CPU handles a switch of it now, and only this CPU writes this element of the residency.
    unsafe {
        // A thread that was on the CPU when the watch began has run since then: had it been switched
        // to in between, that switch would have been seen.
        let since_ns = if (*slot).seen == 0 { (*slot).cpu_time_from_ns } else { (*slot).cpu_time_since_ns };
        let now_ns = task.cpu_time_ns();
        if now_ns > since_ns {
            (*residency).run_ns += now_ns - since_ns;
        }
        (*residency).switches += 1;
        (*slot).cpu_time_since_ns = now_ns;
        (*slot).on_cpu_plus_one = 0;
        (*slot).seen = 1;
    }
}

#[inline(always)]
fn enter(index: u32, task: Task, cpu: u32) {
    let Some(slot) = own(index, task) else { return };
    // SAFETY: as in `leave`.
    unsafe {
        (*slot).cpu_time_since_ns = task.cpu_time_ns();
        (*slot).on_cpu_plus_one = cpu + 1;
        (*slot).seen = 1;
    }
}

/// The slot, if it was meant for this very thread and not for an earlier one of the same number.
#[inline(always)]
fn own(index: u32, task: Task) -> Option<*mut Slot> {
    let slot = slot(index)?;
    // SAFETY: an element of an array; user space writes the field before the thread is watched.
    let start_ticks = unsafe { (*slot).start_ticks };
    // Checked: a division by zero would be a panic, and no kernel loads a program with one.
    (task.start_boottime_ns().checked_div(TICK_NS.load()) == Some(start_ticks)).then_some(slot)
}
