//! The directory of one run: its manifest and the files of its tables.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use huddle_model::schema::{MANIFEST_FILE, Manifest, SCHEMA_VERSION, Table};

use crate::AnalysisError;

/// The directory of one run, or of the responses of an experiment, which have no manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Directory {
    path: PathBuf,
}

/// The files of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFiles {
    /// Closed segments with their numbers, ascending.
    pub segments: Vec<(u64, PathBuf)>,
    /// Segments that were open when the recording stopped; they cannot be read.
    pub open: Vec<PathBuf>,
    /// Files that are not from a recorder.
    pub strange: Vec<PathBuf>,
}

impl TableFiles {
    /// The numbers of the first and the last segment.
    pub(crate) fn span(&self) -> Option<(u64, u64)> {
        self.segments.first().zip(self.segments.last()).map(|((first, _), (last, _))| (*first, *last))
    }
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Path of its manifest.
    pub(crate) fn manifest_path(&self) -> PathBuf {
        self.path.join(MANIFEST_FILE)
    }

    /// Its manifest.
    ///
    /// # Errors
    /// When it cannot be read, or has an unknown version.
    pub(crate) fn manifest(&self) -> Result<Manifest, AnalysisError> {
        let path = self.manifest_path();
        let text = std::fs::read_to_string(&path).map_err(AnalysisError::read(&path))?;
        Manifest::from_json(&text).map_err(|source| AnalysisError::Manifest { path, source })
    }

    /// The files of a table; none if its directory does not exist, since it is created with the first row.
    pub(crate) fn files(&self, table: Table) -> Result<TableFiles, AnalysisError> {
        let dir = self.path.join(table.name());
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(TableFiles::default()),
            Err(error) => return Err(AnalysisError::read(&dir)(error)),
        };
        let mut files = TableFiles::default();
        for entry in entries {
            let path = entry.map_err(AnalysisError::read(&dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match segment_number(&name) {
                Some(number) => files.segments.push((number, path)),
                None if name.starts_with(".segment-") && name.ends_with(".tmp") => files.open.push(path),
                None => files.strange.push(path),
            }
        }
        files.segments.sort();
        files.open.sort();
        files.strange.sort();
        Ok(files)
    }

    /// The version of its tables; today's if the manifest was lost.
    pub(crate) fn schema_version(&self) -> Result<u32, AnalysisError> {
        match self.manifest() {
            Ok(manifest) => Ok(manifest.schema_version),
            Err(AnalysisError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(SCHEMA_VERSION)
            }
            Err(error) => Err(error),
        }
    }
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".parquet")?;
    (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A run has a manifest; without it, it still has its tables, which `validate` must find.
pub(crate) fn is_run(dir: &Path) -> bool {
    let has_segment = |table: &&Table| {
        std::fs::read_dir(dir.join(table.name())).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| segment_number(&entry.file_name().to_string_lossy()).is_some())
            })
        })
    };
    dir.join(MANIFEST_FILE).is_file() || Table::ALL.iter().any(|table| has_segment(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_distinguished_from_everything_else() {
        assert_eq!(segment_number("segment-000042.parquet"), Some(42));
        assert_eq!(segment_number("segment-1000000.parquet"), Some(1_000_000));
        for name in [".segment-000001.parquet.tmp", "segment-1.parquet", "segment-00000x.parquet", "a"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
