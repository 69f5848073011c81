//! The files of a recording, for its writer and its readers: which exist, whether each is what the recorder wrote, and
//! whether its columns can be read.
//!
//! - [`regular`]: only regular files are opened. Named pipes, sockets, devices, directories and symbolic links
//!   inside a recording are refused by name, and never waited for.
//! - [`label`]: each segment has a label in its footer with its run, table and number, and the checksum of all of its
//!   bytes. It is written before the segment gets its final name, so a closed segment can be checked whatever happened
//!   to the recorder, the manifest or the other files, and wherever it was copied to.
//! - [`partition`]: where recordings of many hosts are.
//! - [`table`]: the segments of a table, and which of them are missing.
//! - [`columns`]: whether the columns of a segment, whoever wrote it, can be read without a loss; [`rewrite`] brings such a
//!   segment into the form of the recorder's.
//! - [`fleet`]: a fleet at a glance, which the analysis writes.
//! - [`summary`]: the result of an experiment, which is not a recording and stands beside some.
//! - [`guarded`]: catches panics of libraries on damaged segments of older recordings, which have no checksums.

pub mod columns;
mod convert;
pub mod fleet;
pub mod guarded;
pub mod label;
pub mod manifest;
pub mod notes;
pub mod partition;
pub mod regular;
pub mod rewrite;
pub mod segment;
pub mod summary;
pub mod table;

pub use fleet::{OverviewFault, read_fleet_overview};
pub use manifest::{ManifestFault, read_manifest};
pub use segment::{Checked, FileId, Origin, SegmentFault, SegmentName, check_segment};
pub use summary::{MAX_SUMMARY_BYTES, SummaryFault, read_summary};
pub use table::{Listing, TableFault, list_segments};
