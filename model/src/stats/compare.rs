//! Comparison of two placements: the one implementation for the loop's decisions and the offline tables.
//!
//! Change is relative to the first (`before`) and signed so that positive is better:
//! `after / before - 1` where more is better, `1 - after / before` where less is.
//!
//! [`compare_blocks`] pairs by block: in a block both placements had the same disturbances, so the change is
//! computed within each block; its median and interval are over blocks. [`compare_samples`] is for values
//! without partners: the change is that of the medians, with the percentile bootstrap (Efron 1979), which
//! resamples both samples independently, and the test is Mann-Whitney's.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rank::{RankTest, mann_whitney, signed_rank};
use super::trend::{Trend, outliers, trend};
use super::{Estimate, MIN_VALUES, median, quantile};
use crate::rng::Rng;

/// Number of bootstrap samples.
const RESAMPLES: usize = 4000;

/// p value below which a drift is reported.
const DRIFT_P: f64 = 0.05;

/// One of the two compared placements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The first one.
    Before,
    /// The second one.
    After,
}

/// Result of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Whether values were paired by block.
    pub paired: bool,
    /// The values before.
    pub before: Estimate,
    /// The values after.
    pub after: Estimate,
    /// Relative change, positive is better (0.1: ten percent better).
    pub change: Estimate,
    /// The rank test, with its effect size in the direction of the values (positive: `after` is greater);
    /// `None` if all pairs are equal.
    pub test: Option<RankTest>,
    /// Warnings with remedies.
    pub warnings: Vec<Warning>,
}

impl Compared {
    /// The effect size (-1 to 1) with the sign that makes positive better; `None` like the test.
    pub fn effect_size(&self, more_is_better: bool) -> Option<f64> {
        self.test.map(|test| if more_is_better { test.effect_size } else { -test.effect_size })
    }
}

/// Why two placements cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotCompare {
    /// No block has a usable value on both sides.
    #[error("no block has a value above 0 for both placements ({left_out} were left out)")]
    NoPair {
        /// Number of unusable pairs.
        left_out: usize,
    },
    /// A side has no usable value.
    #[error("one of the two placements has no usable value")]
    NoValue,
    /// The first side's median is 0, so the relative change is undefined.
    #[error("the median of the values before is 0, so the relative change is undefined")]
    ZeroBefore,
}

/// A property of the data that weakens the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// Too few values for an interval.
    FewValues {
        /// Number of values.
        n: usize,
    },
    /// Values that are not finite, or 0 as a divisor, were left out.
    LeftOut {
        /// Number of pairs or values.
        n: usize,
    },
    /// The values of one side rise or fall with time.
    Drift {
        /// The side.
        side: Side,
        /// The trend.
        trend: Trend,
    },
    /// Values far from the others.
    Outliers {
        /// The side.
        side: Side,
        /// Their positions in order, from 0.
        at: Vec<usize>,
    },
    /// The values have no partners, so disturbances do not cancel.
    Unpaired,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewValues { n } => write!(
                f,
                "{n} values are too few for an interval ({MIN_VALUES} are needed): run longer, or with shorter blocks"
            ),
            Self::LeftOut { n } => write!(
                f,
                "{n} values were left out because they are not finite or would divide by 0: check why the counters had none"
            ),
            Self::Drift { side, trend } => write!(
                f,
                "the values {} drift with time (Kendall's tau {:.2}, p {:.1e}): warm up longer, fix the frequency, or check for other load; \
                 only the change within blocks can be trusted",
                side.name(),
                trend.tau,
                trend.p_value
            ),
            Self::Outliers { side, at } => {
                let at: Vec<String> = at.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "values {} are outliers (number {}): check what else ran then; the median is robust against them, a mean is not",
                    side.name(),
                    at.join(", ")
                )
            }
            Self::Unpaired => f.write_str(
                "the values are not paired by block, so drift between the two is part of the change: use a trial with blocks",
            ),
        }
    }
}

