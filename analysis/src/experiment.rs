//! Results of experiments: the directory that `cargo xtask experiment NAME --out DIR` writes.
//!
//! Its `summary.json` ([`huddle_model::summary`]) has the sharing matrices, the measurements of every guest
//! in every block, and the machine. Experiments differ in their further measurements: figures by arm are
//! looked up in the rest of it. Raw response times, if an experiment measures them, are the table `responses`
//! of the directory itself or of recordings below it; its columns `arm`, `block`, `latency_us` and `failure`
//! are used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use huddle_model::schema::Table;
use huddle_model::summary::{ArmFigure, SUMMARY_FILE, Summary};
use huddle_recording::regular::{RegularError, read_text};
use serde_json::Value;

use crate::AnalysisError;
use crate::run::RunDir;

/// A result is some 100 KiB; what is far larger is none.
const MAX_SUMMARY_BYTES: u64 = 256 << 20;

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
        let path = self.path.join(SUMMARY_FILE);
        let text = read_text(&path, MAX_SUMMARY_BYTES).map_err(AnalysisError::read(&path))?;
        Summary::from_json(&text)
            .map_err(|error| AnalysisError::Experiment { path, message: error.to_string() })
    }
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
