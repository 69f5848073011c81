//! The command `huddle-experiment web`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use huddle_host::HostRoot;
use huddle_model::rng::Rng;
use huddle_model::summary::Block;

use super::apache::{APACHE, Programs};
use super::load::Schedule;
use super::server::Server;
use super::site::{PLACE, Site};
use super::tenant::{Tenant, TenantSpec, WebTenant};
use super::vm::WebVms;
use super::{Config, Page, Preset, Web, responses};
use crate::frame::command::{self, Options, Prepared, Runnable, accelerator};
use crate::frame::spec::{GuestKind, SpecError};
use crate::guest::qemu::Accelerator;
use crate::guest::{GuestError, Patience};
use crate::host::CollectorHost;
use crate::interrupt::Interrupt;

/// The stream of chance that draws where requests begin (see [`Rng::of_part`]).
const REQUESTS: u64 = 4000;

/// Options of the web experiment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A specification that comes with the program [default: quick; with --guest qemu, paper]
    #[arg(long, value_enum, conflicts_with = "spec")]
    preset: Option<Preset>,
    /// What stands for the VMs
    #[arg(long, value_parser = guest_kinds())]
    guest: Option<GuestKind>,
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
    /// Seconds after which a request has timed out
    #[arg(long)]
    timeout_seconds: Option<f64>,
    /// Apache's program, for servers that are processes
    #[arg(long, default_value = APACHE)]
    apache: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// The guests that this experiment has.
fn guest_kinds() -> impl TypedValueParser<Value = GuestKind> {
    PossibleValuesParser::new([
        PossibleValue::new("process").help("Apaches on this host"),
        PossibleValue::new("qemu").help("VMs of QEMU's with a Debian and an Apache each"),
    ])
    .try_map(|name| GuestKind::from_str(&name, false))
}

impl Args {
    fn config(&self) -> Result<Config, SpecError> {
        let usual = if self.guest == Some(GuestKind::Qemu) { Preset::Paper } else { Preset::Quick };
        let mut config: Config = self.options.spec(self.preset.unwrap_or(usual))?;
        config.guest = self.guest.unwrap_or(config.guest);
        let own = &mut config.own;
        own.page = self.page.unwrap_or(own.page);
        own.requests = self.requests.unwrap_or(own.requests);
        own.warm_up_requests = self.warm_up_requests.unwrap_or(own.warm_up_requests);
        own.rate_per_s = self.rate.or(own.rate_per_s);
        own.visits = self.visits.unwrap_or(own.visits);
        own.reads_per_visit = self.reads_per_visit.or(own.reads_per_visit);
        own.data_kib = self.data_kib.or(own.data_kib);
        own.timeout_seconds = self.timeout_seconds.unwrap_or(own.timeout_seconds);
        config.check()?;
        Ok(config)
    }
}

/// Runs it, writes its files and prints its report.
///
/// # Errors
/// Nothing was measured, or what was measured cannot be written.
pub fn execute(args: &Args, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut web = Web { spec: args.config()?, apache: args.apache.clone() };
    command::execute(&mut web, &args.options, interrupt)
}

impl Runnable for Web {
    fn prepare(
        &mut self,
        root: &HostRoot,
        options: &Options,
        _: &Path,
    ) -> anyhow::Result<Prepared<dyn Tenant>> {
        let programs =
            (self.spec.guest == GuestKind::Process).then(|| Programs::find(&self.apache)).transpose()?;
        let (events, state_dir) = (command::usual_events(root), options.state_dir.as_deref());
        let host = CollectorHost::open(root.clone(), state_dir, 1, events, true)?;
        let site = Site::make(Path::new(PLACE))?;
        let memory_mib = self.spec.memory_mib;
        let servers = match programs {
            Some(programs) => Servers::Processes(programs),
            None => Servers::Vms(WebVms::make(&options.images()?, &site, accelerator(), memory_mib)?),
        };
        let (accelerator, spec) = (servers.accelerator(), self.spec.clone());
        let start = Box::new(move |interrupt: &Interrupt| start(&spec, &servers, &site, interrupt));
        Ok(Prepared { host: Box::new(host), accelerator, start })
    }

    fn write_more(&self, directory: &Path, blocks: &[Block]) -> anyhow::Result<Option<PathBuf>> {
        Ok(Some(responses::write(directory, blocks)?))
    }
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

fn start(
    config: &Config,
    servers: &Servers,
    site: &Site,
    interrupt: &Interrupt,
) -> Result<Vec<Box<dyn Tenant>>, GuestError> {
    let number = config.guests();
    // Users of an open loop take turns, so that not all ask at once.
    let open = |server: usize| {
        let every = Duration::from_secs_f64(1.0 / config.own.rate_per_s?);
        Some(Schedule::Open { every, first: every.mul_f64(server as f64 / number as f64) })
    };
    // A Debian takes a while to be up, and all of them do so at once.
    let ready = Duration::from_secs(if config.guest.has_kernels() { 300 } else { 60 });
    let mut started = Vec::new();
    for server in 0..number {
        let spec = TenantSpec {
            name: config.guest_name(server),
            page: config.own.page,
            writes: config.writes(server),
            visits: config.own.visits,
            seed: Rng::of_part(config.seed, REQUESTS + server as u64).next_u64(),
            open: open(server),
            timeout: Duration::from_secs_f64(config.own.timeout_seconds),
            patience: Patience { ready, answer: Duration::from_secs(15) },
        };
        started.push(WebTenant::of(servers.start(&spec.name, site)?, spec)?);
    }
    started.iter_mut().try_for_each(|tenant| tenant.wait_ready(interrupt))?;
    Ok(started.into_iter().map(|tenant| Box::new(tenant) as Box<dyn Tenant>).collect())
}
