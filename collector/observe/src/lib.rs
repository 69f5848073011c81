//! What happens to VMs while they run: kernel events (KSM, the scheduler, KVM) and counters of the processor.
//!
//! Everything here is optional. What a host does not provide is unavailable with a reason, and the rest goes
//! on.

pub mod observer;
pub mod perf;
pub mod probes;
pub mod reported;
pub mod resctrl;
