//! Recording a run: closed Parquet segments, one dataset per table, and `manifest.json`.
//!
//! ```text
//! RUN/manifest.json
//! RUN/sharing/segment-000001.parquet          closed: complete, synced, never touched again
//! RUN/sharing/.segment-000002.parquet.tmp     open: what a kill -9 loses
//! RUN/.reserve                                space for the last manifest when the disk is full
//! RUN/vms/..  RUN/placements/..  RUN/counters/..  and so on: a table has a directory from its first row on
//! ```
//! The loop sends each step to a bounded channel and never waits: what does not fit is counted as lost. A separate
//! thread encodes and writes. A failure to write (a full disk, a directory that is gone, a panic) is an interruption:
//! it is reported at once, writing is retried with increasing delays, and recording goes on in new segments when it
//! works; the manifest has the gap. Every segment has a checksum in its footer ([`huddle_recording::label`]).
//! Directories are 0700 and files 0600, because what tenants share is confidential (shared pages are the attack
//! surface of Flush+Reload).

mod batch;
mod environment;
mod error;
mod handle;
mod last_minutes;
mod limits;
mod manifest;
pub mod replay;
mod retry;
mod run_dir;
mod segment;
mod target;
mod writer;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use writer::RunWriter;

pub use environment::read_environment;
pub use error::RecordError;
pub use handle::{Recorder, RecorderHandle, RecorderNotice, RecordingStatus, RecordingSummary};
pub use huddle_recording::guarded::is_guarded;
pub use huddle_recording::{OverviewFault, SummaryFault, read_fleet_overview, read_summary};
pub use last_minutes::{KeepLimits, Kept, LastMinutes};
pub use limits::{QueueLimit, RecorderLimits, RecordingLimits, RetryLimits, SegmentLimits};
pub use manifest::{RunAbout, host_name, new_manifest};
pub use segment::write_segment;
pub use target::RecordTarget;
