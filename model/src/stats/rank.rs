//! Rank tests and the effect sizes that go with them: Wilcoxon's signed-rank test for pairs,
//! Mann-Whitney's U for two samples.
//!
//! Up to [`EXACT_UP_TO`] values the p value is exact: of all possible signs (pairs) or labels (samples), the
//! fraction that is at least as extreme, given the ranks including ties. Beyond it is the normal
//! approximation with the correction for ties (and, for Mann-Whitney, for continuity), as in Hollander, Wolfe
//! and Chicken, "Nonparametric Statistical Methods", 3.1 and 4.1.
//! All p values are two-sided.

use serde::{Deserialize, Serialize};

/// Maximum number of values for which p is computed exactly.
pub const EXACT_UP_TO: usize = 50;

/// Result of a rank test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankTest {
    /// Number of values, or of pairs that differ.
    pub n: usize,
    /// The test's statistic: the smaller rank sum W of pairs, or U of the first sample.
    pub statistic: f64,
    /// Two-sided p value.
    pub p_value: f64,
    /// Whether that is exact, and not the normal approximation.
    pub exact: bool,
    /// Effect size, -1 to 1: for pairs the matched-pairs rank-biserial correlation (Kerby 2014), for two
    /// samples Cliff's delta; positive when the second is greater.
    pub effect_size: f64,
}

/// Wilcoxon's signed-rank test of `second - first` over pairs; pairs without a difference are left out (as in
/// Wilcoxon's paper). `None` if no pair differs or a value is not finite.
pub fn signed_rank(pairs: &[(f64, f64)]) -> Option<RankTest> {
    if pairs.iter().any(|(first, second)| !first.is_finite() || !second.is_finite()) {
        return None;
    }
    let differences: Vec<f64> =
        pairs.iter().map(|(first, second)| second - first).filter(|difference| *difference != 0.0).collect();
    let n = differences.len();
    if n == 0 {
        return None;
    }
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let ranks = doubled_ranks(&sizes);
    let total: usize = ranks.iter().sum();
    let plus: usize = ranks
        .iter()
        .zip(&differences)
        .filter(|(_, difference)| **difference > 0.0)
        .map(|(rank, _)| rank)
        .sum();
    let minus = total - plus;
    let exact = n <= EXACT_UP_TO;
    let p_value = if exact {
        let ways = subset_sums(&ranks);
        two_sided(&ways, plus)
    } else {
        let count = n as f64;
        let ties: f64 = tie_sizes(&sizes).map(|t| t * t * t - t).sum();
        let variance = count * (count + 1.0) * (2.0 * count + 1.0) / 24.0 - ties / 48.0;
        let z = (plus as f64 / 2.0 - count * (count + 1.0) / 4.0) / variance.sqrt();
        two_sided_normal(z)
    };
    Some(RankTest {
        n,
        statistic: plus.min(minus) as f64 / 2.0,
        p_value,
        exact,
        effect_size: (plus as f64 - minus as f64) / total as f64,
    })
}

/// Mann-Whitney's U test of two samples. `None` when one is empty or a value is not finite.
pub fn mann_whitney(first: &[f64], second: &[f64]) -> Option<RankTest> {
    let all: Vec<f64> = first.iter().chain(second).copied().collect();
    if first.is_empty() || second.is_empty() || all.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let ranks = doubled_ranks(&all);
    let (n1, n2, n) = (first.len(), second.len(), all.len());
    let doubled_sum: usize = ranks[..n1].iter().sum();
    let u = doubled_sum as f64 / 2.0 - (n1 * (n1 + 1)) as f64 / 2.0;
    let product = (n1 * n2) as f64;
    let exact = n <= EXACT_UP_TO;
    let p_value = if exact {
        let ways = subsets_of_size(&ranks, n1);
        two_sided(&ways, doubled_sum)
    } else {
        let ties: f64 = tie_sizes(&all).map(|t| t * t * t - t).sum();
        let count = n as f64;
        let variance = product / 12.0 * (count + 1.0 - ties / (count * (count - 1.0)));
        // Continuity correction: half a step of U towards the middle.
        let off = ((u - product / 2.0).abs() - 0.5).max(0.0);
        if variance > 0.0 { two_sided_normal(off / variance.sqrt()) } else { 1.0 }
    };
    Some(RankTest { n, statistic: u, p_value, exact, effect_size: 1.0 - 2.0 * u / product })
}

