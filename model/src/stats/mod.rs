//! Medians, paired ratios and their bootstrap intervals, rank tests, drift, and the comparison of two
//! placements ([`compare_blocks`]). Pure: equal input and seed, equal output.
//!
//! Every figure is tested against SciPy's on the same data (`golden.json`, made by
//! `analysis/python/golden_stats.py`).
//!
//! The interval is the percentile bootstrap (Efron 1979) of the median: as many values as there are
//! drawn with replacement, the median taken, [`RESAMPLES`] times; the interval lies between the 2.5th
//! and the 97.5th percentile. Ratios are taken within a block, where both arms met the same
//! disturbance, and the blocks are what is drawn.

mod blocks;
mod compare;
#[cfg(test)]
mod golden;
mod rank;
mod trend;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

pub use blocks::{BlockSums, Part, SampleFlags};
pub use compare::{CannotCompare, Compared, Side, Warning, compare_blocks, compare_samples};
pub use rank::{EXACT_UP_TO, RankTest, mann_whitney, signed_rank};
pub use trend::{LEAST_FOR_TREND, OUTLIER_SCORE, Trend, outliers, trend};

/// How many times the values are drawn anew.
pub const RESAMPLES: usize = 4000;

/// Fewest values from which an interval is given: even the range from the least to the greatest of
/// five values misses the median in more than 5 of 100 cases (2 / 2^5).
pub const LEAST_VALUES: usize = 6;

/// A median with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// How many values it is of.
    pub n: usize,
    /// The median, in the unit of the values.
    pub median: f64,
    /// Lower and upper end of the 95 % interval; `None` below [`LEAST_VALUES`] values.
    pub ci95: Option<[f64; 2]>,
}

impl Estimate {
    /// The median of `values` with its interval; `None` when there are none or one is not finite.
    pub fn of_median(values: &[f64], seed: u64) -> Option<Self> {
        let median = median(values)?;
        Some(Self { n: values.len(), median, ci95: interval(values, seed) })
    }

    /// The median of `numerator / denominator` over pairs; `None` when there are none or a
    /// denominator is 0.
    pub fn of_paired_ratio(pairs: &[(f64, f64)], seed: u64) -> Option<Self> {
        let ratios: Vec<f64> = pairs.iter().map(|(numerator, denominator)| numerator / denominator).collect();
        Self::of_median(&ratios, seed)
    }
}

/// The middle value, or the mean of the two middle ones; `None` when there are no values or one is not
/// finite.
pub fn median(values: &[f64]) -> Option<f64> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))
}

/// The quantiles `at` (each 0 to 1) of `values`, with linear interpolation between neighbours (NumPy's
/// default, type 7 of Hyndman and Fan 1996); `None` when there are no values or one is not finite.
pub fn quantiles(values: &[f64], at: &[f64]) -> Option<Vec<f64>> {
    if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(at.iter().map(|q| quantile(&sorted, q.clamp(0.0, 1.0))).collect())
}

fn interval(values: &[f64], seed: u64) -> Option<[f64; 2]> {
    if values.len() < LEAST_VALUES {
        return None;
    }
    let mut rng = Rng::new(seed);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<f64> = (0..values.len()).map(|_| values[rng.below(values.len())]).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Some([quantile(&medians, 0.025), quantile(&medians, 0.975)])
}

/// The quantile `q` (0 to 1) of `sorted`, which is not empty, with linear interpolation.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_known_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn quantiles_of_known_values() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.025), 2.5);
        assert_eq!(quantile(&sorted, 0.975), 97.5);
        assert_eq!(quantile(&[7.0], 0.975), 7.0);
    }

    #[test]
    fn the_interval_of_seven_values_is_the_exact_one() {
        // The bootstrap distribution of the median of n distinct values is known: with odd n = 2m + 1
        // the median is at most the k-th value when at least m + 1 draws are. For n = 7 that gives
        // P(<= 1st) = 0.010, P(<= 2nd) = 0.108: the 2.5th percentile is the 2nd value, and the 6th
        // is its mirror.
        let values = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0];
        for seed in 0..20 {
            assert_eq!(Estimate::of_median(&values, seed).unwrap().ci95, Some([20.0, 60.0]));
        }
    }

    #[test]
    fn ratios_are_taken_within_blocks() {
        // A drift that both arms of a block meet leaves the ratio alone.
        let pairs: Vec<(f64, f64)> =
            (1..=9).map(|block| (2.0 * f64::from(block), f64::from(block))).collect();
        let ratio = Estimate::of_paired_ratio(&pairs, 1).unwrap();
        assert_eq!((ratio.n, ratio.median, ratio.ci95), (9, 2.0, Some([2.0, 2.0])));
        assert_eq!(Estimate::of_paired_ratio(&[(1.0, 0.0)], 1), None);
        assert_eq!(Estimate::of_paired_ratio(&[], 1), None);
    }

    #[test]
    fn few_values_have_no_interval() {
        let five = Estimate::of_median(&[1.0, 2.0, 3.0, 4.0, 5.0], 1).unwrap();
        assert_eq!((five.median, five.ci95), (3.0, None));
        assert!(Estimate::of_median(&[1.0; 6], 1).unwrap().ci95.is_some());
    }

    #[test]
    fn equal_seeds_give_equal_intervals_that_hold_the_median() {
        let values: Vec<f64> = (0..16).map(|i| f64::from(i * i % 13)).collect();
        let estimate = Estimate::of_median(&values, 5).unwrap();
        assert_eq!(Some(estimate), Estimate::of_median(&values, 5));
        let [low, high] = estimate.ci95.unwrap();
        assert!(low <= estimate.median && estimate.median <= high && low < high);
    }

    #[test]
    fn the_interval_covers_the_true_median_about_as_often_as_it_says() {
        let mut rng = Rng::new(2);
        let runs = 300;
        let covered = (0..runs)
            .filter(|run| {
                // Uniform over 0 to 1, so the true median is 0.5.
                let values: Vec<f64> = (0..16).map(|_| rng.next_u64() as f64 / u64::MAX as f64).collect();
                let [low, high] = Estimate::of_median(&values, *run).unwrap().ci95.unwrap();
                low <= 0.5 && 0.5 <= high
            })
            .count();
        assert!((270..=298).contains(&covered), "{covered} of {runs} intervals held the true median");
    }
}
