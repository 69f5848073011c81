//! The command `huddle-experiment microbench`.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use anyhow::Context;
use huddle_host::HostRoot;
use huddle_model::cpuset::CpuSet;
use huddle_model::summary::{MicrobenchFigures, ScanSummary, Summary};

use super::{Microbench, MicrobenchSettings, MicrobenchSpec, Preset};
use crate::access_stream::Recorders;
use crate::frame::Workload;
use crate::frame::command::{self, Format, Options, Prepared, Runnable, print_status};
use crate::frame::report::{self, cell, percent, ratio, table};
use crate::frame::spec::{Changes, GuestKind, SpecError};
use crate::guest::Reader;
use crate::guest::start::Starter;
use crate::guest::xen::Maker;
use crate::host::{CollectorHost, Host, HostFailure, XenHost};
use crate::images;
use crate::interrupt::Interrupt;

/// Options of the microbenchmark.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A specification that comes with the program
    #[arg(long, value_enum, default_value_t = Preset::Quick, conflicts_with = "spec")]
    preset: Preset,
    /// CPUs of a last-level cache, as `xl info -n` numbers them, with --guest xen; repeatable [default: one
    /// cache a socket]
    #[arg(long, value_name = "CPUS")]
    last_level_cache: Vec<CpuSet>,
    /// Merge nothing: a placebo, in which placements do not differ by sharing
    #[arg(long)]
    no_merge: bool,
    /// Only print the flavours of VMs it would start, one a line as `flavour NAME`, and start nothing
    #[arg(long)]
    list_flavours: bool,
    #[command(flatten)]
    changes: Changes<MicrobenchSettings>,
    #[command(flatten)]
    options: Options,
}

impl Args {
    fn spec(&self) -> Result<MicrobenchSpec, SpecError> {
        let mut spec = self.options.spec(self.preset, &self.changes)?;
        spec.settings.merge &= !self.no_merge;
        spec.check()?;
        Ok(spec)
    }
}

/// Runs it, writes its files and prints its report.
///
/// # Errors
/// Nothing was measured, or what was measured cannot be written.
pub fn execute(args: &Args, interrupt: &Interrupt) -> anyhow::Result<()> {
    let spec = args.spec()?;
    if args.list_flavours {
        let mut out = std::io::stdout().lock();
        return Ok(spec.flavours_needed().iter().try_for_each(|name| writeln!(out, "flavour {name}"))?);
    }
    let mut bench = Microbench { spec, last_level_cache: args.last_level_cache.clone(), recorders: None };
    if bench.spec.settings.data_kib.len() < 2 {
        return command::execute(&mut bench, &args.options, interrupt);
    }
    scan(&bench, &args.options, interrupt)
}

