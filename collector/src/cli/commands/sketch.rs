//! `huddle sketch`.

use std::path::Path;

use huddle_host::clock::unix_us;
use huddle_host::memory;
use huddle_model::fleet::Scale;
use huddle_model::schema::{HostRow, Rows, SketchFact, SketchRow, VmColumns};
use huddle_model::vm::{GuestRegion, Vm};
use huddle_sharing::content::{SKETCH_HASH, Share, SketchSettings, Sketches, VmSketch};
use serde::Serialize;

use crate::cli::args::{Common, Format, SketchArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::recorder::Recordings;
use crate::cli::seed_file;
use crate::cli::table::{print, print_json, print_table, right, table};

pub(crate) fn run(common: &Common, args: &SketchArgs) -> Result<(), Failure> {
    if let Some(path) = &args.make_seed {
        seed_file::make(path).map_err(Failure::failed)?;
        return print(format!(
            "{} holds a new seed: copy it to every host of the fleet, and to nobody else",
            path.display()
        ));
    }
    let Some(seed) = &args.seed else {
        return Err(Failure::usage(anyhow::anyhow!(
            "--seed is missing: the file with the seed of the fleet"
        )));
    };
    let (key, seed_name) = seed_file::read(seed).map_err(Failure::usage)?;
    let scale = args.one_in.map_or(Ok(Scale::DEFAULT), Scale::new).map_err(Failure::usage)?;
    let settings = SketchSettings { key, scale, cpu_share: args.cpu_share.unwrap_or(Share::HALF) };

    let context = Context::new(common)?;
    let vms = context.vms()?;
    let begin_us = unix_us();
    let sketches = context.backend.sketch(&settings, &vms)?;
    let end_us = unix_us();
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

    let about = SketchFact {
        one_in: scale.one_in(),
        hash: SKETCH_HASH.to_owned(),
        seed: seed_name,
        seed_check: settings.key.check(),
        page_bytes: huddle_host::page::size().bytes(),
    };
    let rows = Rows {
        sketches: sketch_rows((begin_us, end_us), &vms, &sketches),
        hosts: host_rows((begin_us, end_us), &context, &vms, &sketches)?,
        ..Rows::default()
    };
    let recordings = Recordings::of(&context).0.with_sketches(about.clone());
    let dir = match (&args.record, &args.fleet) {
        (Some(dir), _) => dir.clone(),
        (None, Some(root)) => recordings.place_in(root)?,
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

fn sketch_rows((begin_us, end_us): (i64, i64), vms: &[Vm], sketches: &Sketches) -> Vec<SketchRow> {
    let mut rows = Vec::new();
    for (vm, sketch) in measured(vms, sketches) {
        let columns = VmColumns::new(Some(vm.id), vm.uuid);
        rows.extend(sketch.hashes.iter().map(|hash| SketchRow {
            begin_us,
            end_us,
            vm: vm.name.clone(),
            vm_kind: columns.vm_kind,
            uuid: columns.uuid,
            // At least every second content is left out (`--one-in`), so it is below 2^63.
            hash: i64::try_from(*hash).unwrap_or(i64::MAX),
        }));
    }
    rows
}

fn host_rows(
    (begin_us, end_us): (i64, i64),
    context: &Context,
    vms: &[Vm],
    sketches: &Sketches,
) -> Result<Vec<HostRow>, Failure> {
    let topology = context.topology().ok();
    let caches = topology.as_ref().map(|topology| topology.domains());
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let sizes = context.backend.caches();
    let last_level = sizes.value().and_then(|sizes| {
        let level = sizes.iter().filter(|cache| !cache.instruction_only).map(|cache| cache.level).max()?;
        sizes.iter().filter(|cache| cache.level == level).filter_map(|cache| cache.size_bytes).min()
    });
    let host = HostRow {
        begin_us,
        end_us,
        host_cpus: caches.map(|caches| caches.iter().map(|cache| count(cache.cpus.len())).sum()),
        host_cores: topology
            .as_ref()
            .map(|topology| count(topology.cores().len()))
            .filter(|cores| *cores > 0),
        host_caches: caches.map(|caches| count(caches.len())),
        host_cache_bytes: last_level,
        host_memory_bytes: memory::total_bytes(&context.root).map_err(Failure::failed)?,
        vm: None,
        vm_kind: None,
        uuid: None,
        vm_owner: None,
        vm_vcpus: None,
        vm_memory_bytes: None,
        vm_apart: None,
        vm_pages_read: None,
        vm_pages_zero: None,
        vm_not_sketched: None,
    };
    if vms.is_empty() {
        return Ok(vec![host]);
    }
    let apart = &context.config.plan.apart;
    let rows = vms.iter().enumerate().map(|(position, vm)| {
        let columns = VmColumns::new(Some(vm.id), vm.uuid);
        let owner = vm.owner.as_ref();
        let owner = owner.map(|owner| owner.name.clone().unwrap_or_else(|| owner.uid.to_string()));
        let mut groups: Vec<String> = (apart.iter())
            .filter(|group| group.iter().any(|name| vm.identity().is_meant_by(name)))
            .map(|group| group.join(","))
            .collect();
        groups.sort();
        let why_not = sketches.unmeasured.iter().find(|left_out| left_out.vm == position);
        let sketch = sketches.vms.get(position).filter(|_| why_not.is_none());
        HostRow {
            vm: Some(vm.name.clone()),
            vm_kind: columns.vm_kind,
            uuid: columns.uuid,
            vm_owner: owner,
            vm_vcpus: Some(count(vm.vcpus.len())),
            vm_memory_bytes: Some(vm.memory.iter().map(GuestRegion::len_bytes).sum()),
            vm_apart: (!groups.is_empty()).then(|| groups.join("\n")),
            vm_pages_read: sketch.map(|sketch| sketch.pages_read),
            vm_pages_zero: sketch.map(|sketch| sketch.pages_zero),
            vm_not_sketched: why_not.map(|left_out| left_out.reason.clone()),
            ..host.clone()
        }
    });
    Ok(rows.collect())
}

/// The VMs that were read completely, with their sketches.
fn measured<'a>(vms: &'a [Vm], sketches: &'a Sketches) -> impl Iterator<Item = (&'a Vm, &'a VmSketch)> {
    let is_measured = |vm: &usize| sketches.unmeasured.iter().all(|left_out| left_out.vm != *vm);
    (0..vms.len()).filter(is_measured).filter_map(|vm| Some((&vms[vm], sketches.vms.get(vm)?)))
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
