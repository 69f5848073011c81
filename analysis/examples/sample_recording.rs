//! Writes recordings with the real recorder, for notebooks and other readers to be tried on:
//! `cargo run --package huddle-analysis --example sample_recording -- DIR [ROUNDS]` makes
//! `DIR/host=alpha/run=..`, and the same of the hosts `beta` and `gamma`.

use std::path::PathBuf;

use anyhow::Context as _;
use huddle_model::rng::Rng;
use huddle_model::schema::{HostRow, Manifest, Rows, SketchFact, SketchRow};
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::{sample, sample_observed};

const VMS: usize = 4;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().context("name a directory to write to")?);
    let rounds: u64 = match arguments.next() {
        Some(text) => text.parse().with_context(|| format!("{text:?} is not a number of rounds"))?,
        None => 24,
    };
    for (number, host) in (0..).zip(["alpha", "beta", "gamma"]) {
        let manifest = Manifest { host: host.to_owned(), sketches: Some(sketched()), ..sample::manifest() };
        let target =
            RecordTarget::Fleet { root: root.clone(), host: host.to_owned(), run: manifest.run.clone() };
        let mut limits = RecorderLimits::default();
        limits.queue.0 = usize::try_from(2 * rounds + 1)?;
        let recorder = Recorder::start(&target.dir(), manifest, limits)?;
        let mut before = None;
        for round in 1..=rounds {
            let view = sample_observed::observed(round, VMS);
            recorder.send_rows(sample_observed::responses(&view));
            recorder.send(view.updates_since(before.as_ref()).into());
            before = Some(view);
        }
        recorder.send_rows(sketches(number));
        let summary = recorder.finish()?;
        anyhow::ensure!(summary.steps.steps_lost == 0, "steps were lost");
        eprintln!("{}: {rounds} rounds of {VMS} VMs", summary.dir.display());
    }
    Ok(())
}

fn sketched() -> SketchFact {
    SketchFact {
        one_in: 1024,
        hash: "siphash-2-4".into(),
        seed: "sample".into(),
        seed_check: "0123456789abcdef".into(),
        page_bytes: 4096,
    }
}

/// Two VMs with half of their contents in common with a VM of each other host, and a host's capacity.
fn sketches(host: u64) -> Rows {
    const KEPT: usize = 500;
    let (begin_us, end_us) = (1_700_000_000_000_000, 1_700_000_001_000_000);
    let mut rows = Rows::default();
    for (vm, number) in [("web", 0), ("db", 1)] {
        let part = |part: u64| {
            let mut rng = Rng::of_part(7, part);
            // As `huddle sketch` keeps them: below 2^64 / 1024.
            (0..KEPT).map(move |_| (rng.next_u64() >> 10) as i64)
        };
        let mut hashes: Vec<i64> = part(number).chain(part(100 + 10 * host + number)).collect();
        hashes.sort_unstable();
        rows.sketches.extend(hashes.into_iter().map(|hash| SketchRow {
            begin_us,
            end_us,
            vm: vm.into(),
            vm_kind: None,
            uuid: None,
            hash,
        }));
        rows.hosts.push(HostRow {
            begin_us,
            end_us,
            host_cpus: Some(16),
            host_cores: Some(8),
            host_caches: Some(2),
            host_cache_bytes: Some(32 << 20),
            host_memory_bytes: Some(64 << 30),
            vm: Some(vm.into()),
            vm_kind: None,
            uuid: None,
            vm_vmid: None,
            vm_owner: None,
            vm_vcpus: Some(4),
            vm_memory_bytes: Some(4 << 30),
            vm_apart: None,
            vm_pages_read: Some(1 << 20),
            vm_pages_zero: Some(1000),
            vm_not_sketched: None,
        });
    }
    rows
}
