//! The command line.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use huddle_model::schema::Table;
use serde::Serialize;

use crate::compare::{By, Comparison};
use crate::export::{ExportAs, ExportFormat, ExportLayout, export};
use crate::fleet::FleetQuestion;
use crate::misses::{Misses, write_csv};
use crate::report::Report;
use crate::run::RunDir;
use crate::sharing::Sharing;
use crate::sources::Sources;
use crate::text::clean;
use crate::timeline::Timeline;
use crate::{AnalysisError, summary, validate};

/// Analyses recordings of huddle.
///
/// RUN is the directory of a run (`huddle run --record DIR`), a tree of host=NAME/run=ID directories, or a
/// pattern of such paths in quotes. `compare`, `misses` and `report` also take the directory of an experiment
/// (`cargo xtask experiment NAME --out DIR`).
#[derive(Debug, Parser)]
#[command(name = "huddle-analysis", version = env!("HUDDLE_VERSION"))]
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
    /// Placements compared: misses, IPC, throughput and latency of each arm, and the change between them.
    /// Recordings are compared together, each experiment by itself.
    Compare {
        #[command(flatten)]
        runs: Runs,
        /// What distinguishes the arms; arms of trials where there are any, else policies, else recordings.
        #[arg(long, value_enum)]
        by: Option<By>,
        /// The arm that the others are compared with; `before`, or an experiment's `opposed`, where there is one.
        #[arg(long, value_name = "ARM")]
        baseline: Option<String>,
    },
    /// Misses of an experiment, predicted, simulated and counted side by side, with the time, for each arm and each size of
    /// data.
    Misses {
        /// Experiments: their directories, trees of them, or patterns. A scan includes its sizes.
        #[arg(required = true, value_name = "RUN")]
        paths: Vec<PathBuf>,
        /// Output format: a readable table, one JSON object on stdout, or comma-separated values with a row for each figure.
        #[arg(long, value_enum, default_value_t = MissesFormat::Table)]
        format: MissesFormat,
    },
    /// Questions to VMs of many hosts, by the sketches of all hosts (`huddle sketch`): what they share, and where they belong.
    Fleet {
        #[command(subcommand)]
        question: FleetQuestion,
    },
    /// The sharing matrix of the last round, and its mean over all rounds.
    Sharing {
        #[command(flatten)]
        runs: Runs,
        /// This round instead of the last one.
        #[arg(long, value_name = "N")]
        round: Option<u64>,
    },
    /// Rates over time, with placement changes and decisions.
    Timeline {
        #[command(flatten)]
        runs: Runs,
        /// About how many points; each sums up as many windows as that needs.
        #[arg(long, default_value_t = 60, value_name = "N")]
        points: usize,
    },
    /// All figures and tables in one HTML file that needs nothing else.
    Report {
        /// Recordings and experiments: their directories, trees of them, or patterns.
        #[arg(required = true, value_name = "RUN")]
        paths: Vec<PathBuf>,
        /// Where to write it.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Also each figure as a file of its own, in this directory.
        #[arg(long, value_name = "DIR")]
        figures: Option<PathBuf>,
    },
    /// The tables as files for other programs, all runs in one file a table; or each run as a trace for Perfetto.
    Export {
        /// Recordings: directories of runs, trees of them, or patterns.
        #[arg(required = true, value_name = "RUN")]
        paths: Vec<PathBuf>,
        /// What to write.
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// With --format parquet: one file a table, or the segments of each table as TABLE/host=HOST/run=RUN.
        #[arg(long, value_enum, default_value_t = ExportLayout::File)]
        layout: ExportLayout,
        /// A new or empty directory to write to.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Only this table (repeatable); not with --format perfetto.
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<Table>,
        /// With --format csv: puts a ' before text that begins with =, +, -, @, a tab or a carriage return, so
        /// that a spreadsheet takes it for text and not for a formula.
        #[arg(long)]
        for_spreadsheet: bool,
    },
    /// Checks recordings: what is missing or damaged, and what can be used; exit code 1 when there is a problem.
    Validate {
        #[command(flatten)]
        runs: Runs,
    },
}

#[derive(Debug, Args)]
struct Runs {
    /// Recordings: directories of runs, trees of them, or patterns.
    #[arg(required = true, value_name = "RUN")]
    paths: Vec<PathBuf>,
    /// Output format: a readable table, or one JSON object on stdout.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MissesFormat {
    Table,
    Json,
    Csv,
}

/// One object for all runs.
#[derive(Serialize)]
struct Document<T> {
    schema: &'static str,
    runs: Vec<T>,
}

