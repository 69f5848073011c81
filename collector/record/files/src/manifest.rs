//! The manifest of a run, as a file.

use std::path::{Path, PathBuf};

use huddle_model::schema::{MANIFEST_FILE, Manifest, ManifestError};

use super::regular::{RegularError, read_text};

/// A manifest is a few KiB; what is far larger is none.
pub const MOST_MANIFEST_BYTES: u64 = 16 << 20;

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFault {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: RegularError,
    },
    /// It is none, or of a version that is not read.
    #[error("{}: {source}", path.display())]
    Content {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
}

impl ManifestFault {
    /// Whether there is none.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.is_not_found())
    }
}

/// Reads the manifest of the run in `dir`.
///
/// # Errors
/// There is none, it is no regular file, or none that this version reads.
pub fn read_manifest(dir: &Path) -> Result<Manifest, ManifestFault> {
    let path = dir.join(MANIFEST_FILE);
    let text = match read_text(&path, MOST_MANIFEST_BYTES) {
        Ok(text) => text,
        Err(source) => return Err(ManifestFault::File { path, source }),
    };
    Manifest::from_json(&text).map_err(|source| ManifestFault::Content { path, source })
}
