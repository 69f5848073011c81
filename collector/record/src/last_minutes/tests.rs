use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::update::Round;
use huddle_testing::sample::manifest;
use huddle_testing::sample_observed::observed;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A loop with a round and a window each second.
fn steps(rounds: u64) -> Vec<Step> {
    let views: Vec<View> = (1..=rounds).map(|round| observed(round, 3)).collect();
    huddle_testing::sample::steps(&views)
}

fn kept(limits: KeepLimits, steps: &[Step]) -> (LastMinutes, Instant) {
    let begin = Instant::now();
    let mut last = LastMinutes::new(limits);
    for (step, at) in steps.iter().zip(0..) {
        last.push(step, begin + SECOND * at);
    }
    (last, begin + SECOND * (steps.len() as u32 - 1))
}

const ROOMY: u64 = 1 << 30;

#[test]
fn what_is_older_than_the_limit_falls_out_into_the_base() {
    let all = steps(20);
    let (last, now) = kept(KeepLimits { age: SECOND * 5, max_bytes: ROOMY }, &all);
    let kept = last.kept(now);
    assert_eq!((kept.steps.len(), kept.span, kept.is_cut_short), (6, SECOND * 5, false));
    assert_eq!(kept.base.as_ref().map(|base| base.round.number), Some(14));
    // Base and steps together are what the loop said.
    let mut whole = None;
    all.iter().for_each(|step| View::follow(&mut whole, &step[..]));
    let mut folded = kept.base.clone();
    kept.steps.iter().for_each(|step| View::follow(&mut folded, &step[..]));
    assert_eq!(folded, whole);
}

#[test]
fn memory_is_bounded_and_what_fell_out_early_is_said() {
    let all = steps(20);
    let (last, now) = kept(KeepLimits { age: SECOND * 60, max_bytes: ROOMY }, &all);
    let whole = last.kept(now);
    assert!(!whole.is_cut_short && whole.base.is_none());
    let max_bytes = whole.bytes / 2;
    let (last, now) = kept(KeepLimits { age: SECOND * 60, max_bytes }, &all);
    let half = last.kept(now);
    assert!(half.is_cut_short && half.bytes <= max_bytes);
    assert!((5..15).contains(&half.steps.len()), "{}", half.steps.len());
    // What fell out early long ago is not missing any more.
    assert!(!last.kept(now + SECOND * 90).is_cut_short);
    // A step that is too large by itself is kept nevertheless.
    let (last, now) = kept(KeepLimits { age: SECOND * 60, max_bytes: 1 }, &all);
    assert_eq!(last.kept(now).steps.len(), 1);
}

/// Rounds that share what did not change, as those of a loop do: here all but the duration of their measurement.
fn sharing_steps(rounds: u64) -> Vec<Step> {
    let mut before: Option<Arc<Round>> = None;
    let step = |number: u64| -> Step {
        let mut round = Round::clone(&observed(2, 64).round);
        round.number = number;
        let matrix = round.matrix.value().map(|matrix| SharingMatrix::clone(matrix));
        let matrix = matrix.unwrap().measured_in(Some(number as f64));
        round.matrix = Availability::Available(Arc::new(matrix));
        if let Some(before) = &before {
            round = round.sharing_parts_with(before);
        }
        let round = Arc::new(round);
        before = Some(Arc::clone(&round));
        [Update::Round(round)].into()
    };
    (1..=rounds).map(step).collect()
}

#[test]
fn what_rounds_share_counts_once_and_as_long_as_one_of_them_is_kept() {
    let all = sharing_steps(20);
    let roomy = KeepLimits { age: SECOND * 60, max_bytes: ROOMY };
    let alone = |steps: &[Step]| {
        let (last, now) = kept(roomy, steps);
        last.kept(now).bytes
    };
    let (one, two) = (alone(&all[..1]), alone(&all[..2]));
    assert!(two - one < one / 4, "the second round shares the cells of the first: {one}, {two}");
    for limits in [
        KeepLimits { age: SECOND * 5, max_bytes: ROOMY },
        KeepLimits { age: SECOND * 60, max_bytes: one + (two - one) * 4 },
        KeepLimits { age: SECOND * 60, max_bytes: 1 },
    ] {
        let (last, now) = kept(limits, &all);
        let kept = last.kept(now);
        assert!((1..=6).contains(&kept.steps.len()), "{limits:?}: {}", kept.steps.len());
        // The first round, which brought the shared parts, is not among them.
        assert_eq!(kept.bytes, alone(&kept.steps), "{limits:?}: {} steps", kept.steps.len());
    }
    // What no round has any more does not count.
    let changed: Vec<Step> = sharing_steps(3).into_iter().chain(steps(1)).collect();
    let (last, now) = kept(KeepLimits { age: SECOND / 2, max_bytes: ROOMY }, &changed);
    assert_eq!(last.kept(now).bytes, alone(&changed[3..]));
}

#[test]
fn a_disk_that_fails_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (last, now) = kept(KeepLimits { age: SECOND * 5, max_bytes: ROOMY }, &steps(3));
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = last.kept(now).write(&file.join("run"), manifest(), RecorderLimits::default()).unwrap_err();
    assert!(error.to_string().contains("file/run"), "{error}");
}