impl Cli {
    /// Runs the command and writes its output to `out`.
    ///
    /// # Errors
    /// When the command fails, or `out` cannot be written.
    pub fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Summary { runs, top } => {
                runs.run(out, "huddle/recording-summary/1", |run| summary::RunSummary::of(run, top))
            }
            Command::Compare { runs, by, baseline } => {
                let mut sources = found(&runs.paths)?;
                let comparisons = sources.run(|all| comparisons(all, by, baseline.as_deref()))?;
                if runs.format == Format::Json {
                    print_left_out(&sources);
                }
                match (runs.format, comparisons.as_slice()) {
                    (Format::Json, [one]) => json_line(out, one)?,
                    (Format::Json, all) => json(out, "huddle/comparisons/1", all.to_vec())?,
                    (Format::Table, [one]) => write!(out, "{one}")?,
                    (Format::Table, all) => {
                        for (number, one) in all.iter().enumerate() {
                            let gap = if number > 0 { "\n" } else { "" };
                            let of: Vec<String> =
                                one.of.iter().map(|path| path.display().to_string()).collect();
                            writeln!(out, "{gap}== {}", clean(&of.join(", ")))?;
                            write!(out, "{one}")?;
                        }
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Misses { paths, format } => {
                let sources = found(&paths)?;
                let dirs = sources.experiments_alone()?;
                let all: Vec<Misses> = dirs.into_iter().map(Misses::of).collect::<Result<_, _>>()?;
                match format {
                    MissesFormat::Json => json(out, "huddle/misses/1", all)?,
                    MissesFormat::Csv => write_csv(&all, out)?,
                    MissesFormat::Table => {
                        for (number, one) in all.iter().enumerate() {
                            let gap = if number > 0 { "\n" } else { "" };
                            write!(out, "{gap}{one}")?;
                        }
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Fleet { question } => {
                let mut sources = found(question.paths())?;
                question.answer(&mut sources, out)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Sharing { runs, round } => {
                runs.run(out, "huddle/recording-sharing/1", |run| Sharing::of(run, round))
            }
            Command::Timeline { runs, points } => {
                runs.run(out, "huddle/recording-timeline/1", |run| Timeline::of(run, points))
            }
            Command::Report { paths, output, figures } => {
                let mut sources = found(&paths)?;
                let mut report = Report::of(&sources)?;
                if report.has_unread() && sources.check_all_rows() > 0 {
                    report = Report::of(&sources)?;
                }
                print_left_out(&sources);
                report.write(&output)?;
                if let Some(dir) = figures {
                    report.write_figures(&dir)?;
                }
                writeln!(out, "wrote {}", output.display())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Export { paths, format, layout, output, tables, for_spreadsheet } => {
                if layout == ExportLayout::Table && format != ExportFormat::Parquet {
                    let what =
                        "--layout table is for --format parquet: other formats have one file a table or run";
                    Self::command().error(ErrorKind::ArgumentConflict, what).exit();
                }
                if for_spreadsheet && format != ExportFormat::Csv {
                    let what =
                        "--for-spreadsheet is for --format csv: other formats distinguish text from formulas";
                    Self::command().error(ErrorKind::ArgumentConflict, what).exit();
                }
                if format == ExportFormat::Perfetto && !tables.is_empty() {
                    let what = "--table selects files of tables: a trace is made of all tables together";
                    Self::command().error(ErrorKind::ArgumentConflict, what).exit();
                }
                let how = ExportAs { format, layout, for_spreadsheet };
                let tables = if tables.is_empty() { Table::ALL.to_vec() } else { tables };
                let mut sources = found(&paths)?;
                let written = sources.run(|all| export(&all.recordings()?, &tables, how, &output))?;
                print_left_out(&sources);
                for file in &written {
                    writeln!(out, "wrote {}", file.display())?;
                }
                anyhow::ensure!(
                    !written.is_empty(),
                    "none of these tables has a row, so nothing was written"
                );
                Ok(ExitCode::SUCCESS)
            }
            Command::Validate { runs } => {
                let reports: Vec<_> =
                    Sources::of(&runs.paths)?.recordings()?.iter().map(validate::Report::of).collect();
                let is_intact = reports.iter().all(validate::Report::is_intact);
                match runs.format {
                    Format::Json => json(out, "huddle/validation/1", reports)?,
                    Format::Table => reports.iter().try_for_each(|report| write!(out, "{report}"))?,
                }
                Ok(if is_intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

impl Runs {
    /// Runs a query on each run separately.
    fn run<T: Serialize + Display>(
        &self,
        out: &mut impl Write,
        schema: &'static str,
        query: impl Fn(&RunDir) -> Result<T, AnalysisError>,
    ) -> anyhow::Result<ExitCode> {
        let mut sources = found(&self.paths)?;
        let answers: Vec<T> = sources.run(|all| all.recordings()?.iter().map(&query).collect())?;
        match self.format {
            Format::Json => {
                print_left_out(&sources);
                json(out, schema, answers)?;
            }
            Format::Table => {
                for (number, answer) in answers.iter().enumerate() {
                    if number > 0 {
                        writeln!(out)?;
                    }
                    write!(out, "{answer}")?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Finds everything at `paths`, and says on stderr what other programs wrote of it.
fn found(paths: &[PathBuf]) -> Result<Sources, AnalysisError> {
    let sources = Sources::of(paths)?;
    for note in sources.notes_of_others() {
        eprintln!("huddle-analysis: note: {}", clean(&note));
    }
    Ok(sources)
}

/// Prints on stderr what was left out, for output that does not contain it in readable form.
fn print_left_out(sources: &Sources) {
    for loss in sources.losses() {
        eprintln!("huddle-analysis: left out: {}", clean(loss));
    }
}

/// The recordings compared with each other, then each experiment by itself.
fn comparisons(
    sources: &Sources,
    by: Option<By>,
    baseline: Option<&str>,
) -> Result<Vec<Comparison>, AnalysisError> {
    let runs = (!sources.runs.is_empty()).then(|| Comparison::of(&sources.runs, by, baseline));
    let experiments = sources.experiments.iter().map(|dir| match by {
        None | Some(By::Trial) => Comparison::of_experiment(dir, baseline),
        // The recordings of an experiment can be compared in other ways too; its result cannot.
        Some(_) if dir.runs().is_empty() => Err(AnalysisError::OnlyExperiment(dir.path().to_owned())),
        Some(_) => Comparison::of(dir.runs(), by, baseline),
    });
    runs.into_iter().chain(experiments).collect()
}

fn json<T: Serialize>(out: &mut impl Write, schema: &'static str, runs: Vec<T>) -> anyhow::Result<()> {
    json_line(out, &Document { schema, runs })
}

fn json_line(out: &mut impl Write, document: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)?;
    Ok(())
}

/// Whether writing failed because the reader closed the pipe.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let direct = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        direct.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}