impl Side {
    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Compares two placements over blocks: each pair is the value `(before, after)` of one block, in the order
/// of time. Pairs without a ratio (not finite, or `before` is not above 0) are left out, and counted in a
/// warning.
///
/// # Errors
/// When no pair is left.
pub fn compare_blocks(pairs: &[(f64, f64)], more_is_better: bool) -> Result<Compared, CannotCompare> {
    let used: Vec<(f64, f64)> = pairs
        .iter()
        .copied()
        .filter(|(before, after)| before.is_finite() && after.is_finite() && *before > 0.0)
        .collect();
    let left_out = pairs.len() - used.len();
    let none = || CannotCompare::NoPair { left_out };
    let (before, after): (Vec<f64>, Vec<f64>) = used.iter().copied().unzip();
    let changes: Vec<f64> =
        used.iter().map(|(before, after)| relative(*before, *after, more_is_better)).collect();
    let change = Estimate::of_median(&changes).ok_or_else(none)?;
    Ok(Compared {
        paired: true,
        before: Estimate::of_median(&before).ok_or_else(none)?,
        after: Estimate::of_median(&after).ok_or_else(none)?,
        change,
        test: signed_rank(&used),
        warnings: warnings(&before, &after, used.len(), left_out),
    })
}

/// Compares two samples without partners. Values that are not finite are left out, and counted in a
/// warning; equal seeds give equal intervals.
///
/// # Errors
/// When a side is empty, or the first one's median is not above 0.
pub fn compare_samples(
    before: &[f64],
    after: &[f64],
    more_is_better: bool,
    seed: u64,
) -> Result<Compared, CannotCompare> {
    let finite =
        |values: &[f64]| -> Vec<f64> { values.iter().copied().filter(|value| value.is_finite()).collect() };
    let left_out = before.len() + after.len();
    let (before, after) = (finite(before), finite(after));
    let left_out = left_out - before.len() - after.len();
    let of = |values: &[f64]| Estimate::of_median(values).ok_or(CannotCompare::NoValue);
    let (middle_before, middle_after) = (of(&before)?, of(&after)?);
    if middle_before.median <= 0.0 {
        return Err(CannotCompare::ZeroBefore);
    }
    let least = before.len().min(after.len());
    let ci95 =
        (least >= MIN_VALUES).then(|| interval_of_medians(&before, &after, more_is_better, seed)).flatten();
    let mut warnings = warnings(&before, &after, least, left_out);
    warnings.push(Warning::Unpaired);
    Ok(Compared {
        paired: false,
        before: middle_before,
        after: middle_after,
        change: Estimate {
            n: least,
            median: relative(middle_before.median, middle_after.median, more_is_better),
            ci95,
        },
        test: mann_whitney(&before, &after),
        warnings,
    })
}

fn relative(before: f64, after: f64, more_is_better: bool) -> f64 {
    let grown = after / before - 1.0;
    if more_is_better { grown } else { -grown }
}

fn interval_of_medians(before: &[f64], after: &[f64], more_is_better: bool, seed: u64) -> Option<[f64; 2]> {
    let mut rng = Rng::new(seed);
    let mut drawn = |values: &[f64]| {
        let drawn: Vec<f64> = (0..values.len()).map(|_| values[rng.below(values.len())]).collect();
        median(&drawn)
    };
    let mut changes: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| Some(relative(drawn(before)?, drawn(after)?, more_is_better)))
        .filter(|change| change.is_finite())
        .collect();
    changes.sort_by(f64::total_cmp);
    (!changes.is_empty()).then(|| [quantile(&changes, 0.025), quantile(&changes, 0.975)])
}

fn warnings(before: &[f64], after: &[f64], n: usize, left_out: usize) -> Vec<Warning> {
    let mut found = Vec::new();
    if n < MIN_VALUES {
        found.push(Warning::FewValues { n });
    }
    if left_out > 0 {
        found.push(Warning::LeftOut { n: left_out });
    }
    for (side, values) in [(Side::Before, before), (Side::After, after)] {
        if let Some(trend) = trend(values).filter(|trend| trend.p_value < DRIFT_P) {
            found.push(Warning::Drift { side, trend });
        }
        let at = outliers(values);
        if !at.is_empty() {
            found.push(Warning::Outliers { side, at });
        }
    }
    found
}
