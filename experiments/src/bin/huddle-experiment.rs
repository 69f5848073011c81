//! Runs an experiment: `cargo xtask experiment NAME` builds it and calls it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use huddle_experiments::course::{RunError, Step};
use huddle_experiments::design::Arm;
use huddle_experiments::environment::{CpuTicks, Environment, disturbances};
use huddle_experiments::guest::kvm;
use huddle_experiments::guest::qemu::Accelerator;
use huddle_experiments::guest::start::Starter;
use huddle_experiments::guest::xen::{DomainType, Maker, guard};
use huddle_experiments::host::{CollectorHost, Host, HostFailure, XenHost};
use huddle_experiments::interrupt::Interrupt;
use huddle_experiments::microbench::run;
use huddle_experiments::scan::ScanSummary;
use huddle_experiments::spec::{Config, GuestKind, Preset, SpecError};
use huddle_experiments::summary::Summary;
use huddle_experiments::web::command::{WebArgs, web};
use huddle_experiments::{clock, images, report};
use huddle_host::HostRoot;
use huddle_model::cpuset::CpuSet;
use huddle_observe::perf::EventSet;
use indicatif::{ProgressBar, ProgressStyle};

/// Exit code where the host cannot do it.
const CANNOT: u8 = 3;

/// Experiments that show on this host whether the method pays.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the host cannot do it (with the reason).
#[derive(Parser)]
#[command(version = env!("HUDDLE_VERSION"))]
struct Args {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// The paper's Figure 4 and Tables 1 to 3: VMs on data A and B, not merged, placed as recommended, the
    /// opposite way, by the kernel and by lot, in alternation. Needs root and KSM, or a Xen that shares memory;
    /// takes a few minutes
    Microbench(Microbench),
    /// The paper's Table 4 and Figure 5: Apaches with PHP, as processes or in VMs, that hold data A or B, and
    /// how long their users wait in each placement. Needs root, KSM and Apache or QEMU; takes a few minutes
    Web(WebArgs),
    /// Destroys the domains that a runner on Xen names on standard input, once that has ended
    #[command(hide = true)]
    GuardDomains,
}

