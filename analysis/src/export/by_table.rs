//! Recordings in the layout by table: a reader of Parquet finds one table of all hosts in one directory.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use huddle_model::schema::{MANIFEST_FILE, Manifest, SCHEMA_VERSION, Table};
use huddle_model::text::first_line;
use huddle_recording::table::file_name;
use huddle_recording::{RecordTarget, SegmentName, table_dir};
use polars::prelude::*;

use crate::AnalysisError;
use crate::frame::{Answer, collect};
use crate::run::RunDir;

/// Copies what can be read of `tables` of `runs`, and their manifests, below `root`, which errors name as `shown`; returns
/// the paths of the segments below it. Segments are copied as they are. Those of an older schema version are written again
/// as one segment with the columns of this one, so that all files of a table have the same.
///
/// # Errors
/// Two recordings are of one host and one run; something cannot be read or written.
pub(super) fn copy(
    runs: &[RunDir],
    tables: &[Table],
    root: &Path,
    shown: &Path,
) -> Result<Vec<String>, AnalysisError> {
    let mut written = Vec::new();
    for run in runs {
        let mut manifest = run.manifest()?;
        let (host, id) = (manifest.host.clone(), manifest.run.clone());
        let dir = RecordTarget::ByTable { root: root.to_owned(), host, run: id }.dir();
        let copy = Copy { run, dir: &dir, root, shown };
        if dir.exists() {
            let same = format!(
                "{} is of the same host and run as another recording; leave one out",
                run.path().display()
            );
            return Err(copy.cannot(&dir, &same));
        }
        copy.make(&dir)?;
        // Readers miss no table that was not wanted.
        manifest.tables.retain(|table, _| tables.contains(table));
        let is_old = manifest.schema_version != SCHEMA_VERSION;
        for table in tables {
            match is_old {
                false => written.extend(copy.segments(*table, &manifest)?),
                true => written.extend(copy.write_again(*table, &mut manifest)?),
            }
        }
        if is_old {
            (manifest.schema_version, manifest.segment_checksum) = (SCHEMA_VERSION, None);
        }
        let path = dir.join(MANIFEST_FILE);
        let text = manifest.to_json().map_err(|error| copy.cannot(&path, &error.to_string()))?;
        fs::write(&path, text).map_err(|error| copy.cannot(&path, &error.to_string()))?;
    }
    Ok(written)
}

/// A recording, and where it goes.
struct Copy<'a> {
    run: &'a RunDir,
    dir: &'a Path,
    root: &'a Path,
    shown: &'a Path,
}

impl Copy<'_> {
    fn segments(&self, table: Table, manifest: &Manifest) -> Result<Vec<String>, AnalysisError> {
        let to = table_dir(self.dir, table);
        let mut written = Vec::new();
        for (number, from) in self.run.files(table)?.segments {
            if self.run.fault(&from).is_some() {
                continue;
            }
            let name = SegmentName { table, number, manifest: Some(manifest) };
            let readable = self.run.readable(&from, name);
            let readable =
                readable.map_err(|fault| AnalysisError::unreadable(self.run.path(), table, &fault))?;
            self.make(&to)?;
            let path = to.join(file_name(number));
            fs::copy(&readable, &path).map_err(|error| self.cannot(&path, &error.to_string()))?;
            written.push(self.below_root(&path));
        }
        Ok(written)
    }

    fn write_again(&self, table: Table, manifest: &mut Manifest) -> Result<Option<String>, AnalysisError> {
        let Some(frame) = self.run.scan(table)? else { return Ok(None) };
        let to = table_dir(self.dir, table);
        self.make(&to)?;
        let path = to.join(file_name(1));
        let readable = Answer::of(frame.clone().select([len().alias("rows")]));
        let readable = readable.and_then(|answer| answer.u64s("rows"));
        let readable = readable.map_err(AnalysisError::table(self.run.path(), table))?;
        let write = || -> PolarsResult<()> {
            let target = SinkTarget::Path(PlRefPath::try_from_path(&path)?);
            let kind = FileWriteFormat::Parquet(Arc::default());
            collect(frame.sink(SinkDestination::File { target }, kind, UnifiedSinkArgs::default())?).map(drop)
        };
        write().map_err(|error| self.cannot(&path, first_line(&error.to_string())))?;
        let about = fs::metadata(&path).map_err(|error| self.cannot(&path, &error.to_string()))?;
        let counts = manifest.tables.entry(table).or_default();
        // What cannot be read is lost from here on.
        let was = counts.rows_written.saturating_sub(counts.rows_removed);
        counts.rows_written = readable.first().copied().flatten().unwrap_or(0);
        counts.rows_lost += was.saturating_sub(counts.rows_written);
        (counts.segments_written, counts.bytes_written) = (1, about.len());
        (counts.segments_removed, counts.rows_removed) = (0, 0);
        Ok(Some(self.below_root(&path)))
    }

    /// Makes a directory for the owner alone.
    fn make(&self, dir: &Path) -> Result<(), AnalysisError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| self.cannot(dir, &error.to_string()))
    }

    fn below_root(&self, path: &Path) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    fn cannot(&self, path: &Path, message: &str) -> AnalysisError {
        let path = self.shown.join(path.strip_prefix(self.root).unwrap_or(path));
        AnalysisError::Write { path, message: message.to_owned() }
    }
}
