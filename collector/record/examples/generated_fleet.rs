//! Writes a generated fleet with the real recorder, as `huddle sketch --fleet DIR` does on each host:
//! `cargo xtask fleet --out DIR`, or `generated_fleet DIR [HOSTS [VMS_PER_HOST [SEED]]]`.
//!
//! `DIR/truth.json` has what the fleet is made of: what its VMs save where they are, and in the planted grouping. One host
//! per processor is in memory at a time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::Context as _;
use huddle_model::fleet::{FleetShape, GeneratedFleet};
use huddle_model::schema::Table;
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::fleet::{PAGE_BYTES, manifest, rows};

/// What is known of a part of the fleet.
#[derive(Default)]
struct Totals {
    next_host: AtomicU32,
    sketch_bytes: AtomicU64,
    saved_today: AtomicU64,
    saved_planted: AtomicU64,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().context("name a directory to write to")?);
    let mut number = |what: &str, default: u32| match arguments.next() {
        Some(text) => text.parse().with_context(|| format!("{text:?} is not a number of {what}")),
        None => Ok(default),
    };
    let (hosts, vms_per_host, seed) = (number("hosts", 10)?, number("VMs", 50)?, number("a seed", 1)?);
    // Applications of ten VMs, or what comes next to that.
    let application_vms = (1..=10.min(vms_per_host)).rev().find(|size| vms_per_host % size == 0).unwrap_or(1);
    let shape =
        FleetShape { seed: seed.into(), hosts, vms_per_host, application_vms, ..FleetShape::default() };
    let fleet = GeneratedFleet::new(shape)?;
    let (planted, totals) = (fleet.planted(), Totals::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || write_hosts(&root, &fleet, &planted, &totals);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a host could not be written")))
        })
    })?;
    let of = |total: &AtomicU64| total.load(Ordering::Relaxed);
    let truth = serde_json::json!({
        "schema": "huddle/generated-fleet/1",
        "seed": seed,
        "hosts": hosts,
        "vms": fleet.vms(),
        "one_in": shape.scale.one_in(),
        "page_bytes": PAGE_BYTES,
        "sketch_bytes": of(&totals.sketch_bytes),
        "saved_today_kept": of(&totals.saved_today),
        "saved_planted_kept": of(&totals.saved_planted),
    });
    let path = root.join("truth.json");
    std::fs::write(&path, format!("{truth:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!(
        "{}: {hosts} hosts with {} VMs, {:.0} bytes of sketches a VM",
        root.display(),
        fleet.vms(),
        of(&totals.sketch_bytes) as f64 / f64::from(fleet.vms())
    );
    Ok(())
}

/// Writes one host after the other, until none is left.
fn write_hosts(
    root: &Path,
    fleet: &GeneratedFleet,
    planted: &[Vec<u32>],
    totals: &Totals,
) -> anyhow::Result<()> {
    loop {
        let host = totals.next_host.fetch_add(1, Ordering::Relaxed);
        let Some(planted) = planted.get(host as usize) else { return Ok(()) };
        let manifest = manifest(fleet, host);
        let target = RecordTarget::Fleet {
            root: root.to_owned(),
            host: manifest.host.clone(),
            run: manifest.run.clone(),
        };
        let recorder = Recorder::start(&target.dir(), manifest, RecorderLimits::default())?;
        recorder.send_rows(rows(fleet, host));
        let summary = recorder.finish()?;
        if let Some(what) = summary.manifest.interruptions().next() {
            anyhow::bail!("{}: {what}", summary.dir.display());
        }
        totals
            .sketch_bytes
            .fetch_add(summary.manifest.counts(Table::Sketches).bytes_written, Ordering::Relaxed);
        totals.saved_today.fetch_add(fleet.saved_kept(fleet.on_host(host)), Ordering::Relaxed);
        totals.saved_planted.fetch_add(fleet.saved_kept(planted), Ordering::Relaxed);
    }
}
