//! Counters per vCPU thread through perf_event_open(2): one group per thread, so that all its events
//! are on the processor together and their ratios are valid.
//!
//! [`EventSet`] has the event of each role, [`VcpuCounters`] keeps the groups of all watched vCPUs and
//! converts their readings to the types of `huddle_model`.

mod check;
pub mod events;
pub mod group;
pub mod meaning;
mod parse;
mod processors;
mod resolve;
pub mod set;
pub mod vcpus;

pub use events::EventSpec;
pub use group::Scope;
pub use parse::{EventError, EventText, Term};
pub use set::{EventChoice, EventSet, TriedEvent};
pub use vcpus::{VcpuCounters, VcpuReading};
