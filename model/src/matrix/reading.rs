//! How the frames of a matrix were read.

use serde::{Deserialize, Serialize};

use crate::kind::named;

/// What tells which frames a process maps. Both ways give the same matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadBy {
    /// The page tables themselves, copied by a BPF program.
    PageTables,
    /// `/proc/PID/pagemap`.
    Pagemap,
}

named! {ReadBy, "way to read frames":
    PageTables = "page_tables",
    Pagemap = "pagemap",
}

/// How frames were read, and why not by page tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameReading {
    /// What was read.
    pub by: ReadBy,
    /// Why page tables were not, as one clause; `None` where they were.
    pub reason: Option<String>,
}