#[derive(clap::Args)]
struct Microbench {
    /// A specification that comes with the program
    #[arg(long, value_enum, default_value_t = Preset::Quick, conflicts_with = "spec")]
    preset: Preset,
    /// A specification of your own, in TOML; the presets are in experiments/presets
    #[arg(long)]
    spec: Option<PathBuf>,
    /// What stands for the VMs; domains of Xen are made in its dom0
    #[arg(long, value_enum)]
    guest: Option<GuestKind>,
    /// How domains are virtualised, with --guest xen; what is merged are those of type pvh
    #[arg(long, value_enum)]
    domain_type: Option<DomainType>,
    /// CPUs of a last-level cache, as `xl info -n` numbers them, with --guest xen; repeatable [default: one
    /// cache a socket]
    #[arg(long, value_name = "CPUS")]
    last_level_cache: Vec<CpuSet>,
    /// Merge nothing: a placebo, in which what placements differ by is not sharing
    #[arg(long)]
    no_merge: bool,
    /// Only the recommended arm against itself: the interval of the ratio should contain 1
    #[arg(long)]
    only_control: bool,
    /// Seconds each arm is measured in each block
    #[arg(long, value_parser = seconds)]
    seconds_per_arm: Option<f64>,
    /// Seconds the VMs run in a new placement before they are measured
    #[arg(long, value_parser = seconds)]
    settle_seconds: Option<f64>,
    /// KiB of each data set; several, with commas, are measured one after the other [default: a part of
    /// the cache: three quarters, with stand-ins five eighths, with VMs that are translated (TCG) a quarter]
    #[arg(long, value_delimiter = ',')]
    data_kib: Vec<u64>,
    /// KiB of memory of each stand-in that no other holds
    #[arg(long)]
    private_kib: Option<u64>,
    /// Blocks; every block measures every arm once
    #[arg(long)]
    repetitions: Option<usize>,
    /// Cache level of the domains [default: the highest that parts the CPUs]
    #[arg(long)]
    cache_level: Option<u8>,
    /// Seed of data and order of arms
    #[arg(long)]
    seed: Option<u64>,
    /// Reads of a VM between two rests
    #[arg(long)]
    burst_reads: Option<u64>,
    /// Seconds a VM may take to answer before it is taken for hung [default: 15, QEMU's 30]
    #[arg(long, value_parser = seconds)]
    answer_seconds: Option<f64>,
    /// The event that stands for a role (cycles, instructions, llc_references, llc_misses) instead of
    /// what suits the processor, as in `llc_misses=r412e`; repeatable
    #[arg(long = "event", value_name = "ROLE=EVENT")]
    events: Vec<String>,
    /// Only print the flavours of VMs it would start, one a line as `flavour NAME`, and start nothing
    #[arg(long)]
    list_flavours: bool,
    /// Most seconds KSM may take to merge
    #[arg(long, value_parser = seconds)]
    merge_seconds: Option<f64>,
    /// Where kernels and initramfs of VMs are [default: target/guests]
    #[arg(long)]
    images: Option<PathBuf>,
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
    // What cannot be said by the error that ends it, as that a domain could not be destroyed.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let result =
        Interrupt::on_signals().context("cannot take signals").and_then(|interrupt| match &args.experiment {
            Experiment::Microbench(args) => microbench(args, &interrupt),
            Experiment::Web(args) => web(args, &interrupt),
            Experiment::GuardDomains => guard_domains(),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("huddle-experiment: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The guard of a runner's domains.
fn guard_domains() -> anyhow::Result<()> {
    let domains = guard::XenDomains::open(&HostRoot::real())?;
    guard::run(std::io::stdin().lock(), &domains, guard::PATIENCE)
        .map_err(|left| anyhow::anyhow!("{}; destroy it with `xl destroy`", left.join("; ")))
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
        None if error.is::<SpecError>() => return 2,
        _ => error.downcast_ref::<HostFailure>(),
    };
    if matches!(host, Some(HostFailure::Cannot(_))) { CANNOT } else { 1 }
}

fn config(args: &Microbench) -> Result<Config, SpecError> {
    let mut config = match &args.spec {
        Some(path) => Config::read(path)?,
        None => Config::preset(args.preset)?,
    };
    let set = |to: &mut f64, from: Option<f64>| *to = from.unwrap_or(*to);
    set(&mut config.seconds_per_arm, args.seconds_per_arm);
    set(&mut config.settle_seconds, args.settle_seconds);
    set(&mut config.merge_seconds, args.merge_seconds);
    config.answer_seconds = args.answer_seconds.or(config.answer_seconds);
    if !args.events.is_empty() {
        config.events.clone_from(&args.events);
    }
    config.guest = args.guest.unwrap_or(config.guest);
    config.domain_type = args.domain_type.unwrap_or(config.domain_type);
    config.merge &= !args.no_merge;
    config.private_kib = args.private_kib.unwrap_or(config.private_kib);
    config.repetitions = args.repetitions.unwrap_or(config.repetitions);
    config.cache_level = args.cache_level.or(config.cache_level);
    config.seed = args.seed.unwrap_or(config.seed);
    config.burst_reads = args.burst_reads.or(config.burst_reads);
    if !args.data_kib.is_empty() {
        config.data_kib.clone_from(&args.data_kib);
    }
    if args.only_control {
        config.arms = vec![Arm::Recommended, Arm::Control];
    }
    config.check()?;
    Ok(config)
}

fn microbench(args: &Microbench, interrupt: &Interrupt) -> anyhow::Result<()> {
    let config = config(args)?;
    if args.list_flavours {
        let mut out = std::io::stdout().lock();
        return Ok(config.flavours_needed().iter().try_for_each(|name| writeln!(out, "flavour {name}"))?);
    }
    let directory = args.out.clone().unwrap_or_else(|| {
        Path::new("runs").join(format!("microbench-{}", clock::utc_for_file_names(SystemTime::now())))
    });
    if config.data_kib.len() < 2 {
        let summary = one_size(args, &config, &directory, interrupt)?;
        let file = write(&directory, &summary)?;
        print(args.format, &report::text(&summary), &summary, &file)?;
        return any_valid(&summary);
    }
    scan(args, &config, &directory, interrupt)
}

/// One size after the other. What was measured before one fails, or before the scan is interrupted, is
/// kept and shown.
fn scan(args: &Microbench, config: &Config, directory: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut done: Vec<(String, Summary)> = Vec::new();
    let mut outcome = Ok(());
    for (number, kib) in config.data_kib.iter().enumerate() {
        say(&format!("{kib} KiB, size {} of {}", number + 1, config.data_kib.len()));
        let one = Config { data_kib: vec![*kib], ..config.clone() };
        let name = format!("data-{kib}-kib");
        let measured = one_size(args, &one, &directory.join(&name), interrupt).and_then(|summary| {
            write(&directory.join(&name), &summary)?;
            Ok(summary)
        });
        match measured {
            Ok(summary) => {
                if matches!(args.format, Format::Table) {
                    write!(std::io::stdout().lock(), "{}", report::text(&summary))?;
                }
                done.push((name, summary));
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if let Some(scan) = ScanSummary::of(&done) {
        let file = write(directory, &scan)?;
        print(args.format, &scan.text(), &scan, &file)?;
    }
    outcome?;
    done.iter().try_for_each(|(_, summary)| any_valid(summary))
}

/// A run without one valid block has no result.
fn any_valid(summary: &Summary) -> anyhow::Result<()> {
    anyhow::ensure!(
        !summary.spec.is_timed() || summary.blocks.iter().any(|block| block.invalid.is_none()),
        "no block is valid, so there is no result; the first: {}",
        summary.invalid_blocks.first().map_or("none was measured", String::as_str)
    );
    Ok(())
}

fn one_size(
    args: &Microbench,
    config: &Config,
    directory: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<Summary> {
    let root = HostRoot::real();
    let started = SystemTime::now();
    let begun = Instant::now();
    let environment = Environment::read(&root);
    let mut host = host(args, config, &root)?;
    let starter = starter(args, config, directory, &root)?;
    let config = &config.clone().suited_to(starter.accelerator());

    let bar = ProgressBar::new(0);
    // Without a template that can be read there is only a plainer bar.
    if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    let mut progress = |step: Step<'_>| {
        let left = step.left.map_or_else(String::new, |left| format!(" ({} s left)", left.as_secs()));
        if bar.is_hidden() {
            say(&format!("[{:>5.1} s] {}{left}", begun.elapsed().as_secs_f64(), step.text));
            return;
        }
        bar.set_length(step.of as u64);
        bar.set_position(step.done as u64);
        bar.set_message(format!("{}{left}", step.text));
    };
    let mut start = |config: &Config| starter.start(config, interrupt);
    let ticks = CpuTicks::read(&root);
    let outcome = run(config, &mut *host, &mut start, interrupt, &mut progress);
    bar.finish_and_clear();
    let outcome = outcome?;
    let stolen = CpuTicks::read(&root).zip(ticks).and_then(|(late, early)| late.stolen_since(&early));
    drop(host);

    let mut disturbances = disturbances(&environment, &outcome.blocks, stolen);
    disturbances.extend(outcome.event_notes.iter().cloned());
    Ok(Summary::of_microbench(
        config,
        outcome,
        environment,
        disturbances,
        starter.accelerator().map(|accelerator| accelerator.name().to_owned()),
        clock::utc(started),
        begun.elapsed().as_secs_f64(),
    ))
}

/// What is counted on each vCPU.
fn events(root: &HostRoot, config: &Config) -> Result<EventSet, SpecError> {
    // A processor nobody knows gets the kernel's generic events.
    let mut events = EventSet::for_host(root).unwrap_or_else(|_| EventSet::of(None));
    config.event_choices()?.into_iter().for_each(|choice| events.choose(choice));
    Ok(events)
}

fn print(format: Format, text: &str, result: &impl serde::Serialize, file: &Path) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table => {
            write!(out, "{text}")?;
            writeln!(out, "Written: {}", file.display())?;
        }
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string(result)?)?;
            say(&format!("written: {}", file.display()));
        }
    }
    Ok(())
}

/// What guests are started with on this host.
fn starter(args: &Microbench, config: &Config, directory: &Path, root: &HostRoot) -> anyhow::Result<Starter> {
    if config.guest == GuestKind::Process {
        return Ok(Starter::Processes { program: standin_program()? });
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = own.ancestors().nth(2).map(|target| target.join("guests"));
    let beneath = args.images.clone().or(beside).unwrap_or_default();
    let images = config.flavours.iter().map(|flavour| images::find(&beneath, flavour));
    let images = images.collect::<Result<_, _>>().map_err(HostFailure::Cannot)?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}; name another place with --out", directory.display()))?;
    let directory = directory.to_owned();
    if config.guest == GuestKind::Xen {
        let mut guards = Command::new(own);
        guards.arg("guard-domains");
        let maker = Rc::new(Maker::new(root, guards).map_err(HostFailure::Cannot)?);
        return Ok(Starter::Domains { images, maker, directory });
    }
    let accelerator = match kvm::runs_natively() {
        Ok(_) => Accelerator::Kvm,
        Err(why) => {
            say(&format!("{why}; the VMs are translated (TCG)"));
            Accelerator::Tcg
        }
    };
    Ok(Starter::Vms { images, accelerator, directory })
}

/// The host that runs the guests.
fn host(args: &Microbench, config: &Config, root: &HostRoot) -> anyhow::Result<Box<dyn Host>> {
    let (state_dir, vcpus) = (args.state_dir.as_deref(), config.vcpus);
    Ok(match config.guest {
        GuestKind::Xen => {
            let caches = args.last_level_cache.clone();
            let vms: Vec<String> = (0..config.guests()).map(|guest| config.guest_name(guest)).collect();
            Box::new(XenHost::open(root, state_dir, vcpus, caches, config.merge.then_some(&vms))?)
        }
        GuestKind::Process | GuestKind::Qemu => {
            let events = events(root, config)?;
            Box::new(CollectorHost::open(root.clone(), state_dir, vcpus, events, config.merge)?)
        }
    })
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

fn write(directory: &Path, summary: &impl serde::Serialize) -> anyhow::Result<PathBuf> {
    let file = directory.join("summary.json");
    let text = serde_json::to_string_pretty(summary)?;
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, text + "\n"))
        .with_context(|| format!("cannot write {}; name another place with --out", file.display()))?;
    Ok(file)
}
