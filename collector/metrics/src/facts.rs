//! What is read at the time of a scrape, and is not part of the loop's updates.

use huddle_host::clock::own_cpu_us;
use huddle_host::{HostRoot, memory, page};

/// The loop's recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecorderFacts {
    /// Whether it can be written now.
    pub is_writing: bool,
    /// Steps of the loop taken and lost; `None` while it is interrupted.
    pub steps: Option<(u64, u64)>,
}

/// Facts of this process and its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Version of huddle.
    pub version: &'static str,
    /// The git revision that it was built from.
    pub revision: Option<&'static str>,
    /// When the loop began, in microseconds since the Unix epoch.
    pub start_unix_us: u64,
    /// CPU time that this process has used, in microseconds.
    pub own_cpu_us: Option<u64>,
    /// Physical memory that it uses, in bytes.
    pub own_memory_bytes: Option<u64>,
    /// Memory that the host can still give, in bytes.
    pub host_available_bytes: Option<u64>,
    /// The recording; `None` if none was asked for.
    pub recorder: Option<RecorderFacts>,
}

impl Facts {
    /// Reads what changes.
    #[must_use]
    pub fn read(self, root: &HostRoot) -> Self {
        Self {
            own_cpu_us: own_cpu_us().ok(),
            own_memory_bytes: memory::own_resident_pages(root).ok().map(|pages| page::size().bytes_of(pages)),
            host_available_bytes: memory::available_bytes(root).ok().flatten(),
            ..self
        }
    }
}
