//! Medians, paired ratios and their intervals, rank tests, drift, and the comparison of two
//! placements ([`compare_blocks`]). Pure: equal input and seed, equal output.
//!
//! Every figure is tested against SciPy's on the same data (`golden.json`, made by
//! `analysis/python/golden_stats.py`).
//!
//! The interval of a median is the exact one of order statistics (Thompson 1936; Conover, "Practical
//! Nonparametric Statistics", 3.2): it holds the true median in at least 95 of 100 cases whatever the
//! values are like. The percentile bootstrap, which is common for this, does so in 87 of 100 with 7 values,
//! 93 with 16 and 94 with 30. Ratios are taken within a block, where both arms met the same disturbance.

mod blocks;
mod compare;
mod distribution;
#[cfg(test)]
mod golden;
mod rank;
mod trend;

use serde::{Deserialize, Serialize};

pub use blocks::{BlockSums, Part, SampleFlags};
pub use compare::{CannotCompare, Compared, Side, Warning, compare_blocks, compare_samples};
pub use distribution::{Distribution, Figure};
pub use rank::{EXACT_UP_TO, RankTest, mann_whitney, signed_rank};
pub use trend::{LEAST_FOR_TREND, OUTLIER_SCORE, Trend, outliers, relative_drift, trend};

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
    pub fn of_median(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        Some(Self { n: values.len(), median, ci95: interval(values) })
    }

    /// The median of `numerator / denominator` over pairs; `None` when there are none or a
    /// denominator is 0.
    pub fn of_paired_ratio(pairs: &[(f64, f64)]) -> Option<Self> {
        let ratios: Vec<f64> = pairs.iter().map(|(numerator, denominator)| numerator / denominator).collect();
        Self::of_median(&ratios)
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

/// From the k-th least to the k-th greatest value, with the greatest k for which fewer than k of n values
/// lie on one side of the median in at most 2.5 of 100 cases: binomial, as each does with probability 1/2.
fn interval(values: &[f64]) -> Option<[f64; 2]> {
    let n = values.len();
    if n < LEAST_VALUES {
        return None;
    }
    // Logarithms, since 2^-n is no number any more from n = 1075 on.
    let mut ln_probability = -(n as f64) * std::f64::consts::LN_2;
    let (mut fewer, mut k) = (0.0, 0);
    loop {
        fewer += ln_probability.exp();
        if fewer > 0.025 {
            break;
        }
        ln_probability += ((n - k) as f64 / (k + 1) as f64).ln();
        k += 1;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // With six values or more the first sum is at most 2^-6, so k is at least 1.
    Some([*sorted.get(k.checked_sub(1)?)?, *sorted.get(n - k)?])
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
    fn the_interval_has_the_ranks_of_the_tables() {
        // Ranks as in the tables of the sign test's interval.
        for (n, low, high) in [(6, 1, 6), (8, 1, 8), (9, 2, 8), (15, 4, 12), (30, 10, 21), (5000, 2431, 2570)]
        {
            // In no order.
            let values: Vec<f64> = (0..n).map(|i| f64::from((i * 7 + 3) % n + 1)).collect();
            assert_eq!(interval(&values), Some([f64::from(low), f64::from(high)]), "{n}");
        }
    }

    #[test]
    fn ratios_are_taken_within_blocks() {
        // A drift that both arms of a block meet leaves the ratio alone.
        let pairs: Vec<(f64, f64)> =
            (1..=9).map(|block| (2.0 * f64::from(block), f64::from(block))).collect();
        let ratio = Estimate::of_paired_ratio(&pairs).unwrap();
        assert_eq!((ratio.n, ratio.median, ratio.ci95), (9, 2.0, Some([2.0, 2.0])));
        assert_eq!(Estimate::of_paired_ratio(&[(1.0, 0.0)]), None);
        assert_eq!(Estimate::of_paired_ratio(&[]), None);
    }

    #[test]
    fn few_values_have_no_interval() {
        let five = Estimate::of_median(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!((five.median, five.ci95), (3.0, None));
        assert!(Estimate::of_median(&[1.0; 6]).unwrap().ci95.is_some());
    }

    #[test]
    fn the_interval_covers_the_true_median_at_least_as_often_as_it_says() {
        let mut rng = crate::rng::Rng::new(2);
        for n in [7, 16, 30] {
            let runs = 4000;
            let covered = (0..runs)
                .filter(|_| {
                    // Uniform over 0 to 1, so the true median is 0.5.
                    let values: Vec<f64> = (0..n).map(|_| rng.next_u64() as f64 / u64::MAX as f64).collect();
                    let [low, high] = interval(&values).unwrap();
                    low <= 0.5 && 0.5 <= high
                })
                .count();
            // 95 % less three standard errors.
            assert!(covered * 100 >= runs * 94, "{covered} of {runs} intervals of {n} held the true median");
        }
    }
}
