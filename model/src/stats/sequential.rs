//! Evidence from paired blocks that may be looked at after every block: a test and an interval that stay valid
//! whenever one stops, whatever the noise.
//!
//! In each block two placements are in effect once, in an order that a fair coin decides. If one of them multiplies
//! the objective by `1 + change`, and the environment does not see the coin, then in each block the remaining
//! log ratio is as likely `+x` as `-x`, given everything before and its own size: that holds by the coin alone, for
//! noise with autocorrelation, periods, drift or heavy tails (Fisher, "The Design of Experiments", 1935, the
//! randomisation test).
//!
//! The evidence (an e-value) is the wealth of a gambler who starts with 1 and bets on the sign before it is known: the
//! product of `1 + STAKE * tanh(factor * x / scale)`, the mean over [`FACTORS`], with the median of all sizes so far
//! as the scale. The bet is odd in `x`, so no bet has a mean other than 0, and by Ville's inequality (1939) the
//! evidence ever reaches `1 / alpha` with a probability of at most `alpha` (Ramdas, Grünwald, Vovk and Shafer,
//! "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38, 2023). `tanh` is the bet that
//! grows fastest for a shift of normal noise.
//!
//! The interval is a confidence sequence: all changes against which the evidence, the mean of both directions, is
//! below 20. It is wider than one for a number of blocks fixed beforehand; that is the price of stopping early.

use serde::{Deserialize, Serialize};

use super::compare::{CannotCompare, Warning, warnings};
use super::{Estimate, median};

/// The largest part of the wealth that is bet: one block against it, however extreme, leaves 5 %.
const STAKE: f64 = 0.95;

/// Sensitivity of the bets to the size of a log ratio: weak ones for effects below the noise, strong ones for those
/// above. Which is right is not known beforehand, so each gets a quarter of the wealth.
const FACTORS: [f64; 4] = [0.25, 0.5, 1.0, 2.0];

/// Evidence against a change beyond which the 95 % interval does not contain it.
const OUTSIDE: f64 = 20.0;

/// Number of changes that are checked for the interval, on either side of the median.
const STEPS: u32 = 200;

/// Evidence that the change is greater than a given one: above `1 / alpha` with a probability of at most `alpha` if it
/// is not, over all blocks together. 1 without blocks.
///
/// `pairs` are `(before, after)` of each block in the order of time; the change is signed so that positive is better:
/// `after / before - 1` where more is better, else `1 - after / before`. Blocks without a ratio (a value that is not
/// finite or not above 0) are not counted.
pub fn evidence_above(pairs: &[(f64, f64)], more_is_better: bool, change: f64) -> f64 {
    evidence(&log_ratios(pairs, more_is_better), log_ratio_of(change, more_is_better), Direction::Above)
}

/// Evidence that the change is less than a given one, as [`evidence_above`].
pub fn evidence_below(pairs: &[(f64, f64)], more_is_better: bool, change: f64) -> f64 {
    evidence(&log_ratios(pairs, more_is_better), log_ratio_of(change, more_is_better), Direction::Below)
}

/// The median of the changes of all blocks, with the 95 % confidence sequence for a change that is the same in all
/// blocks; `None` without blocks. The interval is `None` while values far from all blocks are in it, which is so below
/// 7 blocks and may be so with 7.
pub fn sequential_estimate(pairs: &[(f64, f64)], more_is_better: bool) -> Option<Estimate> {
    let ratios = log_ratios(pairs, more_is_better);
    let middle = median(&ratios)?;
    let changes: Vec<f64> = ratios.iter().map(|ratio| change_of(*ratio, more_is_better)).collect();
    let ends = interval(&ratios, middle);
    let ci95 = ends.map(|ends| ends.map(|end| change_of(end, more_is_better)));
    Some(Estimate { n: ratios.len(), median: median(&changes)?, ci95 })
}

/// Two placements compared by the blocks of a trial, which ended when its result was clear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialCompared {
    /// The values before.
    pub before: Estimate,
    /// The values after.
    pub after: Estimate,
    /// Relative change with its confidence sequence, positive is better, see [`sequential_estimate`].
    pub change: Estimate,
    /// Evidence that `after` is better, see [`evidence_above`].
    pub evidence_better: f64,
    /// Evidence that it is worse.
    pub evidence_worse: f64,
    /// Warnings with remedies.
    pub warnings: Vec<Warning>,
}

