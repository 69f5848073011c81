//! `huddle sketch`.

use std::path::Path;

use huddle_model::fleet::Scale;
use huddle_model::schema::SketchFact;
use huddle_model::vm::Vm;
use huddle_sharing::content::{Share, Sketches};
use serde::Serialize;

use crate::cli::args::{Common, Format, SketchArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::recorder::{Recordings, Settings};
use crate::cli::seed_file;
use crate::cli::sketches::{Sketched, Sketcher, measured};
use crate::cli::table::{print, print_json, print_table, right, table};

pub(crate) fn run(common: &Common, args: &SketchArgs) -> Result<(), Failure> {
    if let Some(path) = &args.make_seed {
        seed_file::make(path).map_err(Failure::failed)?;
        return print(format!(
            "{} holds a new seed: copy it to every host of the fleet, and to nobody else",
            path.display()
        ));
    }
    let context = Context::new(common)?;
    let settings = &context.config.sketch;
    let Some(seed) = args.seed.as_ref().or(settings.seed.as_ref()) else {
        return Err(Failure::usage(anyhow::anyhow!(
            "the file with the seed of the fleet is missing: give --seed, or [sketch] seed in the configuration"
        )));
    };
    let seed = seed_file::read(seed).map_err(Failure::usage)?;
    let scale = args.one_in.map_or_else(|| Ok(settings.scale()), Scale::new).map_err(Failure::usage)?;
    let sketcher = Sketcher::new(&context, seed, scale, args.cpu_share.unwrap_or(Share::HALF));
    let vms = context.vms()?;
    let Sketched { sketches, rows } = sketcher.sketch(&vms, &Settings::of(&context, None))?;
    let why_not = |vm: usize| sketches.unmeasured.iter().find(|left_out| left_out.vm == vm);
    for (vm, facts) in vms.iter().enumerate() {
        if let Some(left_out) = why_not(vm) {
            tracing::warn!("{} has no sketch: {}", facts.name, left_out.reason);
        }
    }
    if let Some(left_out) = sketches.unmeasured.first().filter(|_| sketches.unmeasured.len() == vms.len()) {
        return Err(Failure::host(anyhow::anyhow!(
            "no VM has a sketch; {}: {}",
            vms[left_out.vm].name,
            left_out.reason
        )));
    }
    for note in &sketches.notes {
        tracing::warn!("{note}");
    }

    let about = sketcher.fact();
    let recordings = Recordings::of(&context).0.with_sketches(about.clone());
    let dir = match (&args.record, &args.fleet) {
        (Some(dir), _) => dir.clone(),
        (None, Some(root)) => recordings.place_in(root, args.layout)?,
        (None, None) => {
            return Err(Failure::usage(anyhow::anyhow!(
                "--record or --fleet is missing: where the sketches go"
            )));
        }
    };
    let recorder = recordings.start(&dir)?;
    recorder.send_rows(rows);
    recorder.finish().map_err(Failure::failed)?;
    let report = Report::new(&dir, about, &vms, &sketches);
    if common.format == Format::Json { print_json(&report) } else { report.print() }
}

/// What was recorded.
#[derive(Serialize)]
struct Report {
    dir: String,
    #[serde(flatten)]
    about: SketchFact,
    vms: Vec<VmReport>,
}

#[derive(Serialize)]
struct VmReport {
    vm: String,
    pages_read: u64,
    pages_zero: u64,
    kept: usize,
    /// Estimate of its distinct contents.
    contents: u64,
}

impl Report {
    fn new(dir: &Path, about: SketchFact, vms: &[Vm], sketches: &Sketches) -> Self {
        let vms = measured(vms, sketches).map(|(vm, sketch)| VmReport {
            vm: vm.name.clone(),
            pages_read: sketch.pages_read,
            pages_zero: sketch.pages_zero,
            kept: sketch.hashes.len(),
            contents: sketch.hashes.len() as u64 * about.one_in,
        });
        Self { dir: dir.display().to_string(), vms: vms.collect(), about }
    }

    fn print(&self) -> Result<(), Failure> {
        let mut rows = table(&["VM", "pages read", "zero pages", "kept", "distinct contents, about"]);
        right(&mut rows, 1..=4);
        for vm in &self.vms {
            let numbers = [vm.pages_read, vm.pages_zero, vm.kept as u64, vm.contents];
            rows.add_row(std::iter::once(vm.vm.clone()).chain(numbers.map(|number| number.to_string())));
        }
        print_table(&rows)?;
        print(format!(
            "\none content in {} is kept, under the seed {} ({}); recorded in {}",
            self.about.one_in, self.about.seed, self.about.seed_check, self.dir
        ))
    }
}
