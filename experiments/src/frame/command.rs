//! What the command lines of all experiments have in common: options, one run from the host to its files, and
//! what is printed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use huddle_host::clock::unix_us;
use huddle_host::load::CpuTicks;
use huddle_host::{HostRoot, files, page};
use huddle_model::page_size::PageSize;
use huddle_model::summary::{Arm, Block, SUMMARY_FILE, Summary};
use huddle_model::text::{utc_compact, utc_text};
use huddle_observe::perf::EventSet;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::report::{self, Report};
use super::run::{Step, run};
use super::spec::{Changes, Preset, Settings, Spec, SpecError};
use super::summary::{About, summary};
use super::{Workload, environment};
use crate::guest::qemu::Accelerator;
use crate::guest::{GuestError, kvm};
use crate::host::Host;
use crate::interrupt::Interrupt;

/// Options of every experiment.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A specification of your own, in TOML; the presets are in experiments/presets
    #[arg(long)]
    pub spec: Option<PathBuf>,
    /// Only the recommended arm against itself: the interval of the ratio should contain 1
    #[arg(long)]
    pub only_control: bool,
    /// With --simulate, time nothing
    #[arg(long)]
    pub untimed: bool,
    /// Where kernels and initramfs of VMs are [default: target/guests]
    #[arg(long)]
    pub images: Option<PathBuf>,
    /// Directory for summary.json and further files [default: runs/NAME-TIME, in UTC]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// What goes to standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Where huddle keeps its lock and its journal
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
}

/// What goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables for people.
    Table,
    /// The summary as one JSON object.
    Json,
}

impl Options {
    /// The specification in the file, or else the preset, with these changes.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn spec<S: Settings>(&self, preset: impl Preset, changes: &Changes<S>) -> Result<Spec<S>, SpecError> {
        let mut spec = self.spec.as_ref().map_or_else(|| Spec::preset(preset), |path| Spec::read(path))?;
        changes.apply(&mut spec)?;
        if self.only_control {
            spec.arms = vec![Arm::Recommended, Arm::Control];
        }
        spec.untimed |= self.untimed;
        Ok(spec)
    }

    /// The directory of the run.
    pub fn directory(&self, name: &str) -> PathBuf {
        let default = || Path::new("runs").join(format!("{name}-{}", utc_compact(unix_us())));
        self.out.clone().unwrap_or_else(default)
    }

    /// Where images of VMs are: by default `target/guests`, beside this program.
    ///
    /// # Errors
    /// This program is in no target directory.
    pub fn images(&self) -> anyhow::Result<PathBuf> {
        if let Some(images) = &self.images {
            return Ok(images.clone());
        }
        let own = own_program()?;
        let target =
            own.ancestors().nth(2).context("this program is in no target directory; use --images")?;
        Ok(target.join("guests"))
    }
}

/// The path of this program.
///
/// # Errors
/// The system does not report it.
pub fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the path of this program")
}

