//! Writes recordings with the real recorder, for notebooks and other readers to be tried on:
//! `cargo run --package huddle-analysis --example sample_recording -- DIR [ROUNDS]` makes
//! `DIR/host=alpha/run=..`, and the same of the hosts `beta` and `gamma`.

use std::path::PathBuf;

use anyhow::Context as _;
use huddle_model::schema::Manifest;
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
    for host in ["alpha", "beta", "gamma"] {
        let manifest = Manifest { host: host.to_owned(), ..sample::manifest() };
        let target =
            RecordTarget::Fleet { root: root.clone(), host: host.to_owned(), run: manifest.run.clone() };
        let mut limits = RecorderLimits::default();
        limits.queue.0 = usize::try_from(2 * rounds)?;
        let recorder = Recorder::start(&target.dir(), manifest, limits)?;
        let mut before = None;
        for round in 1..=rounds {
            let view = sample_observed::observed(round, VMS);
            recorder.send_rows(sample_observed::responses(&view));
            recorder.send(view.updates_since(before.as_ref()).into());
            before = Some(view);
        }
        let summary = recorder.finish()?;
        anyhow::ensure!(summary.steps.steps_lost == 0, "steps were lost");
        eprintln!("{}: {rounds} rounds of {VMS} VMs", summary.dir.display());
    }
    Ok(())
}