/// Twice the rank of each value, from 2; equal values share the mean of their ranks, which is an integer when
/// doubled.
fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0; values.len()];
    let mut begin = 0;
    while begin < order.len() {
        let mut end = begin;
        while end + 1 < order.len() && values[order[end + 1]] == values[order[begin]] {
            end += 1;
        }
        for place in &order[begin..=end] {
            ranks[*place] = begin + end + 2;
        }
        begin = end + 1;
    }
    ranks
}

/// The size of each group of equal values.
pub(super) fn tie_sizes(values: &[f64]) -> impl Iterator<Item = f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let groups: Vec<f64> = sorted.chunk_by(|a, b| a == b).map(|group| group.len() as f64).collect();
    groups.into_iter()
}

/// Probability of each sum if every rank is included with probability 1/2.
fn subset_sums(ranks: &[usize]) -> Vec<f64> {
    let mut ways = vec![0.0; ranks.iter().sum::<usize>() + 1];
    ways[0] = 1.0;
    for rank in ranks {
        for sum in (0..ways.len()).rev() {
            let with = sum.checked_sub(*rank).map_or(0.0, |rest| ways[rest]);
            ways[sum] = (ways[sum] + with) / 2.0;
        }
    }
    ways
}

/// Probability of each sum if `size` of the ranks are drawn, every choice equally likely.
fn subsets_of_size(ranks: &[usize], size: usize) -> Vec<f64> {
    let width = ranks.iter().sum::<usize>() + 1;
    // Counts are exact in f64 below 2^53, and have only rounding errors beyond:
    // 50 choose 25 is 1.3e14.
    let mut ways = vec![vec![0.0; width]; size + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for count in (1..=size).rev() {
            let (fewer, more) = ways.split_at_mut(count);
            let (from, to) = (&fewer[count - 1], &mut more[0]);
            for sum in *rank..width {
                to[sum] += from[sum - rank];
            }
        }
    }
    let mut drawn = ways.swap_remove(size);
    let all: f64 = drawn.iter().sum();
    drawn.iter_mut().for_each(|way| *way /= all);
    drawn
}

/// Twice the smaller tail at `observed`, inclusive; at most 1.
fn two_sided(ways: &[f64], observed: usize) -> f64 {
    let below: f64 = ways[..=observed].iter().sum();
    let above: f64 = ways[observed..].iter().sum();
    (2.0 * below.min(above)).min(1.0)
}

/// Probability that a standard normal value is at least as far from 0 as `z`.
pub(super) fn two_sided_normal(z: f64) -> f64 {
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// Spearman's rank correlation of pairs of values (Spearman, "The proof and measurement of association between two
/// things", American Journal of Psychology 15, 1904), -1 to 1; equal values have the mean of their ranks. `None` for
/// fewer than three pairs, or where all values of one kind are equal.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let first = mean_ranks(pairs.iter().map(|(first, _)| *first));
    let second = mean_ranks(pairs.iter().map(|(_, second)| *second));
    let mean = (pairs.len() + 1) as f64 / 2.0;
    let product = |one: &[f64], other: &[f64]| -> f64 {
        one.iter().zip(other).map(|(one, other)| (one - mean) * (other - mean)).sum()
    };
    let spread = (product(&first, &first) * product(&second, &second)).sqrt();
    (spread > 0.0).then(|| product(&first, &second) / spread)
}

/// The rank of each value from 1, of equal values the mean.
fn mean_ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal + 1) as f64 / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_correlated_whatever_the_values_are() {
        let close = |pairs: &[(f64, f64)], expected: f64| {
            let found = rank_correlation(pairs).unwrap();
            assert!((found - expected).abs() < 1e-12, "{found}");
        };
        close(&[(1.0, 1.0), (2.0, 10.0), (9.0, 11.0)], 1.0);
        close(&[(1.0, 3.0), (2.0, 2.0), (3.0, -8.0)], -1.0);
        // Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24).
        close(&[(1.0, 2.0), (2.0, 1.0), (3.0, 4.0), (4.0, 3.0), (5.0, 5.0)], 0.8);
        // Ranks 1.5 1.5 3 and 1 2 3: 1.5 / sqrt(1.5 * 2).
        close(&[(1.0, 1.0), (1.0, 2.0), (2.0, 3.0)], 1.5 / 3f64.sqrt());
        assert_eq!(rank_correlation(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(rank_correlation(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }
}