impl TrialCompared {
    /// The two-sided p value of no change that the evidence is worth: valid although the trial ended when it did.
    pub fn p_value(&self) -> f64 {
        (1.0 / f64::midpoint(self.evidence_better, self.evidence_worse)).min(1.0)
    }
}

/// Compares two placements over the blocks of a trial whose order was drawn in each block: each pair is the value
/// `(before, after)` of one block, in the order of time.
///
/// # Errors
/// When no block has a value above 0 for both.
pub fn compare_trial(pairs: &[(f64, f64)], more_is_better: bool) -> Result<TrialCompared, CannotCompare> {
    let is_usable = |(before, after): &(f64, f64)| (after / before).ln().is_finite() && *before > 0.0;
    let used: Vec<(f64, f64)> = pairs.iter().copied().filter(is_usable).collect();
    let left_out = pairs.len() - used.len();
    let none = || CannotCompare::NoPair { left_out };
    let (before, after): (Vec<f64>, Vec<f64>) = used.iter().copied().unzip();
    Ok(TrialCompared {
        before: Estimate::of_median(&before).ok_or_else(none)?,
        after: Estimate::of_median(&after).ok_or_else(none)?,
        change: sequential_estimate(&used, more_is_better).ok_or_else(none)?,
        evidence_better: evidence_above(&used, more_is_better, 0.0),
        evidence_worse: evidence_below(&used, more_is_better, 0.0),
        warnings: warnings(&before, &after, used.len(), left_out),
    })
}

#[derive(Clone, Copy)]
enum Direction {
    Above,
    Below,
}

/// Of "better by": positive where `after` is better.
fn log_ratios(pairs: &[(f64, f64)], more_is_better: bool) -> Vec<f64> {
    let ratio = |(before, after): &(f64, f64)| {
        let ratio = (after / before).ln();
        (*before > 0.0 && *after > 0.0 && ratio.is_finite()).then_some(if more_is_better {
            ratio
        } else {
            -ratio
        })
    };
    pairs.iter().filter_map(ratio).collect()
}

fn log_ratio_of(change: f64, more_is_better: bool) -> f64 {
    if more_is_better { change.ln_1p() } else { -(-change).ln_1p() }
}

fn change_of(log_ratio: f64, more_is_better: bool) -> f64 {
    if more_is_better { log_ratio.exp_m1() } else { -(-log_ratio).exp_m1() }
}

/// The wealth after bets that the log ratios are above, or below, `center`.
fn evidence(ratios: &[f64], center: f64, direction: Direction) -> f64 {
    let mut wealth = [1.0; FACTORS.len()];
    let mut sizes: Vec<f64> = Vec::with_capacity(ratios.len());
    for ratio in ratios {
        let beyond = match direction {
            Direction::Above => ratio - center,
            Direction::Below => center - ratio,
        };
        // In order, so that the median of all sizes so far is at hand.
        let at = sizes.partition_point(|size| *size < beyond.abs());
        sizes.insert(at, beyond.abs());
        let half = sizes.len() / 2;
        let scale = if sizes.len().is_multiple_of(2) {
            f64::midpoint(sizes[half - 1], sizes[half])
        } else {
            sizes[half]
        };
        // If most blocks have no difference at all, one that has counts as a large one.
        let relative = if beyond == 0.0 { 0.0 } else { beyond / scale };
        for (wealth, factor) in wealth.iter_mut().zip(FACTORS) {
            *wealth *= 1.0 + STAKE * (factor * relative).tanh();
        }
    }
    wealth.iter().sum::<f64>() / FACTORS.len() as f64
}

