//! The command `huddle-experiment microbench`.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use anyhow::Context;
use huddle_host::HostRoot;
use huddle_model::cpuset::CpuSet;
use huddle_model::summary::{MicrobenchFigures, ScanSummary, Summary};

use super::{Config, Microbench, Preset};
use crate::frame::Workload;
use crate::frame::command::{self, Format, Options, Prepared, Runnable, say, seconds};
use crate::frame::report::{self, cell, percent, ratio, table};
use crate::frame::spec::{GuestKind, SpecError};
use crate::guest::Guest;
use crate::guest::start::Starter;
use crate::guest::xen::{DomainType, Maker};
use crate::host::{CollectorHost, Host, HostFailure, XenHost};
use crate::images;
use crate::interrupt::Interrupt;

/// Options of the microbenchmark.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A specification that comes with the program
    #[arg(long, value_enum, default_value_t = Preset::Quick, conflicts_with = "spec")]
    preset: Preset,
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
    #[command(flatten)]
    options: Options,
}

impl Args {
    fn config(&self) -> Result<Config, SpecError> {
        let mut config: Config = self.options.spec(self.preset)?;
        config.guest = self.guest.unwrap_or(config.guest);
        let own = &mut config.own;
        own.seconds_per_arm = self.seconds_per_arm.unwrap_or(own.seconds_per_arm);
        own.settle_seconds = self.settle_seconds.unwrap_or(own.settle_seconds);
        own.answer_seconds = self.answer_seconds.or(own.answer_seconds);
        own.domain_type = self.domain_type.unwrap_or(own.domain_type);
        own.merge &= !self.no_merge;
        own.private_kib = self.private_kib.unwrap_or(own.private_kib);
        own.burst_reads = self.burst_reads.or(own.burst_reads);
        if !self.events.is_empty() {
            own.events.clone_from(&self.events);
        }
        if !self.data_kib.is_empty() {
            own.data_kib.clone_from(&self.data_kib);
        }
        config.check()?;
        Ok(config)
    }
}

/// Runs it, writes its files and prints its report.
///
/// # Errors
/// Nothing was measured, or what was measured cannot be written.
pub fn execute(args: &Args, interrupt: &Interrupt) -> anyhow::Result<()> {
    let spec = args.config()?;
    if args.list_flavours {
        let mut out = std::io::stdout().lock();
        return Ok(spec.flavours_needed().iter().try_for_each(|name| writeln!(out, "flavour {name}"))?);
    }
    let mut bench = Microbench { spec, last_level_cache: args.last_level_cache.clone() };
    if bench.spec.own.data_kib.len() < 2 {
        return command::execute(&mut bench, &args.options, interrupt);
    }
    scan(&bench, &args.options, interrupt)
}

/// One size after the other. What was measured before one fails, or before the scan is interrupted, is
/// kept and shown.
fn scan(all: &Microbench, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let directory = options.directory(Microbench::NAME);
    let sizes = &all.spec.own.data_kib;
    let mut done: Vec<(String, Summary<MicrobenchFigures>)> = Vec::new();
    let mut outcome = Ok(());
    for (number, kib) in sizes.iter().enumerate() {
        say(&format!("{kib} KiB, size {} of {}", number + 1, sizes.len()));
        let mut bench = all.clone();
        bench.spec.own.data_kib = vec![*kib];
        let name = format!("data-{kib}-kib");
        match command::measure(&mut bench, options, &directory.join(&name), interrupt) {
            Ok((summary, _)) => {
                if options.format == Format::Table {
                    write!(std::io::stdout().lock(), "{}", report::text(&bench, &summary))?;
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
        let file = command::write(&directory, &scan)?;
        command::print(options.format, &scan_text(&scan), &scan, &[file])?;
    }
    outcome?;
    done.iter().try_for_each(|(_, summary)| command::any_valid(all, summary))
}

/// What a person reads of a scan.
fn scan_text(scan: &ScanSummary) -> String {
    let header =
        ["data", "sharing", "recommended, reads/s", "opposed, reads/s", "C / B", "A / C", "A / B", "valid"];
    let mut table = table(header.map(str::to_owned).to_vec());
    for size in &scan.sizes {
        let named = |name: &str| format!("{name}_{}_kib", size.data_kib);
        let ratio = |name| ratio(scan.ratios.get(&named(name)).copied().flatten());
        table.add_row([
            format!("{} KiB", size.data_kib),
            percent(size.sharing_rate),
            cell(&scan.arms, &named("recommended"), 0),
            cell(&scan.arms, &named("opposed"), 0),
            ratio("opposed_over_recommended"),
            ratio("not_merged_over_opposed"),
            ratio("not_merged_over_recommended"),
            if size.valid { "yes".into() } else { "NO".into() },
        ]);
    }
    format!(
        "By size of the data (A not merged, B recommended, C opposed; ratios of time per read)\n{table}\n"
    )
}

impl Runnable for Microbench {
    fn prepare(
        &mut self,
        root: &HostRoot,
        options: &Options,
        directory: &Path,
    ) -> anyhow::Result<Prepared<dyn Guest>> {
        let host = self.host(root, options.state_dir.as_deref())?;
        let starter = starter(&self.spec, options, directory, root)?;
        let accelerator = starter.accelerator();
        self.spec = self.spec.clone().suited_to(accelerator);
        let spec = self.spec.clone();
        let start = Box::new(move |interrupt: &Interrupt| starter.start(&spec, interrupt));
        Ok(Prepared { host, accelerator, start })
    }
}

impl Microbench {
    /// The host that runs the guests.
    fn host(&self, root: &HostRoot, state_dir: Option<&Path>) -> anyhow::Result<Box<dyn Host>> {
        let Config { own, .. } = &self.spec;
        Ok(match self.spec.guest {
            GuestKind::Xen => {
                let caches = self.last_level_cache.clone();
                let vms: Vec<String> = (0..self.spec.guests()).map(|i| self.spec.guest_name(i)).collect();
                Box::new(XenHost::open(root, state_dir, own.vcpus, caches, own.merge.then_some(&vms))?)
            }
            GuestKind::Process | GuestKind::Qemu => {
                let mut events = command::usual_events(root);
                self.spec.event_choices()?.into_iter().for_each(|choice| events.choose(choice));
                Box::new(CollectorHost::open(root.clone(), state_dir, own.vcpus, events, own.merge)?)
            }
        })
    }
}

/// What guests are started with on this host.
fn starter(spec: &Config, options: &Options, directory: &Path, root: &HostRoot) -> anyhow::Result<Starter> {
    let program = command::own_program()?;
    if spec.guest == GuestKind::Process {
        // Built beside this one.
        let program = program.with_file_name("huddle-standin");
        anyhow::ensure!(
            program.exists(),
            "{} is missing; build it with `cargo build -p huddle-experiments`",
            program.display()
        );
        return Ok(Starter::Processes { program });
    }
    let beneath = options.images()?;
    let images = spec.own.flavours.iter().map(|flavour| images::find(&beneath, flavour));
    let images = images.collect::<Result<_, _>>().map_err(HostFailure::Cannot)?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}; name another place with --out", directory.display()))?;
    let directory = directory.to_owned();
    if spec.guest == GuestKind::Xen {
        let mut guards = Command::new(program);
        guards.arg("guard-domains");
        let maker = Rc::new(Maker::new(root, guards).map_err(HostFailure::Cannot)?);
        return Ok(Starter::Domains { images, maker, directory });
    }
    Ok(Starter::Vms { images, accelerator: command::accelerator(), directory })
}
