//! One recording, and how its tables are scanned.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use huddle_model::schema::{Column, MANIFEST_FILE, Manifest, SCHEMA_VERSION, Table};
use huddle_recording::notes::Notes;
use huddle_recording::{Listing, SegmentFault, SegmentName, list_segments, read_manifest};
use polars::prelude::{LazyFrame, NULL, col, lit};

use crate::AnalysisError;
use crate::losses::{Losses, tables};
use crate::rewritten::Rewritten;
use crate::scan::{data_type, scan_files};
use crate::segment::{self, Times};

/// The directory of one run, and which parts of it cannot be read. Two are equal if their paths are.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
    losses: Losses,
    rewritten: Arc<Rewritten>,
}

impl PartialEq for RunDir {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for RunDir {}

impl PartialOrd for RunDir {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RunDir {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path.cmp(&other.path)
    }
}

impl RunDir {
    /// The run in this directory, for which [`is_run`] is true; compares its segments with their checksums, and reads
    /// their footers.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { losses: Losses::of(&path), path, rewritten: Arc::default() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was recorded and cannot be read, one sentence each: results are from the rest.
    pub fn losses(&self) -> &[String] {
        self.losses.sentences()
    }

    /// Why a segment is skipped; `None` for one that is read.
    pub(crate) fn fault(&self, segment: &Path) -> Option<&str> {
        self.losses.fault(segment)
    }

    /// Notes for the user about its segments that are not losses.
    pub(crate) fn notes(&self) -> &Notes {
        self.losses.notes()
    }

    /// Reads every row, and skips the segments that are damaged inside from now on; returns how many were found.
    pub(crate) fn check_all_rows(&mut self) -> usize {
        let known = self.losses.unusable();
        let manifest = self.manifest().ok();
        let version = manifest.as_ref().map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        for table in tables(manifest.as_ref()) {
            for (number, path) in self.files(table).unwrap_or_default().segments {
                if self.fault(&path).is_some() {
                    continue;
                }
                let name = SegmentName { table, number, manifest: manifest.as_ref() };
                let checked = self.readable(&path, name).and_then(|readable| {
                    segment::check(&path, &readable, table, version, &mut Times::default())
                });
                if let Err(why) = checked {
                    self.losses.add_unusable(&path, &why);
                }
            }
        }
        self.losses.unusable() - known
    }

    /// The file to read for a segment: itself, or its rows in the form of the recorder's if another program wrote it.
    pub(crate) fn readable(&self, path: &Path, name: SegmentName<'_>) -> Result<PathBuf, SegmentFault> {
        if self.losses.is_foreign(path) { self.rewritten.of(path, name) } else { Ok(path.to_owned()) }
    }

    /// Path of its manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.path.join(MANIFEST_FILE)
    }

    /// Its manifest.
    ///
    /// # Errors
    /// When it cannot be read, or is of a version that this program does not know.
    pub fn manifest(&self) -> Result<Manifest, AnalysisError> {
        Ok(read_manifest(&self.path)?)
    }

    /// The files of a table; none if its directory does not exist, since a table gets one with its first row.
    ///
    /// # Errors
    /// It is not a directory, or cannot be listed.
    pub fn files(&self, table: Table) -> Result<Listing, AnalysisError> {
        Ok(list_segments(&self.path, table)?)
    }

    /// The files to read for the usable closed segments of a table in order, all with exactly the columns of the schema
    /// version that is returned.
    ///
    /// # Errors
    /// As [`RunDir::scan`].
    pub(crate) fn readable_files(&self, table: Table) -> Result<(u32, Vec<PathBuf>), AnalysisError> {
        let version = self.schema_version()?;
        let manifest = self.manifest().ok();
        // A directory that cannot be listed is among the losses.
        let segments = self.files(table).unwrap_or_default().segments;
        let usable = segments.iter().filter(|(_, path)| self.fault(path).is_none());
        let readable = usable.map(|(number, path)| {
            self.readable(path, SegmentName { table, number: *number, manifest: manifest.as_ref() })
        });
        let cannot = |fault: SegmentFault| AnalysisError::unreadable(&self.path, table, &fault);
        Ok((version, readable.collect::<Result<_, _>>().map_err(cannot)?))
    }

    /// A lazy scan of a table's usable closed segments in order, with the columns of the current version, whatever the
    /// version of the recording: missing columns are null. `None` if there is no segment.
    ///
    /// # Errors
    /// When the manifest is of a version that this program does not know, or the directory cannot be read.
    pub fn scan(&self, table: Table) -> Result<Option<LazyFrame>, AnalysisError> {
        let (version, readable) = self.readable_files(table)?;
        if readable.is_empty() {
            return Ok(None);
        }
        let frame = scan_files(readable.iter().map(PathBuf::as_path));
        let frame = frame.map_err(AnalysisError::table(&self.path, table))?;
        let columns = table.columns();
        let old = |name| table.column_name(name, version);
        if columns.iter().all(|column| old(column.name) == Some(column.name)) {
            return Ok(Some(frame));
        }
        // As columns of the same frame, so that they have as many rows as the others in every query.
        let missing = columns.iter().filter(|column| old(column.name).is_none());
        let nulls = missing.map(|column| lit(NULL).cast(data_type(column.kind)).alias(column.name));
        let frame = frame.with_columns(nulls.collect::<Vec<_>>());
        let current = |column: &Column| col(old(column.name).unwrap_or(column.name)).alias(column.name);
        Ok(Some(frame.select(columns.iter().map(current).collect::<Vec<_>>())))
    }

    /// The version of its tables; without a manifest, the current one.
    fn schema_version(&self) -> Result<u32, AnalysisError> {
        match self.manifest() {
            Ok(manifest) => Ok(manifest.schema_version),
            Err(AnalysisError::Read { source, .. }) if source.is_not_found() => Ok(SCHEMA_VERSION),
            Err(error) => Err(error),
        }
    }
}

/// Whether the directory is that of a run: it has a manifest, or, if that was lost, tables, which `validate` has to
/// find. Something in the place of the manifest that is not a file is refused by name when it is read.
pub(crate) fn is_run(dir: &Path) -> bool {
    let has_segment =
        |table: &Table| list_segments(dir, *table).is_ok_and(|files| !files.segments.is_empty());
    dir.join(MANIFEST_FILE).symlink_metadata().is_ok() || Table::ALL.iter().any(has_segment)
}
