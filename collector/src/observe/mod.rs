//! What happens to VMs while they run: events of the kernel's own (KSM, the scheduler, KVM) and
//! counters of the processor.
//!
//! Everything here is optional. What a host cannot give is unavailable with a reason, and the rest
//! goes on.

pub mod observer;
pub mod perf;
pub mod probes;
pub mod reported;
pub mod resctrl;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the BPF programs (`bpf_ktime_get_ns`) and of every
/// reading made here.
pub fn monotonic_ns() -> u64 {
    // The clock always exists (clock_gettime(2)); a failure would be a kernel without one.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
