//! Errors of questions.

use std::path::{Path, PathBuf};

use huddle_model::schema::{ManifestError, Table};
use polars::error::PolarsError;

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// There is no recording at this path.
    #[error(
        "{} has no recording and no result of an experiment: neither a manifest.json nor host=NAME/run=ID directories that have one, nor a summary.json",
        .0.display()
    )]
    NoRun(PathBuf),
    /// There are only results of experiments, which this question does not support.
    #[error(
        "{} has the result of an experiment and no recording; `compare` (by arm) and `report` read it",
        .0.display()
    )]
    OnlyExperiment(PathBuf),
    /// The result of an experiment cannot be used.
    #[error("cannot use {}: {message}", path.display())]
    Experiment {
        /// Its summary.json.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// The path is a file.
    #[error("{} is a file; name the directory of a run, or a tree of host=NAME/run=ID directories", .0.display())]
    NotADirectory(PathBuf),
    /// The manifest cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The reason.
        source: ManifestError,
    },
    /// A pattern matches nothing, or is invalid.
    #[error("{0}")]
    Pattern(String),
    /// The baseline arm does not exist.
    #[error("unknown arm {name:?}; the arms are {}", list(known))]
    NoBaseline {
        /// The requested name.
        name: String,
        /// The existing arms.
        known: Vec<String>,
    },
    /// The round does not exist.
    #[error("{} has no sharing in round {round}", run.display())]
    NoRound {
        /// The run.
        run: PathBuf,
        /// The round.
        round: u64,
    },
    /// Something cannot be written.
    #[error("cannot write {}: {message}", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// A table cannot be queried.
    #[error(
        "cannot read the table {table} of {}: {message}; `huddle-analysis validate` shows which parts are usable",
        run.display()
    )]
    Table {
        /// The run.
        run: PathBuf,
        /// The table.
        table: Table,
        /// The error of Polars.
        message: String,
    },
}

impl AnalysisError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn table(run: &Path, table: Table) -> impl Fn(PolarsError) -> Self {
        move |error| Self::Table { run: run.to_owned(), table, message: first_line(&error.to_string()) }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
    }
}

/// Polars' errors are long, with the query plan; the first line has the cause.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}
