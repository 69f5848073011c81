//! Recording a run: closed Parquet segments, one dataset per table, and `manifest.json`.
//!
//! ```text
//! RUN/manifest.json
//! RUN/sharing/segment-000001.parquet          closed: complete, synced, never touched again
//! RUN/sharing/.segment-000002.parquet.tmp     open: what a kill -9 loses
//! RUN/.reserve                                space for the last manifest when the disk is full
//! RUN/vms/..  RUN/placements/..  RUN/counters/..  and so on: a table has a directory from its first row on
//! ```
//! The loop hands what each step tells to a bounded channel and never waits: what does not fit is counted as
//! lost. One thread of its own encodes and writes. Directories are 0700 and files 0600, because what
//! tenants share is theirs to know (shared pages are the surface of Flush+Reload).

mod batch;
mod environment;
mod error;
mod handle;
mod limits;
mod manifest;
pub mod replay;
mod segment;
mod target;
mod writer;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use writer::RunWriter;

pub use environment::read_environment;
pub use error::RecordError;
pub use handle::{Recorder, RecorderHandle, RecordingStatus, RecordingSummary};
pub use limits::{QueueLimit, RecorderLimits, RecordingLimits, SegmentLimits};
pub use manifest::{RunAbout, host_name, new_manifest};
pub use segment::write_segment;
pub use target::RecordTarget;
