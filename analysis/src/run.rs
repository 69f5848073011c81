//! One recording, and scans of its tables.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use huddle_model::schema::{Column, MANIFEST_FILE, Manifest, SCHEMA_VERSION, Table};
use polars::io::HiveOptions;
use polars::prelude::{LazyFrame, NULL, PlRefPath, PolarsResult, ScanArgsParquet, col, lit};

use crate::AnalysisError;
use crate::losses::Losses;
use crate::segment::data_type;

/// The directory of one run, and its unreadable parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunDir {
    path: PathBuf,
    losses: Losses,
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

impl RunDir {
    /// The run in this directory, which [`is_run`] found; reads the footers of its segments.
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut run = Self { path, losses: Losses::default() };
        run.losses = Losses::of(&run);
        run
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Recorded data that cannot be read, one sentence each: answers are from the rest.
    pub fn losses(&self) -> &[String] {
        self.losses.sentences()
    }

    /// Reads every row, and excludes segments that turn out to be damaged inside; returns the number of newly
    /// found ones.
    pub(crate) fn read_through(&mut self) -> usize {
        let mut losses = std::mem::take(&mut self.losses);
        let found = losses.read_through(self);
        self.losses = losses;
        found
    }

    /// Path of its manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.path.join(MANIFEST_FILE)
    }

    /// Its manifest.
    ///
    /// # Errors
    /// When it cannot be read, or has an unknown version.
    pub fn manifest(&self) -> Result<Manifest, AnalysisError> {
        let path = self.manifest_path();
        let text = std::fs::read_to_string(&path).map_err(AnalysisError::read(&path))?;
        Manifest::from_json(&text).map_err(|source| AnalysisError::Manifest { path, source })
    }

    /// The files of a table; none if its directory does not exist, since it is created with the first row.
    pub fn files(&self, table: Table) -> Result<TableFiles, AnalysisError> {
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

    /// A lazy scan of a table's usable closed segments in order, with today's columns whatever the version of
    /// the recording: missing columns are null. `None` if there is no segment.
    ///
    /// # Errors
    /// When the manifest has an unknown version, or the directory cannot be read.
    pub fn scan(&self, table: Table) -> Result<Option<LazyFrame>, AnalysisError> {
        let version = self.schema_version()?;
        let segments = self.files(table)?.segments;
        let usable: Vec<&Path> =
            segments.iter().map(|(_, path)| path.as_path()).filter(|path| !self.losses.has(path)).collect();
        if usable.is_empty() {
            return Ok(None);
        }
        let frame = scan_files(usable.into_iter()).map_err(AnalysisError::table(&self.path, table))?;
        let columns = table.columns();
        let old = |name| table.column_name(name, version);
        if columns.iter().all(|column| old(column.name) == Some(column.name)) {
            return Ok(Some(frame));
        }
        // Joined to the others, so that they have the same number of rows whatever is selected.
        let missing = columns.iter().filter(|column| old(column.name).is_none());
        let nulls = missing.map(|column| lit(NULL).cast(data_type(column.kind)).alias(column.name));
        let frame = frame.with_columns(nulls.collect::<Vec<_>>());
        let of_today = |column: &Column| col(old(column.name).unwrap_or(column.name)).alias(column.name);
        Ok(Some(frame.select(columns.iter().map(of_today).collect::<Vec<_>>())))
    }

    /// The version of its tables; today's if the manifest was lost.
    fn schema_version(&self) -> Result<u32, AnalysisError> {
        match self.manifest() {
            Ok(manifest) => Ok(manifest.schema_version),
            Err(AnalysisError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(SCHEMA_VERSION)
            }
            Err(error) => Err(error),
        }
    }
}

/// Scans exactly these files, whatever characters and `key=value` parts their paths have.
pub(crate) fn scan_files<'a>(files: impl Iterator<Item = &'a Path>) -> PolarsResult<LazyFrame> {
    let paths: Vec<PlRefPath> = files.map(PlRefPath::try_from_path).collect::<PolarsResult<_>>()?;
    let args =
        ScanArgsParquet { glob: false, hive_options: HiveOptions::new_disabled(), ..Default::default() };
    LazyFrame::scan_parquet_files(paths.into_iter().collect(), args)
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
