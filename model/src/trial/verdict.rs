//! Evaluation of the blocks of a trial.
//!
//! The change is paired by block ([`compare_blocks`]). Testing the data more than once makes a chance finding
//! likelier than 5 %: so the trial is evaluated only at blocks 8, 12, 16, ... and at its last, and each
//! evaluation requires a lower p of the signed-rank test, by Pocock's boundary ("Group sequential methods in
//! the design and analysis of clinical trials", Biometrika 64, 1977), so that all together err in at most 5 %
//! (and half of that towards keeping). Stopping early for futility cannot make a wrong keep likelier.
//!
//! A placement is kept if it is better by at least the required effect (the median of the changes), with an
//! interval that contains no change for the worse, and a p below the boundary.

use super::settings::TrialSettings;
use crate::stats::{Compared, compare_blocks, median};

/// First block at which it is evaluated, and number of blocks between evaluations: below 8 pairs the
/// signed-rank test reaches no boundary.
const FIRST_LOOK: u32 = 8;
const BETWEEN_LOOKS: u32 = 4;

/// Nominal two-sided p of each evaluation for 5 % in total, by their number (Pocock 1977, table 1).
const POCOCK: [f64; 10] = [0.05, 0.0294, 0.0221, 0.0182, 0.0158, 0.0142, 0.0130, 0.0120, 0.0112, 0.0106];

/// What to do with a trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Continue.
    Open,
    /// It is better.
    Keep(Compared),
    /// It is not better, or not enough.
    TakeBack(Compared, String),
    /// It is so much worse that the trial ends at once.
    Abort(f64),
    /// The blocks cannot be compared.
    Unusable(String),
}

/// Evaluates the blocks so far; each is `(before, after)`.
pub(super) fn judge(pairs: &[(f64, f64)], more_is_better: bool, settings: &TrialSettings) -> Verdict {
    let change = |(before, after): &(f64, f64)| {
        let grown = after / before - 1.0;
        if more_is_better { grown } else { -grown }
    };
    if let Some(worse) = crosses_guard(&pairs.iter().map(change).collect::<Vec<_>>(), settings.worse_limit) {
        return Verdict::Abort(worse);
    }
    let blocks = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
    let last = blocks >= settings.blocks;
    if !last && (blocks < FIRST_LOOK || !(blocks - FIRST_LOOK).is_multiple_of(BETWEEN_LOOKS)) {
        return Verdict::Open;
    }
    let compared = match compare_blocks(pairs, more_is_better) {
        Ok(compared) => compared,
        Err(_) if !last => return Verdict::Open,
        Err(error) => return Verdict::Unusable(error.to_string()),
    };
    let asked = settings.least_effect * 100.0;
    let [low, high] = compared.change.ci95.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
    let sure = compared.test.is_some_and(|test| test.p_value <= boundary(settings.blocks));
    if compared.change.median >= settings.least_effect && low > 0.0 && sure {
        Verdict::Keep(compared)
    } else if high < settings.least_effect {
        let reason = format!("at best {:.1} % better, where {asked:.1} % is required", high * 100.0);
        Verdict::TakeBack(compared, reason)
    } else if last {
        let reason = if compared.change.median < settings.least_effect {
            format!("{:.1} % better, where {asked:.1} % is required", compared.change.median * 100.0)
        } else {
            format!("{:.1} % better, but that may be chance", compared.change.median * 100.0)
        };
        Verdict::TakeBack(compared, reason)
    } else {
        Verdict::Open
    }
}

/// Loss beyond the limit: the median of the last three blocks, or one block by twice the limit.
fn crosses_guard(changes: &[f64], limit: f64) -> Option<f64> {
    let last = *changes.last()?;
    if last < -2.0 * limit {
        return Some(last);
    }
    let three = changes.get(changes.len().checked_sub(3)?..)?;
    median(three).filter(|change| *change < -limit)
}

fn boundary(blocks: u32) -> f64 {
    let looks = blocks.saturating_sub(FIRST_LOOK).div_ceil(BETWEEN_LOOKS) as usize;
    POCOCK[looks.min(POCOCK.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pairs: &[(f64, f64)]) -> Verdict {
        judge(pairs, true, &TrialSettings::default())
    }

    fn blocks(n: u32, change: impl Fn(u32) -> f64) -> Vec<(f64, f64)> {
        (0..n).map(|block| (100.0, 100.0 * (1.0 + change(block)))).collect()
    }

    #[test]
    fn a_clear_gain_is_kept_at_the_first_evaluation_and_not_before() {
        let gain = |block| 0.1 + f64::from(block) / 1000.0;
        assert_eq!(judged(&blocks(7, gain)), Verdict::Open);
        assert!(matches!(judged(&blocks(8, gain)), Verdict::Keep(_)));
        // The same numbers are a loss where less is better.
        assert!(matches!(judge(&blocks(8, gain), false, &TrialSettings::default()), Verdict::TakeBack(..)));
    }

    #[test]
    fn equal_placements_are_reverted_before_the_end() {
        let none = |block: u32| if block.is_multiple_of(2) { 0.005 } else { -0.005 };
        assert!(matches!(judged(&blocks(8, none)), Verdict::TakeBack(..)));
    }

    #[test]
    fn a_gain_that_scatters_is_open_until_the_last_block() {
        let scattered = |block: u32| if block.is_multiple_of(2) { 0.2 } else { -0.1 };
        assert_eq!(judged(&blocks(16, scattered)), Verdict::Open);
        let Verdict::TakeBack(compared, reason) = judged(&blocks(20, scattered)) else { panic!("open") };
        assert!(reason.contains("chance"), "{reason}");
        assert_eq!(compared.change.n, 20);
    }

    #[test]
    fn much_worse_ends_it_at_once() {
        assert!(matches!(judged(&blocks(1, |_| -0.7)), Verdict::Abort(_)));
        assert!(matches!(judged(&blocks(3, |_| -0.4)), Verdict::Abort(_)));
        assert_eq!(judged(&blocks(2, |_| -0.4)), Verdict::Open);
    }

    #[test]
    fn looks_are_counted() {
        assert_eq!((boundary(8), boundary(12), boundary(20), boundary(18)), (0.05, 0.0294, 0.0182, 0.0182));
    }
}
