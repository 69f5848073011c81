//! What can go wrong while recording.

use std::path::{Path, PathBuf};

use huddle_model::schema::ManifestError;
use parquet::errors::ParquetError;

/// A recording that cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The run directory holds something.
    #[error(
        "{} is not empty, and a recording never overwrites; name a new directory or empty this one",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// A file or directory could not be made, written, synced, renamed or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Rows could not be encoded or written as Parquet.
    #[error("cannot write {}: {source}", path.display())]
    Parquet {
        /// The segment.
        path: PathBuf,
        /// What the encoder or the kernel said.
        source: ParquetError,
    },
    /// The manifest could not be turned into JSON.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A limit under which nothing useful could be kept.
    #[error("a recording of at most {0} bytes holds nothing useful; allow at least {min} bytes", min = super::limits::LEAST_TOTAL_BYTES)]
    TotalTooSmall(u64),
    /// Recording had stopped before the run ended; what was closed before is readable.
    #[error(
        "recording stopped early: {0}; the segments closed before can be read: \
         free space or mend what is said, and record to a new directory"
    )]
    Stopped(String),
    /// The recorder's thread ended by a panic, which is a defect of huddle.
    #[error(
        "the recorder's thread panicked, which is a defect of huddle; the segments closed before can be read"
    )]
    Panicked,
}

impl RecordError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        move |source| Self::Parquet { path: path.to_owned(), source }
    }
}
