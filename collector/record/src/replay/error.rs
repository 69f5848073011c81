//! What can go wrong while a recording is read.

use std::path::{Path, PathBuf};

use huddle_model::schema::{ManifestError, Table};

/// A recording that cannot be replayed, or a part of it that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A directory without a manifest.
    #[error("{} is no recording: it has no manifest.json; name the directory that `--record` was given", .0.display())]
    NoRecording(PathBuf),
    /// A file or directory could not be read.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A manifest that is none, or of a version that is not read.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Not one round or window in the closed segments.
    #[error("{} holds no round that can be read{}", dir.display(), because(.warnings))]
    Empty {
        /// Directory of the run.
        dir: PathBuf,
        /// What was found to be wrong.
        warnings: Vec<String>,
    },
    /// A segment that cannot be read.
    #[error("{} cannot be read: {what}", path.display())]
    Segment {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it, one line.
        what: String,
    },
    /// More rows than one round or window can have.
    #[error("{table} holds more than {limit} rows of one {key} ({at}): that is no recording of huddle")]
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
        /// What was asked for, from 0.
        position: usize,
        /// How many there are.
        length: usize,
    },
}

impl ReplayError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn segment(path: &Path, what: impl std::fmt::Display) -> Self {
        let what = what.to_string();
        Self::Segment { path: path.to_owned(), what: what.lines().next().unwrap_or_default().to_owned() }
    }
}

fn because(warnings: &[String]) -> String {
    warnings.first().map_or_else(|| ": nothing was closed yet".to_owned(), |first| format!(": {first}"))
}
