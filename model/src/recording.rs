//! How a recording goes while it is made, for whoever watches the loop.

use serde::{Deserialize, Serialize};

/// Where a loop records, and whether it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingState {
    /// Directory of the run.
    pub dir: String,
    /// Why nothing is being recorded now; it is tried again until it works. `None` while all is well.
    pub interrupted: Option<Interruption>,
}

/// Why nothing is being recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// Since when, in microseconds since the Unix epoch.
    pub since_unix_us: u64,
    /// What failed, one sentence.
    pub reason: String,
}

impl RecordingState {
    /// A recording into `dir` that goes well.
    pub fn of(dir: impl Into<String>) -> Self {
        Self { dir: dir.into(), interrupted: None }
    }
}
