//! Comparison of two placements: the one implementation for the loop's decisions and the offline tables.
//!
//! Change is relative to the first (`before`) and signed so that positive is better:
//! `after / before - 1` where more is better, `1 - after / before` where less is.
//!
//! [`compare_blocks`] pairs by block: in a block both placements had the same disturbances, so the change is
//! computed within each block; its median and interval are over blocks. Values without partners are compared by
//! [`super::compare_series`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rank::{RankTest, signed_rank};
use super::trend::{Trend, outliers, trend};
use super::{Estimate, MIN_VALUES};

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
        before: Estimate::of_median(&before).ok_or_else(none)?,
        after: Estimate::of_median(&after).ok_or_else(none)?,
        change,
        test: signed_rank(&used),
        warnings: warnings(&before, &after, used.len(), left_out),
    })
}

fn relative(before: f64, after: f64, more_is_better: bool) -> f64 {
    let grown = after / before - 1.0;
    if more_is_better { grown } else { -grown }
}

pub(super) fn warnings(before: &[f64], after: &[f64], n: usize, left_out: usize) -> Vec<Warning> {
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
