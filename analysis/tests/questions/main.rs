//! `compare`, `sharing`, `timeline`, `report` and `export` of the real program, on recordings that the real
//! recorder wrote.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, reason = "a test: what fails, panics")]

mod compared;
mod experiments;
mod told;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::rates::CounterDelta;
use huddle_model::schema::{Finding, Manifest, Rows, Table};
use huddle_model::stats::{BlockSums, TrialCompared, compare_blocks, compare_trial};
use huddle_model::trial::Objective;
use huddle_model::view::View;
use huddle_record::{RecordTarget, Recorder, RecorderLimits};
use huddle_testing::sample_observed::{ARMS, observed};
use huddle_testing::{sample, sample_observed};
use serde_json::Value;

fn record(run: &Path, manifest: Manifest, rounds: impl Iterator<Item = View>) {
    let mut limits = RecorderLimits::default();
    limits.queue.0 = 1000;
    let recorder = Recorder::start(run, manifest, limits).unwrap();
    let views: Vec<View> = rounds.collect();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
}

fn ask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_huddle-analysis")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["--format", "json"]);
    let output = ask(&all);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{arguments:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
