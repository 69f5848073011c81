//! A process that takes one damaged recording after the other, and says on its standard output how each went.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huddle_model::rng::Rng;
use huddle_model::schema::{Manifest, Rows};
use huddle_model::view::View;
use huddle_record::{QueueLimit, Recorder, RecorderLimits, SegmentLimits};
use huddle_testing::{sample, sample_observed};
use nix::sys::resource::{Resource, setrlimit};

use super::harm::{Original, harm};
use super::questions::{Answers, ask, ask_programs};
use super::{MAX_BYTES, REAL_EVERY};

/// Rounds of a recording, of which each table has two segments.
const ROUNDS: u64 = 4;

pub(crate) fn run(seed: u64, numbers: Range<u64>) {
    setrlimit(Resource::RLIMIT_DATA, MAX_BYTES, MAX_BYTES).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let original = recording(&scratch.path().join("original"), "20261128T000000Z-1");
    let other = recording(&scratch.path().join("other"), "20261128T000000Z-2");
    let mut expected: HashMap<Vec<PathBuf>, Answers> = HashMap::new();
    for number in numbers {
        println!("begin {number}");
        let case = tempfile::tempdir_in(scratch.path()).unwrap();
        // The name of the directory is part of answers.
        let run = case.path().join("run");
        original.copy(&run, &[]);
        let harmed = harm(&original, &other, &run, &mut Rng::of_part(seed, number));
        let what = harmed.what.join("; ");
        println!("harm {number} {what}");
        let found = ask_in(&run, &case.path().join("out"));
        if !harmed.is_manifest_harmed {
            let expected = expected
                .entry(harmed.damaged.clone())
                .or_insert_with(|| answers_without(&original, &harmed.damaged, scratch.path()));
            for (question, answer) in expected {
                if found.get(question) != Some(answer) {
                    let given = found.get(question).map_or("", String::as_str);
                    println!("wrong {number} {question} after {what}: {}", difference(answer, given));
                }
            }
        }
        if number % REAL_EVERY == 0 {
            for wrong in ask_programs(&run, case.path()) {
                println!("wrong {number} after {what}: {}", wrong.replace('\n', " | "));
            }
            println!("real {number}");
        }
        println!("end {number} {} {}", harmed.damaged.len(), found.len());
    }
    println!("peak {}", peak_kib());
}

/// A recording of some rounds, in two segments of every table.
fn recording(dir: &Path, id: &str) -> Original {
    let views: Vec<View> = (1..=ROUNDS).map(|round| sample_observed::observed(round, 3)).collect();
    let limits = RecorderLimits {
        segment: SegmentLimits { max_bytes: u64::MAX, max_age: Duration::ZERO },
        queue: QueueLimit(1000),
        ..RecorderLimits::default()
    };
    let manifest = Manifest { run: id.to_owned(), ..sample::manifest() };
    let recorder = Recorder::start(dir, manifest, limits).unwrap();
    let mut before: Option<&View> = None;
    for half in views.chunks(views.len() / 2) {
        // Where segments may have no age, what is sent at once is a segment.
        let updates = half.iter().flat_map(|view| view.updates_since(before.replace(view)));
        recorder.send(updates.collect());
        let mut responses = Rows::default();
        half.iter().for_each(|view| responses.append(sample_observed::responses(view)));
        recorder.send_rows(responses);
    }
    assert_eq!(recorder.finish().unwrap().steps.steps_lost, 0);
    Original::of(dir)
}

fn answers_without(original: &Original, damaged: &[PathBuf], scratch: &Path) -> Answers {
    let case = tempfile::tempdir_in(scratch).unwrap();
    let run = case.path().join("run");
    original.copy(&run, damaged);
    ask_in(&run, &case.path().join("out"))
}

fn ask_in(run: &Path, out: &Path) -> Answers {
    std::fs::create_dir(out).unwrap();
    ask(run, out)
}

/// The first place where two answers differ.
fn difference(expected: &str, found: &str) -> String {
    let at = expected.bytes().zip(found.bytes()).take_while(|(one, other)| one == other).count();
    let part = |text: &str| {
        let from = at.saturating_sub(60);
        let bytes = &text.as_bytes()[from.min(text.len())..(at + 100).min(text.len())];
        String::from_utf8_lossy(bytes).replace('\n', " | ")
    };
    format!("expected ..{}.. and found ..{}..", part(expected), part(found))
}

/// Most memory that this process had resident, in KiB (proc(5)).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}
