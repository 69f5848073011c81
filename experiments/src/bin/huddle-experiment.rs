//! Runs an experiment: `cargo xtask experiment NAME` builds it and calls it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use huddle_collector::host::HostRoot;
use huddle_experiments::environment::{CpuTicks, Environment, disturbances};
use huddle_experiments::guest::process::ProcessGuestSpec;
use huddle_experiments::guest::standin::StandinConfig;
use huddle_experiments::guest::{Guest, GuestError, Patience};
use huddle_experiments::host::{CollectorHost, HostFailure};
use huddle_experiments::interrupt::Interrupt;
use huddle_experiments::microbench::{Config, RunError, run};
use huddle_experiments::summary::Summary;
use huddle_experiments::{clock, report};

/// Exit code where the host cannot do it.
const CANNOT: u8 = 3;

/// Experiments that show on this host whether the method pays.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the host cannot do it (with the reason).
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// The paper's Figure 4: four VMs, two on data A and two on data B, placed as recommended and the
    /// opposite way in alternation. Needs root and KSM; takes about a minute
    Microbench(Microbench),
}

#[derive(clap::Args)]
struct Microbench {
    /// Seconds each arm is measured in each block
    #[arg(long, default_value_t = 0.75, value_parser = seconds)]
    seconds_per_arm: f64,
    /// Seconds the VMs run in a new placement before they are measured
    #[arg(long, default_value_t = 0.1, value_parser = seconds)]
    settle_seconds: f64,
    /// KiB of each data set [default: three quarters of the cache]
    #[arg(long)]
    data_kib: Option<usize>,
    /// KiB of memory of each VM that no other holds
    #[arg(long, default_value_t = 256)]
    private_kib: usize,
    /// Blocks; every block measures every arm once
    #[arg(long, default_value_t = 30)]
    repetitions: usize,
    /// Cache level of the domains [default: the highest that parts the CPUs]
    #[arg(long)]
    cache_level: Option<u8>,
    /// Seed of data, order of arms and intervals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Reads of a VM between two yields of its CPU [default: a quarter more than the data has lines]
    #[arg(long)]
    burst_reads: Option<u64>,
    /// Most seconds KSM may take to merge
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    merge_seconds: f64,
    /// Directory for summary.json [default: runs/microbench-TIME, in UTC]
    #[arg(long)]
    out: Option<PathBuf>,
    /// What goes to standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where huddle keeps its lock and its journal
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0 to 86400".into()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = Interrupt::on_signals().context("cannot take signals").and_then(|interrupt| {
        let Experiment::Microbench(args) = &args.experiment;
        microbench(args, &interrupt)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("huddle-experiment: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Writes a line to standard error. That nobody reads it any more must not end a run halfway, as the
/// panic of `eprintln!` would.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let host = match error.downcast_ref::<RunError>() {
        Some(RunError::Host(failure)) => Some(failure),
        Some(RunError::SamePlacement { .. }) => return CANNOT,
        Some(RunError::Settings(_)) => return 2,
        _ => error.downcast_ref::<HostFailure>(),
    };
    if matches!(host, Some(HostFailure::Cannot(_))) { CANNOT } else { 1 }
}

fn microbench(args: &Microbench, interrupt: &Interrupt) -> anyhow::Result<()> {
    let config = Config {
        data_bytes: args.data_kib.map(|kib| kib * 1024),
        private_bytes: args.private_kib * 1024,
        burst_reads: args.burst_reads,
        window: Duration::from_secs_f64(args.seconds_per_arm),
        settle: Duration::from_secs_f64(args.settle_seconds),
        repetitions: args.repetitions,
        cache_level: args.cache_level,
        seed: args.seed,
        merge_limit: Duration::from_secs_f64(args.merge_seconds),
        ..Config::default()
    };
    let root = HostRoot::real();
    let started = SystemTime::now();
    let begun = Instant::now();
    let program = standin_program()?;
    let environment = Environment::read(&root);
    let mut host = CollectorHost::open(root.clone(), args.state_dir.as_deref())?;
    let directory = args.out.clone().unwrap_or_else(|| {
        Path::new("runs").join(format!("microbench-{}", clock::utc_for_file_names(started)))
    });

    let mut start = |configs: &[(String, StandinConfig)]| start_guests(&program, configs);
    let mut progress = |line: &str| say(&format!("[{:>5.1} s] {line}", begun.elapsed().as_secs_f64()));
    let ticks = CpuTicks::read(&root);
    let outcome = run(&config, &mut host, &mut start, interrupt, &mut progress)?;
    let stolen = CpuTicks::read(&root).zip(ticks).and_then(|(late, early)| late.stolen_since(&early));
    drop(host);

    let disturbances = disturbances(&environment, &outcome.blocks, stolen);
    let summary = Summary::of_microbench(
        &config,
        outcome,
        environment,
        disturbances,
        clock::utc(started),
        begun.elapsed().as_secs_f64(),
    );
    let file = write(&directory, &summary)?;
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Table => {
            write!(out, "{}", report::text(&summary))?;
            writeln!(out, "Written: {}", file.display())?;
        }
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string(&summary)?)?;
            say(&format!("written: {}", file.display()));
        }
    }
    Ok(())
}

/// The guest's program, which is built beside this one.
fn standin_program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let program = own.with_file_name("huddle-standin");
    anyhow::ensure!(
        program.exists(),
        "{} is missing; build it with `cargo build -p huddle-experiments`",
        program.display()
    );
    Ok(program)
}

fn start_guests(
    program: &Path,
    configs: &[(String, StandinConfig)],
) -> Result<Vec<Box<dyn Guest>>, GuestError> {
    let mut started = configs
        .iter()
        .map(|(name, config)| {
            let spec = ProcessGuestSpec {
                name: name.clone(),
                program: program.to_owned(),
                config: *config,
                extra_args: Vec::new(),
                patience: Patience::default(),
            };
            spec.start()
        })
        .collect::<Result<Vec<_>, _>>()?;
    started.iter_mut().try_for_each(|guest| guest.wait_ready())?;
    Ok(started.into_iter().map(|guest| Box::new(guest) as Box<dyn Guest>).collect())
}

fn write(directory: &Path, summary: &Summary) -> anyhow::Result<PathBuf> {
    let file = directory.join("summary.json");
    let text = serde_json::to_string_pretty(summary)?;
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, text + "\n"))
        .with_context(|| format!("cannot write {}; name another place with --out", file.display()))?;
    Ok(file)
}
