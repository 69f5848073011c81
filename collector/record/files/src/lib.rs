//! The files of a recording, for whoever writes or reads one: which there are, and whether each is what the
//! recorder wrote. Knows nothing of what is in a segment, so that every reader asks it first, whatever library
//! decodes the rows then.
//!
//! - [`regular`]: what is opened is a regular file. Named pipes, sockets, devices, directories and symbolic links
//!   inside a recording are refused by name, and never waited for.
//! - [`label`]: each segment says in its footer of which run, table and number it is, and has the checksum of
//!   all of its bytes. It gets both before it gets its name, so a closed segment can be checked whatever happened
//!   to the recorder, the manifest or the other files, and wherever it was copied to.
//! - [`table`]: the segments of a table, and which of them are missing.
//! - [`guarded`]: libraries that panic on bytes that no checksum covers, those of older recordings.

pub mod guarded;
pub mod label;
pub mod manifest;
pub mod regular;
pub mod segment;
pub mod table;

pub use manifest::{ManifestFault, read_manifest};
pub use segment::{Checked, FileId, SegmentFault, SegmentName, check_segment};
pub use table::{Listing, TableFault, list_segments};
