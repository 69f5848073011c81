//! What can go wrong while a recording is read.

use std::path::PathBuf;

use huddle_model::schema::Table;
use huddle_recording::{ManifestFault, SegmentFault};

/// A recording that cannot be replayed, or a part of it that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A directory without a manifest.
    #[error("{} is not a recording: it has no manifest.json; name the directory that `--record` was given", .0.display())]
    NoRecording(PathBuf),
    /// A manifest that cannot be read or parsed, or of an unsupported version.
    #[error(transparent)]
    Manifest(#[from] ManifestFault),
    /// Not one round or window in the closed segments.
    #[error("{} holds no round that can be read{}", dir.display(), because(.warnings))]
    Empty {
        /// Directory of the run.
        dir: PathBuf,
        /// What was found to be wrong.
        warnings: Vec<String>,
    },
    /// A segment that cannot be read.
    #[error(transparent)]
    Segment(#[from] SegmentFault),
    /// More rows than one round or window can have.
    #[error("{table} holds more than {limit} rows of one {key} ({at}): huddle did not write this recording")]
    TooManyRows {
        /// The table.
        table: Table,
        /// `round` or `window`.
        key: &'static str,
        /// Its number.
        at: u64,
        /// Most rows that are read.
        limit: usize,
    },
    /// A position beyond the end.
    #[error("there is no step {position} in a recording of {length}")]
    OutOfRange {
        /// The requested position, from 0.
        position: usize,
        /// How many there are.
        length: usize,
    },
}

fn because(warnings: &[String]) -> String {
    warnings.first().map_or_else(|| ": nothing was closed yet".to_owned(), |first| format!(": {first}"))
}
