//! The command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::run::RunDir;
use crate::{AnalysisError, summary, validate};

/// Questions to recordings of huddle.
///
/// RUN is the directory of a run (`huddle run --record DIR`), or a tree of host=NAME/run=ID directories.
#[derive(Debug, Parser)]
#[command(name = "huddle-analysis", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What a run recorded: VMs, what they share, where they were placed, what was lost.
    Summary {
        #[command(flatten)]
        runs: Runs,
        /// How many pairs to show, those that share most first.
        #[arg(long, default_value_t = 10, value_name = "N")]
        top: usize,
    },
    /// Whether a recording is whole, and what of it can be used; exit code 1 when something is wrong.
    Validate {
        #[command(flatten)]
        runs: Runs,
    },
}

#[derive(Debug, Args)]
struct Runs {
    /// Recordings: directories of runs, or trees of them.
    #[arg(required = true, value_name = "RUN")]
    paths: Vec<PathBuf>,
    /// For people or for programs: json is one object on stdout.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// One object for all runs.
#[derive(Serialize)]
struct Document<T> {
    schema: &'static str,
    runs: Vec<T>,
}

impl Cli {
    /// Does what the command line says and writes the answer to `out`.
    ///
    /// # Errors
    /// When the question cannot be answered, or `out` cannot be written.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Summary { runs, top } => {
                let found = runs.find()?;
                let summaries: Result<Vec<_>, _> =
                    found.iter().map(|run| summary::RunSummary::of(run, top)).collect();
                match runs.format {
                    Format::Json => json(out, "huddle/recording-summary/1", summaries?)?,
                    Format::Table => {
                        for (number, summary) in summaries?.iter().enumerate() {
                            if number > 0 {
                                writeln!(out)?;
                            }
                            write!(out, "{summary}")?;
                        }
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Validate { runs } => {
                let reports: Vec<_> = runs.find()?.iter().map(validate::Report::of).collect();
                let is_whole = reports.iter().all(validate::Report::is_whole);
                match runs.format {
                    Format::Json => json(out, "huddle/validation/1", reports)?,
                    Format::Table => reports.iter().try_for_each(|report| write!(out, "{report}"))?,
                }
                Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

impl Runs {
    fn find(&self) -> Result<Vec<RunDir>, AnalysisError> {
        let found: Result<Vec<Vec<RunDir>>, _> = self.paths.iter().map(|path| RunDir::find(path)).collect();
        found.map(|runs| runs.into_iter().flatten().collect())
    }
}

fn json<T: Serialize>(out: &mut impl Write, schema: &'static str, runs: Vec<T>) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &Document { schema, runs })?;
    writeln!(out)?;
    Ok(())
}

/// Whether writing failed because the reader went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let direct = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        direct.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}