/// The ends of the 95 % confidence sequence; `None` while values far from all ratios are in it.
fn interval(ratios: &[f64], middle: f64) -> Option<[f64; 2]> {
    let is_outside = |center: f64| {
        let above = evidence(ratios, center, Direction::Above);
        let below = evidence(ratios, center, Direction::Below);
        f64::midpoint(above, below) >= OUTSIDE
    };
    let reach = ratios.iter().map(|ratio| (ratio - middle).abs()).fold(0.0, f64::max);
    // All ratios are equal, so nothing is known of the noise.
    if reach == 0.0 {
        return is_outside(middle + 1.0).then_some([middle, middle]);
    }
    let end = |direction: f64| {
        // From far outside of all ratios inwards: what is outside need not be all that is beyond a value.
        let step = 3.0 * reach / f64::from(STEPS) * direction;
        let at = |steps: u32| middle + f64::from(steps) * step;
        if !is_outside(at(STEPS)) {
            return None;
        }
        let first_inside = (0..STEPS).rev().find(|steps| !is_outside(at(*steps))).unwrap_or(0);
        // To a thousandth of a step.
        let (mut inside, mut outside) = (at(first_inside), at(first_inside + 1));
        for _ in 0..10 {
            let half = f64::midpoint(inside, outside);
            if is_outside(half) { outside = half } else { inside = half }
        }
        Some(outside)
    };
    Some([end(-1.0)?, end(1.0)?])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn pairs(changes: &[f64]) -> Vec<(f64, f64)> {
        changes.iter().map(|change| (100.0, 100.0 * (1.0 + change))).collect()
    }

    proptest! {
        #[test]
        fn eight_blocks_have_an_interval(changes in prop::collection::vec(-0.9..9.0f64, 8..12)) {
            prop_assert!(sequential_estimate(&pairs(&changes), true).unwrap().ci95.is_some());
        }

        /// Over all outcomes of the coins the evidence is 1 on average: no strategy of stopping gains by it.
        #[test]
        fn the_evidence_is_a_fair_game(sizes in prop::collection::vec(0.0..1e3f64, 1..9)) {
            let blocks = sizes.len();
            for direction in [Direction::Above, Direction::Below] {
                let total: f64 = (0..1_u32 << blocks)
                    .map(|coins| {
                        let sign = |(at, size): (usize, &f64)| if coins >> at & 1 == 1 { *size } else { -size };
                        let ratios: Vec<f64> = sizes.iter().enumerate().map(sign).collect();
                        evidence(&ratios, 0.0, direction)
                    })
                    .sum();
                prop_assert!((total / f64::from(1_u32 << blocks) - 1.0).abs() < 1e-9);
            }
        }

        #[test]
        fn the_interval_contains_the_median_and_turns_with_the_direction(
            changes in prop::collection::vec(-0.5..0.9f64, 1..30),
        ) {
            let more = sequential_estimate(&pairs(&changes), true).unwrap();
            let less: Vec<(f64, f64)> = pairs(&changes).iter().map(|(before, after)| (1.0 / before, 1.0 / after)).collect();
            let less = sequential_estimate(&less, false).unwrap();
            if let (Some([low, high]), Some([low_less, high_less])) = (more.ci95, less.ci95) {
                prop_assert!(low <= more.median + 1e-9 && more.median <= high + 1e-9);
                // `1 - 1 / (1 + x)` for the reciprocal.
                let turned = |change: f64| change / (1.0 + change);
                prop_assert!((turned(low) - low_less).abs() < 1e-9 && (turned(high) - high_less).abs() < 1e-9);
            }
            prop_assert_eq!(more.ci95.is_some(), less.ci95.is_some());
        }
    }

    #[test]
    fn equal_blocks_on_one_side_are_evidence_after_a_few() {
        let gains = [0.1, 0.11, 0.09, 0.1, 0.12, 0.1, 0.11, 0.1];
        assert!(evidence_above(&pairs(&gains[..5]), true, 0.0) < 40.0, "2^5 is less");
        assert!(evidence_above(&pairs(&gains), true, 0.0) > 40.0);
        assert!(evidence_above(&pairs(&gains), true, 0.1) < 5.0, "not of more than is there");
        assert!(evidence_below(&pairs(&gains), true, 0.0) < 0.1);
        assert!(evidence_below(&pairs(&gains), false, 0.0) > 40.0, "a loss where less is better");
        assert!((evidence_above(&[], true, 0.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn blocks_without_a_ratio_are_not_counted() {
        let mut with = pairs(&[0.1, 0.2, 0.15]);
        let without = evidence_above(&with, true, 0.0);
        with.extend([(0.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (-1.0, 1.0)]);
        assert!((evidence_above(&with, true, 0.0) - without).abs() < 1e-12);
        assert_eq!(sequential_estimate(&with, true).unwrap().n, 3);
        assert_eq!(sequential_estimate(&[(0.0, 1.0)], true), None);
    }

    #[test]
    fn a_trial_that_is_compared_later_has_the_evidence_of_the_loop() {
        let pairs = pairs(&[0.1, 0.11, 0.09, 0.1, 0.12, 0.1, 0.11, 0.1]);
        let compared = compare_trial(&pairs, true).unwrap();
        assert_eq!(Some(compared.change), sequential_estimate(&pairs, true));
        assert!((compared.evidence_better - evidence_above(&pairs, true, 0.0)).abs() < 1e-12);
        assert!(compared.p_value() < 0.05 && compared.p_value() > 1.0 / compared.evidence_better);
        let turned = compare_trial(&pairs, false).unwrap();
        assert!((turned.evidence_worse - compared.evidence_better).abs() < 1e-9);
        assert!(matches!(compare_trial(&[(0.0, 1.0)], true), Err(CannotCompare::NoPair { left_out: 1 })));
    }

    #[test]
    fn few_blocks_have_no_interval_and_equal_ones_a_point() {
        assert_eq!(sequential_estimate(&pairs(&[0.1, 0.12, 0.11]), true).unwrap().ci95, None);
        // Nearly equal blocks: a far value is equally far from each, and bets on 6 or 7 of them cannot win enough.
        let near =
            |blocks: u32| (0..blocks).map(|block| 0.1 + f64::from(block % 2) / 1e3).collect::<Vec<_>>();
        assert_eq!(sequential_estimate(&pairs(&near(7)), true).unwrap().ci95, None);
        assert!(sequential_estimate(&pairs(&near(8)), true).unwrap().ci95.is_some());
        let same = sequential_estimate(&pairs(&[0.1; 12]), true).unwrap();
        assert!(same.ci95.unwrap().iter().all(|end| (end - 0.1).abs() < 1e-9));
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        before: Vec<f64>,
        after: Vec<f64>,
        evidence_above_0: f64,
        evidence_below_3_percent: f64,
        interval: Option<[f64; 2]>,
        /// Step of the grid with which the interval was found, as a log ratio.
        grid: f64,
    }

    /// The figures of `analysis/python/checks/trials.py`.
    #[test]
    fn an_independent_implementation_gets_the_same() {
        let all: Vec<Golden> = serde_json::from_str(include_str!("golden_trials.json")).unwrap();
        assert!(all.len() >= 5);
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-9;
        for one in all {
            let pairs: Vec<_> = one.before.iter().copied().zip(one.after.iter().copied()).collect();
            assert!(near(evidence_above(&pairs, true, 0.0), one.evidence_above_0));
            assert!(near(evidence_below(&pairs, true, 0.03), one.evidence_below_3_percent));
            let estimate = sequential_estimate(&pairs, true).unwrap();
            assert_eq!(estimate.ci95.is_some(), one.interval.is_some());
            for (found, expected) in estimate.ci95.iter().flatten().zip(one.interval.iter().flatten()) {
                assert!((found - expected).abs() <= 3.0 * one.grid, "{found} {expected}");
            }
        }
    }

    /// A period of two blocks that a fixed order would take for an effect.
    #[test]
    fn stopping_whenever_it_looks_good_keeps_the_promise() {
        let mut rng = Rng::new(24);
        let (hosts, blocks) = (2000, 40);
        let (mut fooled, mut missed) = (0, 0);
        for _ in 0..hosts {
            let mut changes = Vec::new();
            let (mut is_fooled, mut is_missed) = (false, false);
            for block in 0..blocks {
                let environment = 0.2 * f64::from(block % 2) + 0.01 * (rng.below(100) as f64 / 100.0);
                let coin = if rng.next_u64() & 1 == 1 { 1.0 } else { -1.0 };
                changes.push((coin * environment).exp_m1());
                is_fooled |= evidence_above(&pairs(&changes), true, 0.0) >= 20.0;
                let both = [
                    evidence_above(&pairs(&changes), true, 0.0),
                    evidence_below(&pairs(&changes), true, 0.0),
                ];
                is_missed |= f64::midpoint(both[0], both[1]) >= OUTSIDE;
            }
            fooled += u32::from(is_fooled);
            missed += u32::from(is_missed);
        }
        // The promise is 5 % each: 100, and 29 more are three standard deviations.
        assert!(fooled <= 129 && missed <= 129, "{fooled} and {missed} of {hosts}");
        assert!(fooled > 0, "a test that could not fail");
    }
}
