//! The file between a plugin and a runner: a header, and for each vCPU a ring of records.
//!
//! The runner makes the file ([`StreamFile`]), the plugin finds it by its path. Each ring has one writer, the vCPU's
//! thread in QEMU ([`RingWriter`]), and one reader, the runner ([`StreamReader`]). A vCPU that finds its ring full waits
//! for the runner, up to a time that the writer is given and only while a recording is wanted. One that has waited in
//! vain goes on: its records are lost and counted, without another wait, until there is room.
//!
//! Neither side relies on what the other wrote: a guest may have taken over its QEMU. Indices are taken modulo the ring,
//! a reader takes at most one ring of records at a time and keeps its own place, and whatever cannot be is a
//! [`StreamError::Damaged`]. The file cannot be made shorter while it is mapped (see [`StreamFile::create`]).
//!
//! # Order
//! A writer counts the instructions of a block before it records the block's accesses. x86-64 makes stores visible in
//! their order (Intel SDM volume 3, 9.2.2), so a reader that reads the count first, and then the ring, has all records
//! with a smaller count. On processors that reorder stores a record could be seen too late.

mod file;
mod header;
mod reader;
mod record;
mod writer;

use std::path::PathBuf;

pub use file::{Mapping, StreamFile};
pub use header::{KeptLine, LINE_BYTES, LINES_OF_PAGE, MAX_RING_RECORDS, MAX_VCPUS, Recording, RingRecords};
pub use reader::{Drained, StreamReader};
pub use record::{AccessKind, AddressSpace, Record};
pub use writer::{RingWriter, StreamWriter};

/// A stream cannot be made, opened or read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It cannot be made.
    #[error("cannot make a stream of accesses in shared memory ({call}): {source}")]
    Make {
        /// The system call that failed.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be opened or mapped.
    #[error("cannot open the stream of accesses {}: {source}; the runner makes it, and must be running", path.display())]
    Open {
        /// The path that was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no stream, or of another version, or was not made for these vCPUs.
    #[error("the stream of accesses is not usable: {0}; take plugin and runner from one build")]
    Unusable(String),
    /// The other side wrote what cannot be.
    #[error("the stream of accesses of vCPU {vcpu} is damaged: {what}; nothing more is read from it")]
    Damaged {
        /// The vCPU.
        vcpu: usize,
        /// What was found.
        what: &'static str,
    },
}
