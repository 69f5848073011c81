//! Results of experiments: the directory that `cargo xtask experiment NAME --out DIR` writes.
//!
//! Its `summary.json` ([`huddle_model::summary`]) has the sharing matrices, the measurements of every guest
//! in every block, and the machine. Experiments differ in their further measurements: figures by arm are
//! looked up in the rest of it. Raw response times, if an experiment measures them, are the table `responses`
//! of the directory itself or of recordings below it; its columns `arm`, `block`, `latency_us` and `failure`
//! are used.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use huddle_model::schema::Table;
use huddle_model::summary::{ArmFigure, SUMMARY_FILE, Size, Summary};
use huddle_recording::regular::{RegularError, read_text};
use huddle_recording::{MAX_SUMMARY_BYTES, SummaryFault};
use serde::Deserialize;
use serde_json::Value;

use crate::AnalysisError;
use crate::run::RunDir;

/// The most sizes of a scan: a scan takes minutes for each.
const MAX_SIZES: usize = 1000;

/// The field that the result of a scan has and no other.
const SIZES: &str = "sizes";

/// The directory of an experiment's result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExperimentDir {
    path: PathBuf,
    /// Itself, if it has a table of responses.
    own: Option<RunDir>,
    /// Recordings below it.
    runs: Vec<RunDir>,
}

impl ExperimentDir {
    pub(crate) fn new(path: PathBuf, runs: Vec<RunDir>) -> Self {
        let own = RunDir::new(path.clone());
        let has_own = own.files(Table::Responses).is_ok_and(|files| !files.segments.is_empty());
        Self { path, own: has_own.then_some(own), runs }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The recordings of the experiment, ascending.
    pub fn runs(&self) -> &[RunDir] {
        &self.runs
    }

    /// The directories with its single responses: itself, and its recordings.
    pub(crate) fn timed(&self) -> Vec<RunDir> {
        self.all_runs().cloned().collect()
    }

    /// Itself where it has a table of its own, and its recordings.
    pub(crate) fn all_runs(&self) -> impl Iterator<Item = &RunDir> {
        self.own.iter().chain(&self.runs)
    }

    /// Like [`RunDir::check_all_rows`], for all of them.
    pub(crate) fn check_all_rows(&mut self) -> usize {
        self.own.iter_mut().chain(&mut self.runs).map(RunDir::check_all_rows).sum()
    }

    /// Its result.
    ///
    /// # Errors
    /// When it cannot be read, or has an unknown schema.
    pub(crate) fn summary(&self) -> Result<Summary, AnalysisError> {
        read_summary(&self.path)
    }

    /// Whether its result is that of a scan over data sizes; one that cannot be read is not.
    pub(crate) fn is_scan(&self) -> bool {
        self.summary().is_ok_and(|summary| summary.own.contains_key(SIZES))
    }

    /// The sizes of a result that was read, if it is that of a scan over data sizes; `None` if it is none.
    ///
    /// # Errors
    /// When its sizes cannot be used.
    pub(crate) fn sizes(&self, summary: &Summary) -> Result<Option<Vec<Size>>, AnalysisError> {
        let Some(sizes) = summary.own.get(SIZES) else { return Ok(None) };
        let unusable =
            |message: String| AnalysisError::Experiment { path: self.path.join(SUMMARY_FILE), message };
        let count = sizes.as_array().map_or(0, Vec::len);
        if count > MAX_SIZES {
            return Err(unusable(format!("a scan of {count} sizes, expected {MAX_SIZES} at most")));
        }
        let sizes = Vec::<Size>::deserialize(sizes)
            .map_err(|error| unusable(format!("not the result of a scan over data sizes: {error}")))?;
        Ok(Some(sizes))
    }

    /// The result of one size of a scan, whose directory is `name` below this one.
    ///
    /// # Errors
    /// When the name is that of no directory below, or the result cannot be read.
    pub(crate) fn summary_below(&self, name: &str) -> Result<Summary, AnalysisError> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(part)), None) => read_summary(&self.path.join(part)),
            _ => Err(AnalysisError::Experiment {
                path: self.path.join(SUMMARY_FILE),
                message: format!("{name:?} is not the name of a directory below that of the scan"),
            }),
        }
    }
}

fn read_summary(dir: &Path) -> Result<Summary, AnalysisError> {
    huddle_recording::read_summary(dir).map_err(|fault| match fault {
        SummaryFault::File { path, source } => AnalysisError::read(&path)(source),
        SummaryFault::Content { path, source } => {
            AnalysisError::Experiment { path, message: source.to_string() }
        }
    })
}

/// Further figures by arm (such as `arms_time`), by the name of their field.
pub(crate) fn other_figures(summary: &Summary) -> BTreeMap<&str, BTreeMap<String, ArmFigure>> {
    let figures = |value: &Value| serde_json::from_value(value.clone()).ok();
    let of_arms = summary.own.iter().filter(|(name, _)| name.starts_with("arms_"));
    of_arms.filter_map(|(name, value)| Some((name.as_str(), figures(value)?))).collect()
}

/// Whether the directory has a file that may be an experiment's result: one with the schema, or one that
/// cannot be read as JSON and has to be reported. Other programs also write files with that name.
pub(crate) fn is_experiment(dir: &Path) -> bool {
    let text = match read_text(&dir.join(SUMMARY_FILE), MAX_SUMMARY_BYTES) {
        Ok(text) => text,
        Err(RegularError::Io(_)) => return false,
        // It is refused by name when it is asked for.
        Err(_) => return true,
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(value) => value
            .get("schema")
            .and_then(Value::as_str)
            .is_some_and(|schema| schema.starts_with("huddle/summary/")),
        Err(_) => true,
    }
}
