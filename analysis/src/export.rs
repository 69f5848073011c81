//! Exports recordings for other programs: one file per table, with all runs in it, and host and run id as columns; or one
//! trace per run.

mod by_table;

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use huddle_model::schema::{ColumnKind, Table};
use huddle_model::text::first_line;
use polars::prelude::*;

use crate::frame::collect;
use crate::run::RunDir;
use crate::{AnalysisError, perfetto};

/// File formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a heading; unavailable is empty.
    Csv,
    /// Parquet, compressed by zstd: one file a table, or as `--layout` says.
    Parquet,
    /// One JSON object a line; unavailable is null.
    Json,
    /// One trace a run, for Perfetto.
    Perfetto,
}

/// Where the rows of a table go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportLayout {
    /// One file a table, with all runs in it.
    File,
    /// `TABLE/host=HOST/run=RUN`: the segments as they were recorded, each table in one tree, with the manifests beside them.
    /// Every command reads it, too.
    Table,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportAs {
    /// The file format.
    pub format: ExportFormat,
    /// Where the rows go; other formats than Parquet have one file a table.
    pub layout: ExportLayout,
    /// Whether text that a spreadsheet would take for a formula gets a `'` before it, which marks it as text.
    pub for_spreadsheet: bool,
}

/// Writes `tables` of `runs` to `dir`, which is new or empty: `TABLE.csv`, `TABLE.parquet` or
/// `TABLE.jsonl`; with the layout by table its segments to `TABLE/host=HOST/run=RUN`; or each run to `HOST-RUN.pftrace`, whatever `tables` are. Tables without a row get no file. Rows go
/// through without being held in memory. All files exist in the end, or none: they are written beside `dir`, readable by
/// their owner only. Returns the paths of the files.
///
/// # Errors
/// When a recording cannot be read, or `dir` holds something or cannot be written.
pub fn export(
    runs: &[RunDir],
    tables: &[Table],
    how: ExportAs,
    dir: &Path,
) -> Result<Vec<PathBuf>, AnalysisError> {
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
    let names = match table_file(how.format) {
        _ if how.layout == ExportLayout::Table => by_table::copy(runs, tables, unfinished.path(), dir)?,
        Some(file) => write_tables(runs, tables, &file, how.for_spreadsheet, unfinished.path(), dir)?,
        None => write_traces(runs, unfinished.path())?,
    };
    if !names.is_empty() {
        // rename(2) replaces an empty directory.
        fs::rename(unfinished.path(), dir).map_err(|error| cannot(error.to_string()))?;
        // The temporary name no longer exists.
        let _ = unfinished.keep();
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Writes the trace of each run to `unfinished`, and returns the names of the files.
fn write_traces(runs: &[RunDir], unfinished: &Path) -> Result<Vec<String>, AnalysisError> {
    let mut names: Vec<String> = Vec::new();
    for run in runs {
        let manifest = run.manifest()?;
        let stem = format!("{}-{}", file_name_part(&manifest.host), file_name_part(&manifest.run));
        // Of recordings that were copied, two may have one host and one run.
        let also = |number: usize| match number {
            1 => format!("{stem}.{}", perfetto::ENDING),
            number => format!("{stem}-{number}.{}", perfetto::ENDING),
        };
        let Some(name) = (1..).map(also).find(|name| !names.contains(name)) else { continue };
        perfetto::write(run, &unfinished.join(&name))?;
        names.push(name);
    }
    Ok(names)
}

/// A text of a manifest as a part of a file's name.
fn file_name_part(text: &str) -> String {
    let keep = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => character,
        _ => '_',
    };
    text.chars().take(64).map(keep).collect()
}

/// How the rows of a table become a file.
struct TableFile {
    ending: &'static str,
    kind: FileWriteFormat,
}

/// The file that a format makes of a table; `None` for one that has whole runs instead.
fn table_file(format: ExportFormat) -> Option<TableFile> {
    match format {
        ExportFormat::Csv => {
            Some(TableFile { ending: "csv", kind: FileWriteFormat::Csv(CsvWriterOptions::default()) })
        }
        ExportFormat::Parquet => {
            Some(TableFile { ending: "parquet", kind: FileWriteFormat::Parquet(Arc::default()) })
        }
        ExportFormat::Json => {
            Some(TableFile { ending: "jsonl", kind: FileWriteFormat::NDJson(NDJsonWriterOptions::default()) })
        }
        ExportFormat::Perfetto => None,
    }
}

/// Writes a file for each table to `unfinished`, and returns their names; errors name them in `dir`.
fn write_tables(
    runs: &[RunDir],
    tables: &[Table],
    file: &TableFile,
    for_spreadsheet: bool,
    unfinished: &Path,
    dir: &Path,
) -> Result<Vec<String>, AnalysisError> {
    let mut written = Vec::new();
    for table in tables {
        let Some(mut frame) = of_all(runs, *table)? else { continue };
        if for_spreadsheet {
            frame = frame.with_columns(text_columns(*table).map(as_text).collect::<Vec<_>>());
        }
        let name = format!("{table}.{}", file.ending);
        let path = dir.join(&name);
        let cannot = |error: PolarsError| AnalysisError::Write {
            path: path.clone(),
            message: first_line(&error.to_string()).to_owned(),
        };
        let target = SinkTarget::Path(PlRefPath::try_from_path(&unfinished.join(&name)).map_err(cannot)?);
        let sink = frame
            .sink(SinkDestination::File { target }, file.kind.clone(), UnifiedSinkArgs::default())
            .map_err(cannot)?;
        collect(sink).map_err(cannot)?;
        written.push(name);
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

/// Names of the columns of text of an export.
fn text_columns(table: Table) -> impl Iterator<Item = &'static str> {
    let own = table.columns().iter().filter(|column| column.kind == ColumnKind::Text);
    ["host", "run_id"].into_iter().chain(own.map(|column| column.name))
}

/// The column with a `'` before each text that begins as a formula does.
fn as_text(name: &'static str) -> Expr {
    let all = |column: Column| Ok(column.str()?.apply_values(quoted).into_column());
    col(name).map(all, |_, field| Ok(field.clone()))
}

/// Spreadsheets take text for a formula that begins with one of these; they skip a tab or carriage return before it
/// (OWASP, "CSV Injection").
fn quoted(text: &str) -> Cow<'_, str> {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => Cow::Owned(format!("'{text}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_as_a_formula_is_quoted() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(quoted(text), format!("'{text}"));
        }
        for text in ["", "vm-1", "a=b", "'=1", " =1"] {
            assert_eq!(quoted(text), text);
        }
    }
}
