//! The command `huddle-experiment web`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use huddle_host::HostRoot;
use huddle_model::rng::Rng;
use huddle_observe::perf::EventSet;
use indicatif::{ProgressBar, ProgressStyle};

use super::apache::{APACHE, Programs};
use super::load::Rhythm;
use super::server::Server;
use super::site::{PLACE, Site};
use super::spec::{Page, Preset, ServerKind, WebConfig};
use super::summary::{About, WebSummary};
use super::tenant::{Tenant, TenantSpec, WebTenant};
use super::vm::WebVms;
use super::{report, responses, run};
use crate::clock;
use crate::course::Step;
use crate::design::Arm;
use crate::environment::{CpuTicks, Environment, disturbances};
use crate::guest::qemu::Accelerator;
use crate::guest::{GuestError, Patience, kvm};
use crate::host::CollectorHost;
use crate::interrupt::Interrupt;
use crate::spec::SpecError;

/// The stream of chance that draws where requests begin (see [`Rng::of_part`]).
const REQUESTS: u64 = 4000;

/// Options of the web experiment.
#[derive(Debug, clap::Args)]
pub struct WebArgs {
    /// A specification that comes with the program [default: quick; with --guest qemu, paper]
    #[arg(long, value_enum, conflicts_with = "spec")]
    preset: Option<Preset>,
    /// A specification of your own, in TOML; the presets are experiments/presets/web-*.toml
    #[arg(long)]
    spec: Option<PathBuf>,
    /// What stands for the VMs: Apaches of this host, or VMs with a Debian and an Apache each
    #[arg(long, value_enum)]
    guest: Option<ServerKind>,
    /// What requests ask for: data that stays in the server's memory, or a file read on each request
    #[arg(long, value_enum)]
    page: Option<Page>,
    /// Requests to each server that are measured in each arm of each block
    #[arg(long)]
    requests: Option<usize>,
    /// Requests before them in each new placement
    #[arg(long)]
    warm_up_requests: Option<usize>,
    /// Open loop: requests per second to each server [default: closed loop]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Visits of a request to its data, with a short wait between them
    #[arg(long)]
    visits: Option<u64>,
    /// Dependent reads of a visit [default: a quarter more than the data has lines]
    #[arg(long)]
    reads_per_visit: Option<u64>,
    /// KiB of each data set [default: seven sixteenths of the cache]
    #[arg(long)]
    data_kib: Option<u64>,
    /// Blocks; every block measures every arm once
    #[arg(long)]
    repetitions: Option<usize>,
    /// Only the recommended arm against itself: the interval of the ratio should contain 1
    #[arg(long)]
    only_control: bool,
    /// Cache level of the domains [default: the highest that parts the CPUs]
    #[arg(long)]
    cache_level: Option<u8>,
    /// Seed of data, order of arms and intervals
    #[arg(long)]
    seed: Option<u64>,
    /// Most seconds KSM may take to merge
    #[arg(long)]
    merge_seconds: Option<f64>,
    /// Seconds after which a request has timed out
    #[arg(long)]
    timeout_seconds: Option<f64>,
    /// Apache's program, for servers that are processes
    #[arg(long, default_value = APACHE)]
    apache: PathBuf,
    /// Where the kernel and the initramfs of VMs are [default: target/guests]
    #[arg(long)]
    images: Option<PathBuf>,
    /// Directory for summary.json and the table of responses [default: runs/web-TIME, in UTC]
    #[arg(long)]
    out: Option<PathBuf>,
    /// What goes to standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Where huddle keeps its lock and its journal
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

fn config(args: &WebArgs) -> Result<WebConfig, SpecError> {
    let mut config = match &args.spec {
        Some(path) => WebConfig::read(path)?,
        None => WebConfig::preset(args.preset.unwrap_or(match args.guest {
            Some(ServerKind::Qemu) => Preset::Paper,
            _ => Preset::Quick,
        }))?,
    };
    config.guest = args.guest.unwrap_or(config.guest);
    config.page = args.page.unwrap_or(config.page);
    config.requests = args.requests.unwrap_or(config.requests);
    config.warm_up_requests = args.warm_up_requests.unwrap_or(config.warm_up_requests);
    config.rate_per_s = args.rate.or(config.rate_per_s);
    config.visits = args.visits.unwrap_or(config.visits);
    config.reads_per_visit = args.reads_per_visit.or(config.reads_per_visit);
    config.data_kib = args.data_kib.or(config.data_kib);
    config.repetitions = args.repetitions.unwrap_or(config.repetitions);
    config.cache_level = args.cache_level.or(config.cache_level);
    config.seed = args.seed.unwrap_or(config.seed);
    config.merge_seconds = args.merge_seconds.unwrap_or(config.merge_seconds);
    config.timeout_seconds = args.timeout_seconds.unwrap_or(config.timeout_seconds);
    if args.only_control {
        config.arms = vec![Arm::Recommended, Arm::Control];
    }
    config.check()?;
    Ok(config)
}

/// Writes a line to standard error. That nobody reads it any more must not end a run halfway.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs it, writes its files and prints its report.
///
/// # Errors
/// Nothing was measured, or what was measured cannot be written.
pub fn web(args: &WebArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let config = config(args)?;
    let root = HostRoot::real();
    let (started, begun) = (SystemTime::now(), Instant::now());
    let directory = args
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(format!("web-{}", clock::utc_for_file_names(started))));
    let environment = Environment::read(&root);
    let programs = match config.guest {
        ServerKind::Process => Some(Programs::find(&args.apache)?),
        ServerKind::Qemu => None,
    };
    let events = EventSet::for_host(&root).unwrap_or_else(|_| EventSet::of(None));
    let mut host = CollectorHost::open(root.clone(), args.state_dir.as_deref(), 1, events, true)?;
    let site = Site::make(Path::new(PLACE))?;
    let servers = match programs {
        Some(programs) => Servers::Processes(programs),
        None => Servers::Vms(WebVms::make(&images(args)?, &site, accelerator(), config.memory_mib)?),
    };

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
    let mut start = |config: &WebConfig| start(config, &servers, &site, interrupt);
    let ticks = CpuTicks::read(&root);
    let outcome = run(&config, &mut host, &mut start, interrupt, &mut progress);
    bar.finish_and_clear();
    let outcome = outcome?;
    let stolen = CpuTicks::read(&root).zip(ticks).and_then(|(late, early)| late.stolen_since(&early));
    drop((host, site));