/// One size after the other. What was measured before one fails, or before the scan is interrupted, is
/// kept and shown.
fn scan(all: &Microbench, options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let directory = options.directory(Microbench::NAME);
    let sizes = &all.spec.settings.data_kib;
    let mut done: Vec<(String, Summary<MicrobenchFigures>)> = Vec::new();
    let mut outcome = Ok(());
    for (number, kib) in sizes.iter().enumerate() {
        print_status(&format!("{kib} KiB, size {} of {}", number + 1, sizes.len()));
        let mut bench = all.clone();
        bench.spec.settings.data_kib = vec![*kib];
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
    done.iter().try_for_each(|(_, summary)| command::check_result(all, summary))
}

/// The report of a scan.
fn scan_text(scan: &ScanSummary) -> String {
    let header =
        ["data", "sharing", "recommended, reads/s", "opposed, reads/s", "C / B", "A / C", "A / B", "valid"];
    let simulated =
        ["C / B, SIMULATED misses", "as time"].map(|name| (name, scan.simulated_rank_correlation));
    let simulated = simulated.into_iter().filter_map(|(name, is_there)| is_there.map(|_| name));
    let mut table = table(header.into_iter().chain(simulated));
    for size in &scan.sizes {
        let named = |name: &str| format!("{name}_{}_kib", size.data_kib);
        let ratio = |name| ratio(scan.ratios.get(&named(name)).copied().flatten());
        let simulated = [size.simulated_misses, size.simulated_time].map(|found| {
            found.map(|found| found.map_or_else(|| "none".to_owned(), |found| self::ratio(Some(found))))
        });
        let row = [
            format!("{} KiB", size.data_kib),
            percent(size.sharing_rate),
            cell(&scan.arms, &named("recommended"), 0),
            cell(&scan.arms, &named("opposed"), 0),
            ratio("opposed_over_recommended"),
            ratio("not_merged_over_opposed"),
            ratio("not_merged_over_recommended"),
            if size.valid { "yes".into() } else { "NO".into() },
        ];
        table.add_row(row.into_iter().chain(simulated.into_iter().flatten()));
    }
    let correlation = match scan.simulated_rank_correlation {
        None => String::new(),
        Some(None) => {
            "Rank correlation of simulated and measured time: too few sizes have both.\n".to_owned()
        }
        Some(Some(value)) => {
            format!("Rank correlation of C / B, simulated as time and measured, over the sizes: {value:.2}\n")
        }
    };
    format!(
        "By size of the data (A not merged, B recommended, C opposed; ratios of time per read)\n{table}\n{correlation}"
    )
}

impl Runnable for Microbench {
    fn prepare(
        &mut self,
        root: &HostRoot,
        options: &Options,
        directory: &Path,
    ) -> anyhow::Result<Prepared<dyn Reader>> {
        let host = self.host(root, options.state_dir.as_deref())?;
        if self.spec.guest == GuestKind::Qemu && self.spec.simulate.is_some() {
            let vcpus = self.spec.settings.vcpus as usize;
            let recorders = Recorders::create(&command::own_program()?, self.spec.guests(), vcpus);
            self.recorders = Some(Rc::new(recorders.map_err(HostFailure::Cannot)?));
        }
        let starter = starter(self, options, directory, root)?;
        let accelerator = starter.accelerator();
        self.spec = self.spec.clone().with_data_for(accelerator);
        let spec = self.spec.clone();
        let start = Box::new(move |number, interrupt: &Interrupt| starter.start(&spec, number, interrupt));
        Ok(Prepared { host, accelerator, start })
    }
}

impl Microbench {
    /// The host that runs the guests.
    fn host(&self, root: &HostRoot, state_dir: Option<&Path>) -> anyhow::Result<Box<dyn Host>> {
        let settings = &self.spec.settings;
        Ok(match self.spec.guest {
            GuestKind::Xen => {
                let caches = self.last_level_cache.clone();
                let vms: Vec<String> = (0..self.spec.guests()).map(|i| self.spec.guest_name(i)).collect();
                Box::new(XenHost::open(
                    root,
                    state_dir,
                    settings.vcpus,
                    caches,
                    settings.merge.then_some(&vms),
                )?)
            }
            GuestKind::Process | GuestKind::Qemu => {
                let mut events = command::default_events(root);
                for choice in self.spec.event_choices()? {
                    events.choose(root, &choice).map_err(|error| SpecError::Settings(error.to_string()))?;
                }
                Box::new(CollectorHost::open(
                    root.clone(),
                    state_dir,
                    settings.vcpus,
                    events,
                    settings.merge,
                )?)
            }
        })
    }
}

/// What starts guests on this host.
fn starter(
    Microbench { spec, recorders, .. }: &Microbench,
    options: &Options,
    directory: &Path,
    root: &HostRoot,
) -> anyhow::Result<Starter> {
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
    let images = spec.settings.flavours.iter().map(|flavour| images::find(&beneath, flavour));
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
    let accelerator = command::accelerator_for(recorders.is_some());
    Ok(Starter::Vms { images, accelerator, directory, recorders: recorders.clone() })
}
