//! Errors of queries.

use std::path::{Path, PathBuf};

use huddle_model::fleet::InvalidFleet;
use huddle_model::schema::{ManifestError, Table};
use huddle_model::text::first_line;
use huddle_recording::regular::RegularError;
use huddle_recording::{ManifestFault, SegmentFault, TableFault};
use polars::error::PolarsError;

/// A query that failed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RegularError,
    },
    /// The segments of a table cannot be listed.
    #[error(transparent)]
    Files(#[from] TableFault),
    /// There is no recording at this path.
    #[error(
        "{} has no recording and no result of an experiment: neither a manifest.json nor host=NAME/run=ID directories that have one, nor a summary.json",
        .0.display()
    )]
    NoRun(PathBuf),
    /// There are only results of experiments, which this query does not support.
    #[error(
        "{} holds the result of an experiment and no recording; `compare` (by arm) and `report` read it",
        .0.display()
    )]
    OnlyExperiment(PathBuf),
    /// There are only recordings, which this query does not support.
    #[error(
        "{} holds a recording and no result of an experiment; name the directory that `huddle-experiment --out` wrote",
        .0.display()
    )]
    OnlyRecording(PathBuf),
    /// The result of an experiment cannot be used.
    #[error("cannot use {}: {message}", path.display())]
    Experiment {
        /// Its summary.json.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// None of the recordings has sketches.
    #[error(
        "none of these recordings has sketches; record some on each host with `huddle sketch --seed FILE --fleet DIR`"
    )]
    NoSketches,
    /// Sketches that cannot be compared.
    #[error(
        "the sketches of {} were made in another way than those of {}: by another seed, scale or hash, or of pages of \
         another size (`sketches` in their manifests); make them alike on all hosts, or name those that are",
        run.display(),
        of.display()
    )]
    OtherSketches {
        /// A run.
        run: PathBuf,
        /// A run that was read before it.
        of: PathBuf,
    },
    /// A view of a fleet cannot be made.
    #[error(
        "cannot make the view {view} of the fleet: {message}; `huddle-analysis validate` says which recordings can still \
         be used"
    )]
    View {
        /// Its name, as in `analysis/fleet/sql`.
        view: String,
        /// The error of Polars.
        message: String,
    },
    /// Facts of the fleet that contradict each other.
    #[error(transparent)]
    Fleet(InvalidFleet),
    /// The path is a file.
    #[error("{} is a file; name the directory of a run, or a tree of host=NAME/run=ID directories", .0.display())]
    NotADirectory(PathBuf),
    /// The manifest cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A pattern is invalid, or matches nothing.
    #[error("{0}")]
    Pattern(String),
    /// The arm to compare with is not there.
    #[error("there is no arm {name:?} to compare with; there is {}", list(known))]
    NoBaseline {
        /// The requested arm.
        name: String,
        /// The existing arms.
        known: Vec<String>,
    },
    /// There is no such round.
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
        /// Where to.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A table cannot be queried.
    #[error(
        "cannot read the table {table} of {}: {message}; `huddle-analysis validate` says what can still be used",
        run.display()
    )]
    Table {
        /// The run.
        run: PathBuf,
        /// Which table.
        table: Table,
        /// The error of Polars.
        message: String,
    },
}

impl AnalysisError {
    pub(crate) fn view(view: &str) -> impl Fn(PolarsError) -> Self {
        move |error| Self::View { view: view.to_owned(), message: first_line(&error.to_string()).to_owned() }
    }

    pub(crate) fn read<E: Into<RegularError>>(path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Read { path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn table(run: &Path, table: Table) -> impl Fn(PolarsError) -> Self {
        move |error| Self::Table {
            run: run.to_owned(),
            table,
            message: first_line(&error.to_string()).to_owned(),
        }
    }
}

impl AnalysisError {
    /// A segment of a table that cannot be brought into a form that Polars reads.
    pub(crate) fn unreadable(run: &Path, table: Table, fault: &SegmentFault) -> Self {
        Self::Table { run: run.to_owned(), table, message: fault.to_string() }
    }
}

impl From<ManifestFault> for AnalysisError {
    fn from(fault: ManifestFault) -> Self {
        match fault {
            ManifestFault::File { path, source } => Self::Read { path, source },
            ManifestFault::Content { path, source } => Self::Manifest { path, source },
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
    }
}