    let disturbances = disturbances(&environment, &[], stolen);
    let (started_utc, duration_s) = (clock::utc(started), begun.elapsed().as_secs_f64());
    let accelerator = servers.accelerator().map(Accelerator::name);
    let about = About { environment, disturbances, accelerator, started_utc, duration_s };
    let summary = WebSummary::of(&config, outcome, about);
    write(args, &directory, &summary)?;
    anyhow::ensure!(
        summary.blocks.iter().any(|block| block.invalid.is_none()),
        "no block is valid, so there is no result; the first: {}",
        summary.invalid_blocks.first().map_or("none was measured", String::as_str)
    );
    Ok(())
}

/// What starts servers.
enum Servers {
    Processes(Programs),
    Vms(WebVms),
}

impl Servers {
    fn start(&self, name: &str, site: &Site) -> Result<Server, GuestError> {
        match self {
            Self::Processes(programs) => programs.start(name, site),
            Self::Vms(vms) => vms.start(name, site),
        }
    }

    fn accelerator(&self) -> Option<Accelerator> {
        match self {
            Self::Processes(_) => None,
            Self::Vms(vms) => Some(vms.accelerator()),
        }
    }
}

/// Beside this program, in `target/guests`, where nothing else is said.
fn images(args: &WebArgs) -> anyhow::Result<PathBuf> {
    if let Some(images) = &args.images {
        return Ok(images.clone());
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let target = own.ancestors().nth(2).context("this program is in no target directory; say --images")?;
    Ok(target.join("guests"))
}

fn accelerator() -> Accelerator {
    match kvm::runs_natively() {
        Ok(_) => Accelerator::Kvm,
        Err(why) => {
            say(&format!("{why}; the VMs are translated (TCG)"));
            Accelerator::Tcg
        }
    }
}

fn start(
    config: &WebConfig,
    servers: &Servers,
    site: &Site,
    interrupt: &Interrupt,
) -> Result<Vec<Box<dyn Tenant>>, GuestError> {
    let bench = config.bench();
    let number = config.data.len();
    // Users of an open loop take turns, so that not all ask at once.
    let open = |server: usize| {
        let every = Duration::from_secs_f64(1.0 / config.rate_per_s?);
        Some(Rhythm::Open { every, first: every.mul_f64(server as f64 / number as f64) })
    };
    // A Debian takes a while to be up, and all of them do so at once.
    let ready = Duration::from_secs(match config.guest {
        ServerKind::Process => 60,
        ServerKind::Qemu => 300,
    });
    let mut started = Vec::new();
    for server in 0..number {
        let spec = TenantSpec {
            name: bench.guest_name(server),
            page: config.page,
            writes: config.writes(server),
            visits: config.visits,
            seed: Rng::of_part(config.seed, REQUESTS + server as u64).next_u64(),
            open: open(server),
            timeout: Duration::from_secs_f64(config.timeout_seconds),
            patience: Patience { ready, answer: Duration::from_secs(15) },
        };
        started.push(WebTenant::of(servers.start(&spec.name, site)?, spec)?);
    }
    started.iter_mut().try_for_each(|tenant| tenant.wait_ready(interrupt))?;
    Ok(started.into_iter().map(|tenant| Box::new(tenant) as Box<dyn Tenant>).collect())
}

fn write(args: &WebArgs, directory: &Path, summary: &WebSummary) -> anyhow::Result<()> {
    let file = directory.join("summary.json");
    let text = serde_json::to_string_pretty(summary)?;
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, text + "\n"))
        .with_context(|| format!("cannot write {}; name another place with --out", file.display()))?;
    let table = responses::write(directory, &summary.blocks)?;
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Table => {
            write!(out, "{}", report::text(summary))?;
            writeln!(out, "Written: {} and {}", file.display(), table.display())?;
        }
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string(summary)?)?;
            say(&format!("written: {} and {}", file.display(), table.display()));
        }
    }
    Ok(())
}
