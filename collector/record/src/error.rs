//! What can go wrong while recording.

use std::path::{Path, PathBuf};

use huddle_model::schema::ManifestError;
use huddle_recording::label::LabelFault;
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
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Rows could not be encoded or written as Parquet.
    #[error("cannot write {}: {source}", path.display())]
    Parquet {
        /// The segment.
        path: PathBuf,
        /// The error of the encoder or the kernel.
        source: ParquetError,
    },
    /// A segment could not get its checksum.
    #[error("cannot put a checksum into {}: {source}", path.display())]
    Label {
        /// The segment.
        path: PathBuf,
        /// Why.
        source: LabelFault,
    },
    /// A segment that is being written is no longer where it was.
    #[error("{} is gone while it was being written: somebody removed or moved the recording", .0.display())]
    Gone(PathBuf),
    /// Something else is where the recording was.
    #[error("{} {what}, so the recording cannot go on there", dir.display())]
    NotOurs {
        /// Directory of the run.
        dir: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The manifest could not be turned into JSON.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A limit under which nothing useful could be kept.
    #[error("a recording of at most {0} bytes holds nothing useful; allow at least {min} bytes", min = super::limits::MIN_TOTAL_BYTES)]
    TotalTooSmall(u64),
    /// Recording had stopped before the run ended; what was closed before is readable.
    #[error(
        "recording stopped early: {0}; the segments closed before can be read: \
         free space or fix the cause, and record to a new directory"
    )]
    Stopped(String),
    /// The recorder panicked, which is a defect of huddle.
    #[error("the recorder panicked, which is a defect of huddle to be reported: {0}")]
    Panicked(String),
}

impl RecordError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn label(path: &Path) -> impl FnOnce(LabelFault) -> Self {
        move |source| Self::Label { path: path.to_owned(), source }
    }

    pub(super) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        move |source| Self::Parquet { path: path.to_owned(), source }
    }
}
