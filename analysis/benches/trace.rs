//! What it costs to export a recording as a trace, beside `validate` of the same recording, which reads every row too:
//! `cargo bench --workspace --profile dev --bench trace -- [ROUNDS]`.
#![allow(clippy::unwrap_used, reason = "a benchmark: what fails, panics")]

use std::path::Path;
use std::process::{Command, Stdio};

use huddle_record::{Recorder, RecorderLimits};
use huddle_testing::figures::median;
use huddle_testing::output::say;
use huddle_testing::{sample, sample_observed};
use nix::sys::resource::{UsageWho, getrusage};

/// How often each is done, in turn; the median is printed.
const TIMES: usize = 5;
const ROUNDS: u64 = 2000;
const VMS: usize = 8;

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    record(&run, rounds);
    let trace = dir.path().join("trace");
    let (mut validate, mut export) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        validate.push(cpu_seconds(&["validate", run.to_str().unwrap()]));
        let _ = std::fs::remove_dir_all(&trace);
        let arguments =
            ["export", run.to_str().unwrap(), "--format", "perfetto", "-o", trace.to_str().unwrap()];
        export.push(cpu_seconds(&arguments));
    }
    let (validate, export) = (median(&validate), median(&export));
    let (recorded, traced) = (bytes(&run), bytes(&trace));
    say(&format!("{rounds} rounds and windows of {VMS} VMs, medians of {TIMES}, CPU time of the program"));
    say(&format!("validate {validate:>8.3} s   recording {recorded:>10} B"));
    say(&format!("export   {export:>8.3} s   trace     {traced:>10} B"));
    say(&format!(
        "ratio    {:>8.2}     size      {:>10.2}",
        export / validate,
        traced as f64 / recorded as f64
    ));
}

fn record(run: &Path, rounds: u64) {
    let mut limits = RecorderLimits::default();
    limits.queue.0 = usize::try_from(2 * rounds).unwrap();
    let recorder = Recorder::start(run, sample::manifest(), limits).unwrap();
    let mut before = None;
    for round in 1..=rounds {
        let view = sample_observed::observed(round, VMS);
        recorder.send(view.updates_since(before.as_ref()).into());
        before = Some(view);
    }
    assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
}

/// CPU time that the program uses for this; other load of the machine counts for less than in time by the clock.
fn cpu_seconds(arguments: &[&str]) -> f64 {
    let of_children = || {
        let used = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(used.user_time()) + seconds(used.system_time())
    };
    let before = of_children();
    let mut program = Command::new(env!("CARGO_BIN_EXE_huddle-analysis"));
    assert!(program.args(arguments).stdout(Stdio::null()).status().unwrap().success(), "{arguments:?}");
    of_children() - before
}

/// Bytes of the files below a directory.
fn bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => bytes(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}
