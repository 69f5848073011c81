//! Drift of values over time, and outliers.

use serde::{Deserialize, Serialize};

use super::median;
use super::rank::{tie_sizes, two_sided_normal};

/// Minimum number of values for a trend: below it the normal approximation of the test is poor.
pub const MIN_FOR_TREND: usize = 8;

/// Modified z score from which a value is an outlier (Iglewicz and Hoaglin 1993).
pub const OUTLIER_SCORE: f64 = 3.5;

/// Whether values rise or fall in their order: Kendall's tau against time, which is the Mann-Kendall
/// test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Kendall's tau-b, -1 (always falls) to 1 (always rises).
    pub tau: f64,
    /// Two-sided p value by the normal approximation with the correction for ties.
    pub p_value: f64,
}

/// The trend of `values` in their order; `None` for fewer than [`MIN_FOR_TREND`], if all values are equal,
/// or if one is not finite. Quadratic in their number.
pub fn trend(values: &[f64]) -> Option<Trend> {
    let n = values.len();
    if n < MIN_FOR_TREND || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut score = 0.0;
    for (i, earlier) in values.iter().enumerate() {
        for later in &values[i + 1..] {
            score += match later.total_cmp(earlier) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Less => -1.0,
                std::cmp::Ordering::Equal => 0.0,
            };
        }
    }
    let count = n as f64;
    let pairs = count * (count - 1.0) / 2.0;
    let tied: f64 = tie_sizes(values).map(|t| t * (t - 1.0) / 2.0).sum();
    if tied >= pairs {
        return None;
    }
    let corrected: f64 = tie_sizes(values).map(|t| t * (t - 1.0) * (2.0 * t + 5.0)).sum();
    let variance = (count * (count - 1.0) * (2.0 * count + 5.0) - corrected) / 18.0;
    let tau = score / pairs.sqrt() / (pairs - tied).sqrt();
    Some(Trend { tau, p_value: two_sided_normal(score / variance.sqrt()) })
}

/// Positions of the values whose modified z score, `0.6745 * |value - median| / MAD`, is above
/// [`OUTLIER_SCORE`]. If more than half of the values are equal the MAD is 0, and none is reported.
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let Some(middle) = median(values) else { return Vec::new() };
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    match median(&distances) {
        Some(mad) if mad > 0.0 => distances
            .iter()
            .enumerate()
            .filter(|(_, distance)| 0.6745 * **distance / mad > OUTLIER_SCORE)
            .map(|(place, _)| place)
            .collect(),
        _ => Vec::new(),
    }
}

/// Change of `values`, one per block in their order, from the first block to the last, relative to their
/// median: 0.05 means a rise of 5 %. By the slope of Theil and Sen, the median of the slopes of all pairs of
/// blocks (Sen 1968), which is robust against single disturbed blocks. `None` for fewer than three values or
/// if one is not finite.
pub fn relative_drift(values: &[f64]) -> Option<f64> {
    if values.len() < 3 {
        return None;
    }
    let mut slopes = Vec::new();
    for (i, early) in values.iter().enumerate() {
        slopes.extend(values.iter().enumerate().skip(i + 1).map(|(j, late)| (late - early) / (j - i) as f64));
    }
    let level = median(values).filter(|level| *level != 0.0)?;
    Some(median(&slopes)? * (values.len() - 1) as f64 / level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_drifts_by_its_rise_and_an_outlier_does_not() {
        let line: Vec<f64> = (0..11).map(|n| 95.0 + f64::from(n)).collect();
        assert!((relative_drift(&line).unwrap() - 0.1).abs() < 1e-12);
        let mut flat = vec![100.0; 11];
        flat[7] = 300.0;
        assert_eq!(relative_drift(&flat), Some(0.0));
        assert_eq!(relative_drift(&[1.0, 2.0]), None);
        assert_eq!(relative_drift(&[1.0, f64::NAN, 2.0]), None);
    }
}
