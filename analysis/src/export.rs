//! Export for other programs: one file per table with all runs, with host and run id.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use huddle_model::schema::Table;
use polars::prelude::*;

use crate::AnalysisError;
use crate::error::first_line;
use crate::frame::collect;
use crate::run::RunDir;

/// File formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a heading; unavailable is empty.
    Csv,
    /// One Parquet file per table, compressed by zstd.
    Parquet,
    /// One JSON object per line; unavailable is null.
    Json,
}

/// A written file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The table.
    pub table: Table,
    /// Its path.
    pub path: PathBuf,
}

/// Writes `tables` of `runs` to `dir`, which is new or empty: `TABLE.csv`, `TABLE.parquet` or `TABLE.jsonl`.
/// Tables without rows get no file. Rows are streamed, not held in memory. The files appear all at once or
/// not at all: they are first written beside `dir`, readable only for the owner.
///
/// # Errors
/// When a recording cannot be read, or `dir` is not empty or cannot be written.
pub fn export(
    runs: &[RunDir],
    tables: &[Table],
    format: ExportFormat,
    dir: &Path,
) -> Result<Vec<Exported>, AnalysisError> {
    let cannot = |message: String| AnalysisError::Write { path: dir.to_owned(), message };
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(cannot("it is not empty; name a new directory".to_owned())),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot(error.to_string())),
        Ok(false) | Err(_) => {}
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|error| cannot(error.to_string()))?;
    let unfinished = tempfile::Builder::new()
        .prefix(".huddle-export-")
        .tempdir_in(parent)
        .map_err(|error| cannot(error.to_string()))?;
    let written = write(runs, tables, format, unfinished.path(), dir)?;
    if !written.is_empty() {
        // An empty directory is replaced by the new one.
        fs::rename(unfinished.path(), dir).map_err(|error| cannot(error.to_string()))?;
        // Nothing has that name any more.
        let _ = unfinished.keep();
    }
    Ok(written)
}

/// Writes the files to `unfinished`, and returns their later paths in `dir`.
fn write(
    runs: &[RunDir],
    tables: &[Table],
    format: ExportFormat,
    unfinished: &Path,
    dir: &Path,
) -> Result<Vec<Exported>, AnalysisError> {
    let mut written = Vec::new();
    for table in tables {
        let Some(frame) = of_all(runs, *table)? else { continue };
        let (ending, kind) = match format {
            ExportFormat::Csv => ("csv", FileWriteFormat::Csv(CsvWriterOptions::default())),
            ExportFormat::Parquet => ("parquet", FileWriteFormat::Parquet(Arc::default())),
            ExportFormat::Json => ("jsonl", FileWriteFormat::NDJson(NDJsonWriterOptions::default())),
        };
        let name = format!("{table}.{ending}");
        let path = dir.join(&name);
        let cannot = |error: PolarsError| AnalysisError::Write {
            path: path.clone(),
            message: first_line(&error.to_string()),
        };
        let target = SinkTarget::Path(PlRefPath::try_from_path(&unfinished.join(&name)).map_err(cannot)?);
        let sink =
            frame.sink(SinkDestination::File { target }, kind, UnifiedSinkArgs::default()).map_err(cannot)?;
        collect(sink).map_err(cannot)?;
        written.push(Exported { table: *table, path });
    }
    Ok(written)
}

/// A table of all runs, with the columns `host` and `run_id` before its own.
fn of_all(runs: &[RunDir], table: Table) -> Result<Option<LazyFrame>, AnalysisError> {
    let mut frames = Vec::new();
    for run in runs {
        let Some(frame) = run.scan(table)? else { continue };
        let manifest = run.manifest()?;
        let mut columns = vec![lit(manifest.host).alias("host"), lit(manifest.run).alias("run_id")];
        columns.extend(table.columns().iter().map(|column| col(column.name)));
        frames.push(frame.select(columns));
    }
    if frames.is_empty() {
        return Ok(None);
    }
    let all = concat(frames, UnionArgs::default());
    all.map(Some).map_err(AnalysisError::table(runs[0].path(), table))
}
