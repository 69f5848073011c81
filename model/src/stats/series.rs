//! Comparison of two series of values that depend on their neighbours in time: the spans of two recordings, the rounds of
//! two policies. They have no partners, and tests that take each value for an independent one find a difference where
//! there is none (12 to 68 of 100 pairs of series without one).
//!
//! What is compared is the ratio of the medians. Its error comes from the block bootstrap: each series is drawn anew from
//! stretches of consecutive values, so that dependence within a stretch is kept (Künsch 1989; circular, so that every
//! value is drawn equally often: Politis and Romano 1992). The length that is best for a standard error
//! ([`block_length`]: Politis and White 2004, corrected by Patton, Politis and White 2009) is too short for a test, whose
//! error by dependence left out weighs more than that by few stretches (Sun, Phillips and Jin 2008), so stretches are
//! [`STRETCH`] times as long. From n values in stretches of b the variance is too small by about `1 - b / n`, which is
//! corrected. The logarithm of the ratio divided by its standard error is compared with Student's t, with the degrees of
//! freedom of Welch (1947), where a series has as many as whole stretches less one.
//!
//! Where a series has fewer than [`LEAST_STRETCHES`] whole stretches there is neither an interval nor a p value. The tests
//! simulate how often a difference is found where there is none, and how often the interval holds the truth.

use serde::{Deserialize, Serialize};

use super::student::{t_quantile_975, two_sided_t};
use super::{Estimate, MIN_VALUES, mann_whitney, median};
use crate::rng::Rng;

/// Number of bootstrap samples of each series: the standard error then has an error of its own of 4 %.
const RESAMPLES: usize = 400;

/// How many times the length for a standard error a stretch has.
const STRETCH: f64 = 3.0;

/// Fewest whole stretches of a series for an interval.
pub const LEAST_STRETCHES: usize = 5;

/// Two series compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesCompared {
    /// Number of values and median before. It has no interval of its own.
    pub before: Estimate,
    /// Number of values and median after.
    pub after: Estimate,
    /// Relative change of the medians, positive is better; its interval is `None` for too few stretches.
    pub change: Estimate,
    /// Two-sided p value of no change of the medians; `None` like the interval.
    pub p_value: Option<f64>,
    /// Cliff's delta, -1 to 1: how much more often a value after is greater than one before than it is less.
    pub effect_size: f64,
    /// Values of one stretch, before and after.
    pub stretch: [usize; 2],
    /// Values that were left out: not finite, or not above 0, of which there is no ratio.
    pub left_out: usize,
}

impl SeriesCompared {
    /// The effect size with the sign that makes positive better.
    pub fn effect_size(&self, more_is_better: bool) -> f64 {
        if more_is_better { self.effect_size } else { -self.effect_size }
    }

    /// The fewer whole stretches of the two series.
    pub fn stretches(&self) -> usize {
        let [before, after] = self.stretch;
        (self.before.n / before.max(1)).min(self.after.n / after.max(1))
    }
}

/// Compares two series, each in the order of time. Values that are not finite or not above 0 are left out. Equal seeds give
/// equal intervals. `None` when no value is left of one.
pub fn compare_series(
    before: &[f64],
    after: &[f64],
    more_is_better: bool,
    seed: u64,
) -> Option<SeriesCompared> {
    let usable = |values: &[f64]| -> Vec<f64> {
        values.iter().copied().filter(|value| value.is_finite() && *value > 0.0).collect()
    };
    let given = before.len() + after.len();
    let (before, after) = (usable(before), usable(after));
    let left_out = given - before.len() - after.len();
    let of = |values: &[f64]| Some(Estimate { n: values.len(), median: median(values)?, ci95: None });
    let (middle_before, middle_after) = (of(&before)?, of(&after)?);
    let ratio = middle_after.median / middle_before.median;
    let mut rng = Rng::new(seed);
    let sides = [&before, &after].map(|values| Side::of(values, &mut rng));
    let test = Test::of(&sides, ratio.ln());
    let relative = |ratio: f64| if more_is_better { ratio - 1.0 } else { 1.0 - ratio };
    let ci95 = test.as_ref().map(|test| {
        let ends = [-test.reach, test.reach].map(|reach| relative((ratio.ln() + reach).exp()));
        [ends[0].min(ends[1]), ends[0].max(ends[1])]
    });
    Some(SeriesCompared {
        before: middle_before,
        after: middle_after,
        change: Estimate { n: before.len().min(after.len()), median: relative(ratio), ci95 },
        p_value: test.map(|test| test.p_value),
        // Its p value would take each value for an independent one.
        effect_size: mann_whitney(&before, &after)?.effect_size,
        stretch: sides.map(|side| side.stretch),
        left_out,
    })
}

/// What the bootstrap says of one series.
struct Side {
    /// Values of a stretch.
    stretch: usize,
    /// Whole stretches.
    stretches: usize,
    /// Variance of the logarithm of the median.
    variance: f64,
}

