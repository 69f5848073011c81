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
