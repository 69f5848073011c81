//! One recording, and scans of its tables.

use std::path::{Path, PathBuf};

use huddle_model::schema::{Column, Manifest, Table};
use polars::prelude::{LazyFrame, NULL, col, lit};

use crate::AnalysisError;
use crate::directory::Directory;
pub use crate::directory::TableFiles;
use crate::frame::scan_files;
use crate::losses::Losses;
use crate::segment::data_type;

/// The directory of one run, and its unreadable parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunDir {
    directory: Directory,
    losses: Losses,
}

impl RunDir {
    /// The run in this directory; reads the footers of its segments.
    pub(crate) fn new(path: PathBuf) -> Self {
        let directory = Directory::new(path);
        let losses = Losses::of(&directory);
        Self { directory, losses }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Recorded data that cannot be read, one sentence each: answers are from the rest.
    pub fn losses(&self) -> &[String] {
        self.losses.sentences()
    }

    /// Reads every row, and excludes segments that turn out to be damaged inside; returns the number of newly
    /// found ones.
    pub(crate) fn read_through(&mut self) -> usize {
        self.losses.read_through(&self.directory)
    }

    /// Path of its manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.directory.manifest_path()
    }

    /// Its manifest.
    ///
    /// # Errors
    /// When it cannot be read, or has an unknown version.
    pub fn manifest(&self) -> Result<Manifest, AnalysisError> {
        self.directory.manifest()
    }

    /// The files of a table; none if its directory does not exist, since it is created with the first row.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn files(&self, table: Table) -> Result<TableFiles, AnalysisError> {
        self.directory.files(table)
    }

    /// A lazy scan of a table's usable closed segments in order, with today's columns whatever the version of
    /// the recording: missing columns are null. `None` if there is no segment.
    ///
    /// # Errors
    /// When the manifest has an unknown version, or the directory cannot be read.
    pub fn scan(&self, table: Table) -> Result<Option<LazyFrame>, AnalysisError> {
        let version = self.directory.schema_version()?;
        let segments = self.files(table)?.segments;
        let usable: Vec<&Path> =
            segments.iter().map(|(_, path)| path.as_path()).filter(|path| !self.losses.has(path)).collect();
        if usable.is_empty() {
            return Ok(None);
        }
        let frame = scan_files(usable.into_iter()).map_err(AnalysisError::table(self.path(), table))?;
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
}