/// Writes a line to standard error. A reader that is gone must not end a run halfway, as the panic of
/// `eprintln!` would.
pub fn print_status(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What runs the instructions of QEMU's VMs on this host.
pub fn accelerator() -> Accelerator {
    match kvm::runs_natively() {
        Ok(_) => Accelerator::Kvm,
        Err(why) => {
            print_status(&format!("{why}; the VMs are emulated (TCG)"));
            Accelerator::Tcg
        }
    }
}

/// The same, where accesses are to be recorded if `records`: only the emulator can.
pub fn accelerator_for(records: bool) -> Accelerator {
    if !records {
        return accelerator();
    }
    print_status("the VMs are emulated (TCG), since their accesses are recorded for --simulate");
    Accelerator::Tcg
}

/// The events that are counted on each vCPU by default: for an unknown processor only cycles and instructions.
pub fn default_events(root: &HostRoot) -> EventSet {
    EventSet::for_host(root).unwrap_or_else(|_| EventSet::of(None))
}

/// Starts the guest of a number, without waiting until it is up.
pub type StartGuest<G> = Box<dyn Fn(usize, &Interrupt) -> Result<Box<G>, GuestError>>;

/// What a run needs of the host.
pub struct Prepared<G: ?Sized> {
    /// The host that runs the guests.
    pub host: Box<dyn Host>,
    /// What runs the instructions of VMs; `None` where nobody chose.
    pub accelerator: Option<Accelerator>,
    /// Starts a guest.
    pub start: StartGuest<G>,
}

/// A workload that can be run from the command line.
pub trait Runnable: Report + Sized {
    /// Finds what it needs on this host, and completes its specification. Files of guests go to `directory`.
    ///
    /// # Errors
    /// The host cannot run it, or another program changes it.
    fn prepare(
        &mut self,
        root: &HostRoot,
        options: &Options,
        directory: &Path,
    ) -> anyhow::Result<Prepared<Self::Guest>>;

    /// Writes files beside the summary, and returns their path.
    ///
    /// # Errors
    /// It cannot be written.
    fn write_more(&self, _directory: &Path, _blocks: &[Block]) -> anyhow::Result<Option<PathBuf>> {
        Ok(None)
    }
}

/// Runs it once and writes its files.
///
/// # Errors
/// This host has other pages than the guests, nothing was measured, or what was measured cannot be written.
pub fn measure<W: Runnable>(
    workload: &mut W,
    options: &Options,
    directory: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<(Summary<W::Figures>, Vec<PathBuf>)> {
    // Guests lay out their data in pages of 4 KiB: a larger page of the host holds several, and merges only if all
    // agree.
    anyhow::ensure!(
        page::size() == PageSize::X86,
        "this host has pages of {} bytes, and experiments have data in pages of {}; boot a kernel with these",
        page::size().bytes(),
        PageSize::X86.bytes()
    );
    let root = HostRoot::real();
    let (started_utc, begun) = (utc_text(unix_us()), Instant::now());
    let environment = environment::read(&root);
    let Prepared { mut host, accelerator, start } = workload.prepare(&root, options, directory)?;

    let bar = ProgressBar::new(0);
    // Without a template that can be read there is only a plainer bar.
    if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    let mut progress = |step: Step<'_>| {
        let left = step.left.map_or_else(String::new, |left| format!(" ({} s left)", left.as_secs()));
        if bar.is_hidden() {
            print_status(&format!("[{:>5.1} s] {}{left}", begun.elapsed().as_secs_f64(), step.text));
            return;
        }
        bar.set_length(step.of as u64);
        bar.set_position(step.done as u64);
        bar.set_message(format!("{}{left}", step.text));
    };
    let ticks = CpuTicks::read(&root);
    let mut start_guest = |number| start(number, interrupt);
    let outcome = run(workload, &mut *host, &mut start_guest, interrupt, &mut progress);
    bar.finish_and_clear();
    let outcome = outcome?;
    let stolen = CpuTicks::read(&root).zip(ticks).and_then(|(late, early)| late.stolen_since(&early));
    drop(host);

    let about = About {
        disturbances: environment::disturbances(&environment, &outcome.blocks, stolen),
        environment,
        accelerator: accelerator.map(|accelerator| accelerator.name().to_owned()),
        started_utc,
        duration_s: begun.elapsed().as_secs_f64(),
    };
    let summary = summary(workload, outcome, about);
    let mut files = vec![write(directory, &summary)?];
    files.extend(workload.write_more(directory, &summary.blocks)?);
    Ok((summary, files))
}

/// Runs it once, writes its files and prints its report.
///
/// # Errors
/// As [`measure`], and where no block is valid.
pub fn execute<W: Runnable>(
    workload: &mut W,
    options: &Options,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let (summary, files) = measure(workload, options, &options.directory(W::NAME), interrupt)?;
    print(options.format, &report::text(workload, &summary), &summary, &files)?;
    check_result(workload, &summary)
}

/// Makes sure that a run has a result.
///
/// # Errors
/// No block is valid.
pub fn check_result<W: Workload>(workload: &W, summary: &Summary<W::Figures>) -> anyhow::Result<()> {
    anyhow::ensure!(
        !workload.spec().is_timed() || summary.untimed.is_some() || summary.has_result(),
        "no block is valid, so there is no result; the first: {}",
        summary.invalid_blocks.first().map_or("none was measured", String::as_str)
    );
    Ok(())
}

/// Prints a result and where it was written.
///
/// # Errors
/// Standard output is closed.
pub fn print(format: Format, text: &str, result: &impl Serialize, files: &[PathBuf]) -> anyhow::Result<()> {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table => writeln!(out, "{text}Written: {}", files.join(" and "))?,
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string(result)?)?;
            print_status(&format!("written: {}", files.join(" and ")));
        }
    }
    Ok(())
}

/// Writes a summary to its file in `directory`.
///
/// # Errors
/// It cannot be written.
pub fn write(directory: &Path, summary: &impl Serialize) -> anyhow::Result<PathBuf> {
    let file = directory.join(SUMMARY_FILE);
    let text = serde_json::to_string_pretty(summary)? + "\n";
    std::fs::create_dir_all(directory)
        .and_then(|()| files::replace_file(&file, text.as_bytes(), files::FOR_ALL))
        .with_context(|| format!("cannot write {}; name another place with --out", file.display()))?;
    Ok(file)
}
