//! Evaluation of the blocks of a trial, after each block.
//!
//! A placement is kept if the evidence that it is better at all ([`evidence_above`] no change) has reached what the
//! error budget of the host asks for ([`ErrorBudget`](super::ErrorBudget)), and the median of the changes is at least
//! the required effect. Evidence may be looked at after every block, so a trial ends as soon as it is there.
//!
//! It is reverted as soon as the required effect is outside of the 95 % interval, and after its number of blocks: then
//! it goes on, up to the maximum, only while the median is at least the required effect. Ending without keeping makes
//! a wrong keep no likelier.

use super::settings::TrialSettings;
use crate::stats::{Estimate, evidence_above, evidence_below, median, sequential_estimate};

/// Evidence against the required effect at which a trial ends: where its 95 % interval ends.
const EVIDENCE_AGAINST: f64 = 40.0;

/// What to do with a trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Continue.
    Open,
    /// It is better.
    Keep(Estimate),
    /// It is not better, or not enough.
    Revert(Estimate, String),
    /// It is so much worse that the trial ends at once.
    Abort(f64),
    /// The blocks cannot be compared.
    Unusable(String),
}

/// Evaluates the blocks so far; each is `(before, after)`. `required` is the evidence that is required to keep it;
/// `is_last` tells that there can be no further block.
pub(super) fn judge(
    pairs: &[(f64, f64)],
    more_is_better: bool,
    settings: &TrialSettings,
    required: f64,
    is_last: bool,
) -> Verdict {
    let change = |(before, after): &(f64, f64)| {
        let grown = after / before - 1.0;
        if more_is_better { grown } else { -grown }
    };
    let changes: Vec<f64> = pairs.iter().map(change).filter(|change| change.is_finite()).collect();
    if let Some(worse) = exceeds_limit(&changes, settings.worse_limit) {
        return Verdict::Abort(worse);
    }
    let blocks = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
    let least = settings.least_effect;
    let is_large = median(&changes).is_some_and(|median| median >= least);
    let is_sure = evidence_above(pairs, more_is_better, 0.0) >= required;
    let is_too_little = evidence_below(pairs, more_is_better, least) >= EVIDENCE_AGAINST;
    let has_ended = is_last || blocks >= settings.max_blocks || blocks >= settings.blocks && !is_large;
    if !(is_large && is_sure || is_too_little || has_ended) {
        return Verdict::Open;
    }
    let Some(estimate) = sequential_estimate(pairs, more_is_better) else {
        return Verdict::Unusable("no block has a value above 0 for both placements".to_owned());
    };
    let asked = least * 100.0;
    if is_large && is_sure {
        return Verdict::Keep(estimate);
    }
    let seen = match estimate.median * 100.0 {
        worse if worse < 0.0 => format!("{:.1} % worse", -worse),
        better => format!("{better:.1} % better"),
    };
    let reason = if is_large {
        format!("{seen}, but that may be chance")
    } else {
        format!("{seen}, where {asked:.1} % better is required")
    };
    Verdict::Revert(estimate, reason)
}

/// Loss beyond the limit: the median of the last three blocks, or one block by twice the limit.
fn exceeds_limit(changes: &[f64], limit: f64) -> Option<f64> {
    let last = *changes.last()?;
    if last < -2.0 * limit {
        return Some(last);
    }
    let three = changes.get(changes.len().checked_sub(3)?..)?;
    median(three).filter(|change| *change < -limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first trial of a day needs by default.
    const REQUIRED: f64 = 40.0;

    fn judged(pairs: &[(f64, f64)]) -> Verdict {
        judge(pairs, true, &TrialSettings::default(), REQUIRED, false)
    }

    fn blocks(n: u32, change: impl Fn(u32) -> f64) -> Vec<(f64, f64)> {
        (0..n).map(|block| (100.0, 100.0 * (1.0 + change(block)))).collect()
    }

    #[test]
    fn a_clear_gain_is_kept_as_soon_as_the_evidence_is_there() {
        let gain = |block| 0.1 + f64::from(block) / 1000.0;
        assert_eq!(judged(&blocks(6, gain)), Verdict::Open);
        assert!(matches!(judged(&blocks(9, gain)), Verdict::Keep(_)));
        // Later trials of a day need more.
        assert_eq!(judge(&blocks(9, gain), true, &TrialSettings::default(), 2000.0, false), Verdict::Open);
        // The same numbers are a loss where less is better.
        assert!(matches!(
            judge(&blocks(9, gain), false, &TrialSettings::default(), REQUIRED, false),
            Verdict::Revert(..)
        ));
    }

    #[test]
    fn equal_placements_are_reverted_before_the_end() {
        let none = |block: u32| if block.is_multiple_of(2) { 0.005 } else { -0.005 };
        assert!(matches!(judged(&blocks(12, none)), Verdict::Revert(..)));
    }

    #[test]
    fn a_sure_gain_below_the_required_effect_is_reverted() {
        let Verdict::Revert(change, reason) = judged(&blocks(12, |block| 0.01 + f64::from(block % 3) / 1e4))
        else {
            panic!("kept or open")
        };
        assert!(change.ci95.unwrap()[1] < 0.03 && reason.contains("3.0 % better is required"), "{reason}");
    }

    /// Beyond its blocks a trial goes on only while it may still be kept.
    #[test]
    fn a_gain_that_scatters_has_the_maximum_of_blocks() {
        let scattered = |block: u32| if block.is_multiple_of(2) { 0.2 } else { -0.1 };
        let settings = TrialSettings::default();
        assert_eq!(judged(&blocks(settings.blocks, scattered)), Verdict::Open);
        let Verdict::Revert(change, reason) = judged(&blocks(settings.max_blocks, scattered)) else {
            panic!("open")
        };
        assert!(reason.contains("chance"), "{reason}");
        assert_eq!(change.n, settings.max_blocks as usize);
        let worse = |block: u32| if block.is_multiple_of(2) { 0.1 } else { -0.12 };
        assert!(matches!(judged(&blocks(settings.blocks, worse)), Verdict::Revert(..)));
        assert!(matches!(judge(&blocks(9, scattered), true, &settings, REQUIRED, true), Verdict::Revert(..)));
    }

    #[test]
    fn much_worse_ends_it_at_once() {
        assert!(matches!(judged(&blocks(1, |_| -0.7)), Verdict::Abort(_)));
        assert!(matches!(judged(&blocks(3, |_| -0.4)), Verdict::Abort(_)));
        assert_eq!(judged(&blocks(2, |_| -0.4)), Verdict::Open);
    }
}
