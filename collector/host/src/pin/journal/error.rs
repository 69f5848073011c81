//! Why a journal cannot be read or written.

use std::io;
use std::path::PathBuf;

use super::format::SCHEMA;
use crate::HostError;
use crate::files::NotOwn;

/// A journal that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk said no.
    #[error("cannot {what} the journal {}: {source}; huddle changes nothing that is not in it", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is there is not a file of huddle's.
    #[error(transparent)]
    NotOwn(NotOwn),
    /// A complete line that is no entry.
    #[error(
        "line {line} of the journal {} is damaged: {text:?}; run `huddle restore`, which undoes all that \
         can be read and keeps the file aside",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Its first 120 characters.
        text: String,
    },
    /// Written by another version.
    #[error(
        "the journal {} has the schema {found:?}, and this huddle knows {SCHEMA:?} and older ones only; restore \
         with the version that wrote it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The boot cannot be told.
    #[error("cannot tell this boot from an earlier one: {0}")]
    Boot(#[from] HostError),
}