impl Side {
    fn of(values: &[f64], rng: &mut Rng) -> Self {
        let n = values.len();
        let logarithms: Vec<f64> = values.iter().map(|value| value.ln()).collect();
        let stretch = ((STRETCH * block_length(&logarithms)).ceil() as usize).clamp(1, n.max(1));
        let stretches = n / stretch;
        let mut side = Self { stretch, stretches, variance: 0.0 };
        if stretches >= LEAST_STRETCHES && n >= MIN_VALUES {
            let medians: Vec<f64> = (0..RESAMPLES).map(|_| drawn_median(&logarithms, stretch, rng)).collect();
            let mean = medians.iter().sum::<f64>() / RESAMPLES as f64;
            let squares: f64 = medians.iter().map(|found| (found - mean).powi(2)).sum();
            side.variance = squares / (RESAMPLES - 1) as f64 * n as f64 / (n - stretch) as f64;
        }
        side
    }

    fn degrees(&self) -> f64 {
        (self.stretches - 1) as f64
    }
}

/// The median of as many values, drawn as stretches that go on at the beginning after the end.
fn drawn_median(values: &[f64], stretch: usize, rng: &mut Rng) -> f64 {
    let n = values.len();
    let mut drawn = Vec::with_capacity(n + stretch);
    while drawn.len() < n {
        let begin = rng.below(n);
        drawn.extend((begin..begin + stretch).map(|at| values[at % n]));
    }
    drawn.truncate(n);
    let (_, middle, _) = drawn.select_nth_unstable_by(n / 2, f64::total_cmp);
    let middle = *middle;
    if n % 2 == 1 {
        return middle;
    }
    let below = drawn[..n / 2].iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (below + middle) / 2.0
}

struct Test {
    /// Half of the interval of the logarithm of the ratio.
    reach: f64,
    p_value: f64,
}

impl Test {
    /// `None` for too few stretches, or where a series does not vary.
    fn of(sides: &[Side; 2], logarithm: f64) -> Option<Self> {
        let is_enough = |side: &Side| side.stretches >= LEAST_STRETCHES && side.variance > 0.0;
        if !sides.iter().all(is_enough) {
            return None;
        }
        let variance: f64 = sides.iter().map(|side| side.variance).sum();
        let parts: f64 = sides.iter().map(|side| side.variance.powi(2) / side.degrees()).sum();
        let degrees = variance.powi(2) / parts;
        let error = variance.sqrt();
        Some(Self {
            reach: t_quantile_975(degrees) * error,
            p_value: two_sided_t(logarithm / error, degrees),
        })
    }
}

/// The length of stretches with which the circular block bootstrap has the least error of the variance of a mean, by
/// Politis and White (2004) with the correction of Patton, Politis and White (2009): 1 for independent values.
pub fn block_length(values: &[f64]) -> f64 {
    let n = values.len();
    if n < MIN_VALUES {
        return 1.0;
    }
    let count = n as f64;
    let mean = values.iter().sum::<f64>() / count;
    let steady = 5.max(count.log10().sqrt().ceil() as usize);
    let most = (count.sqrt().ceil() as usize + steady).min(n - 1);
    let at_lag = |lag: usize| {
        let pairs = values.iter().zip(&values[lag..]);
        pairs.map(|(early, late)| (early - mean) * (late - mean)).sum::<f64>() / count
    };
    let covariances: Vec<f64> = (0..=most).map(at_lag).collect();
    let variance = covariances[0];
    if variance <= 0.0 {
        return 1.0;
    }
    // The first lag after which so many correlations in a row are no more than noise.
    let noise = 2.0 * (count.log10() / count).sqrt();
    let is_noise = |lag: usize| covariances[lag].abs() / variance < noise;
    let quiet = (1..=most.saturating_sub(steady - 1)).find(|lag| (*lag..lag + steady).all(is_noise));
    let last = quiet.map(|lag| lag - 1).or_else(|| (1..=most).rev().find(|lag| !is_noise(*lag)));
    let bandwidth = (2 * last.unwrap_or(1).max(1)).min(most);
    let (mut spectrum, mut slope) = (variance, 0.0);
    for (lag, covariance) in covariances.iter().enumerate().take(bandwidth + 1).skip(1) {
        // The flat-top lag window.
        let at = lag as f64 / bandwidth as f64;
        let weight = if at <= 0.5 { 1.0 } else { 2.0 * (1.0 - at) };
        spectrum += 2.0 * weight * covariance;
        slope += 2.0 * weight * lag as f64 * covariance;
    }
    let scale = 4.0 / 3.0 * spectrum * spectrum;
    if scale <= 0.0 {
        return 1.0;
    }
    let length = (2.0 * slope * slope / scale).cbrt() * count.cbrt();
    length.clamp(1.0, (3.0 * count.sqrt()).min(count / 3.0).ceil())
}

#[cfg(test)]
mod tests;
