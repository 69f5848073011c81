//! Counters per vCPU thread through perf_event_open(2): one group per thread, so that all its events
//! are on the processor together and their ratios are true.

pub mod events;
pub mod group;
