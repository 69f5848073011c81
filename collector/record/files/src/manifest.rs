//! The manifest of a run, as a file.

use std::path::{Path, PathBuf};

use huddle_model::schema::{MANIFEST_FILE, Manifest, ManifestError};

use super::regular::{RegularError, read_text};

/// A manifest has a few KiB; far larger files are refused.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;

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
    /// It is not a manifest, or of an unsupported version.
    #[error("{}: {source}", path.display())]
    Content {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
}

impl ManifestFault {
    /// Whether it does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.is_not_found())
    }
}

/// Reads the manifest of the run in `dir`.
///
/// # Errors
/// It does not exist, is not a regular file, or is of an unsupported version.
pub fn read_manifest(dir: &Path) -> Result<Manifest, ManifestFault> {
    let path = dir.join(MANIFEST_FILE);
    let text = match read_text(&path, MAX_MANIFEST_BYTES) {
        Ok(text) => text,
        Err(source) => return Err(ManifestFault::File { path, source }),
    };
    Manifest::from_json(&text).map_err(|source| ManifestFault::Content { path, source })
}
