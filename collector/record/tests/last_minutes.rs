//! The last minutes as a recording, as the replay reads it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use huddle_model::availability::Availability;
use huddle_model::schema::Manifest;
use huddle_model::view::View;
use huddle_record::replay::Recording;
use huddle_record::{KeepLimits, LastMinutes, RecorderLimits};
use huddle_testing::sample::{manifest, steps};
use huddle_testing::sample_observed::observed;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn it_is_an_ordinary_recording_of_the_kept_windows() {
    let dir = tempfile::tempdir().unwrap();
    let views: Vec<View> = (1..=20).map(|round| observed(round, 3)).collect();
    let all = steps(&views);
    let begin = Instant::now();
    let mut last = LastMinutes::new(KeepLimits { age: SECOND * 5, max_bytes: 1 << 30 });
    for (step, at) in all.iter().zip(0..) {
        last.push(step, begin + SECOND * at);
    }
    let kept = last.kept(begin + SECOND * 19);
    let run = dir.path().join("run");
    let begin_us = i64::try_from(kept.begin_unix_us().unwrap()).unwrap();
    let about = Manifest { begin_us, ..manifest() };
    let summary = kept.write(&run, about, RecorderLimits::default()).unwrap();
    assert_eq!(summary.steps.steps_recorded, 7);
    assert_eq!(summary.manifest.begin_us, 1_700_000_015_000_000);
    assert!(summary.manifest.end_us.is_some() && summary.manifest.stopped.is_none());
    assert!(kept.write(&run, manifest(), RecorderLimits::default()).is_err(), "it is not written over");

    let mut recording = Recording::open(&run).unwrap();
    // A window of this loop ends as the next round begins, and is part of its step.
    assert_eq!(recording.len(), 8, "the round before, six rounds, and the last window");
    let mut view = |at: usize| recording.view(at).unwrap();
    assert_eq!(view(0).round.number, 14);
    let last = view(7);
    assert_eq!(last.round.number, 20);
    let window = last.observation.value().unwrap();
    let said = observed(20, 3).observation.value().unwrap().clone();
    assert_eq!((window.window, &window.vcpus, &window.trial), (said.window, &said.vcpus, &said.trial));
    assert!(matches!(last.round.matrix, Availability::Available(_)));
}
