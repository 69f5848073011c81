//! Distributions of values in blocks, with intervals that account for the blocks.
//!
//! Response times of one block had the same disturbances, so they are not independent values. Intervals are
//! therefore from a bootstrap over blocks (a cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and
//! their Application", 1997, section 3.8): as many blocks as there are, drawn with replacement, all their
//! values pooled, the figure computed, many times; the interval is between the 2.5th and the 97.5th
//! percentile.

use serde::{Deserialize, Serialize};

use super::{MIN_VALUES, quantiles};
use crate::rng::Rng;

/// Number of bootstrap samples.
const RESAMPLES: usize = 1000;

/// A figure with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The figure, in the unit of the values.
    pub value: f64,
    /// Lower and upper end of its 95 % interval; `None` for too few blocks.
    pub ci95: Option<[f64; 2]>,
}

/// Figures of a distribution. A percentile is `None` if there are fewer values than its resolution needs: the
/// 99.9th needs 1000.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: Figure,
    /// Median.
    pub p50: Option<Figure>,
    /// 95th percentile.
    pub p95: Option<Figure>,
    /// 99th percentile.
    pub p99: Option<Figure>,
    /// 99.9th percentile.
    pub p99_9: Option<Figure>,
}

/// The percentiles, and the number of values each needs.
const PERCENTILES: [(f64, usize); 4] = [(0.5, 2), (0.95, 20), (0.99, 100), (0.999, 1000)];

impl Distribution {
    /// The figures of all blocks; `None` if there are no values or one is not finite.
    pub fn of(blocks: &[Vec<f64>], seed: u64) -> Option<Self> {
        let all: Vec<f64> = blocks.iter().flatten().copied().collect();
        let values = quantiles(&all, &PERCENTILES.map(|(at, _)| at))?;
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let drawn = (blocks.len() >= MIN_VALUES).then(|| Drawn::of(blocks, seed));
        let figure = |value, drawn: Option<&[f64]>| Figure { value, ci95: drawn.and_then(middle) };
        let percentile = |number: usize| {
            let drawn = drawn.as_ref().map(|drawn| &drawn.percentiles[number][..]);
            (all.len() >= PERCENTILES[number].1).then(|| figure(values[number], drawn))
        };
        let [p50, p95, p99, p99_9] = [0, 1, 2, 3].map(percentile);
        let mean = figure(mean, drawn.as_ref().map(|drawn| &drawn.means[..]));
        Some(Self { n: all.len(), mean, p50, p95, p99, p99_9 })
    }
}

/// The figures of resampled blocks.
struct Drawn {
    means: Vec<f64>,
    percentiles: [Vec<f64>; 4],
}

impl Drawn {
    fn of(blocks: &[Vec<f64>], seed: u64) -> Self {
        // Sorted once: a sample only changes the weight of each block's values.
        let numbered = blocks.iter().enumerate();
        let mut sorted: Vec<(f64, usize)> =
            numbered.flat_map(|(block, values)| values.iter().map(move |value| (*value, block))).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sums: Vec<f64> = blocks.iter().map(|values| values.iter().sum()).collect();
        let mut rng = Rng::new(seed);
        let mut drawn = Self { means: Vec::new(), percentiles: Default::default() };
        for _ in 0..RESAMPLES {
            let mut times = vec![0_usize; blocks.len()];
            (0..blocks.len()).for_each(|_| times[rng.below(blocks.len())] += 1);
            let n: usize = times.iter().zip(blocks).map(|(times, values)| times * values.len()).sum();
            // Only blocks without values were drawn.
            if n == 0 {
                continue;
            }
            let sum: f64 = times.iter().zip(&sums).map(|(times, sum)| *times as f64 * sum).sum();
            drawn.means.push(sum / n as f64);
            for (value, percentile) in weighted(&sorted, &times, n).into_iter().zip(&mut drawn.percentiles) {
                percentile.push(value);
            }
        }
        drawn
    }
}

/// The percentiles of `sorted` (value and block) if the values of each block count `times` times, `n` in
/// total; interpolated like [`quantiles`].
fn weighted(sorted: &[(f64, usize)], times: &[usize], n: usize) -> [f64; 4] {
    let mut found = [0.0; 4];
    let mut values = sorted.iter();
    // Number of values up to a position, weighted by block.
    let (mut value, mut passed) = (0.0, 0);
    let mut advance = |rank: usize| {
        while passed <= rank {
            let Some((next, block)) = values.next() else { break };
            if times[*block] > 0 {
                (value, passed) = (*next, passed + times[*block]);
            }
        }
        value
    };
    for (slot, (at, _)) in found.iter_mut().zip(PERCENTILES) {
        let rank = at * (n - 1) as f64;
        let below = advance(rank.floor() as usize);
        let above = advance(rank.ceil() as usize);
        *slot = below + (above - below) * rank.fract();
    }
    found
}

fn middle(drawn: &[f64]) -> Option<[f64; 2]> {
    let ends = quantiles(drawn, &[0.025, 0.975])?;
    Some([ends[0], ends[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(n: usize, each: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| (0..each).map(|_| rng.below(10_000) as f64).collect()).collect()
    }

    #[test]
    fn figures_of_known_values() {
        let blocks: Vec<Vec<f64>> =
            (0..10).map(|block| (0..100).map(|value| f64::from(block + 10 * value)).collect()).collect();
        let found = Distribution::of(&blocks, 1).unwrap();
        assert_eq!((found.n, found.mean.value, found.p50.unwrap().value), (1000, 499.5, 499.5));
        assert!((found.p95.unwrap().value - 949.05).abs() < 1e-9);
        assert!((found.p99_9.unwrap().value - 998.001).abs() < 1e-9);
        for figure in [Some(found.mean), found.p50, found.p95, found.p99, found.p99_9].into_iter().flatten() {
            let [low, high] = figure.ci95.unwrap();
            assert!(low <= figure.value && figure.value <= high, "{figure:?}");
        }
        assert_eq!(Distribution::of(&[], 1), None);
        assert_eq!(Distribution::of(&[vec![], vec![]], 1), None);
        assert_eq!(Distribution::of(&[vec![f64::NAN]], 1), None);
    }

    #[test]
    fn a_sample_counts_like_its_pooled_blocks() {
        let blocks = blocks(5, 37, 3);
        let numbered = blocks.iter().enumerate();
        let mut sorted: Vec<(f64, usize)> =
            numbered.flat_map(|(block, values)| values.iter().map(move |value| (*value, block))).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        for times in [[1, 1, 1, 1, 1], [0, 3, 0, 2, 0], [5, 0, 0, 0, 0], [0, 0, 1, 1, 3]] {
            let together: Vec<f64> = times
                .iter()
                .zip(&blocks)
                .flat_map(|(times, values)| (0..*times).flat_map(move |_| values.iter().copied()))
                .collect();
            let wanted = quantiles(&together, &PERCENTILES.map(|(at, _)| at)).unwrap();
            assert_eq!(weighted(&sorted, &times, together.len()).to_vec(), wanted, "{times:?}");
        }
    }

    #[test]
    fn too_little_gives_no_percentile_and_no_interval() {
        let few = Distribution::of(&blocks(3, 30, 1), 1).unwrap();
        assert!(few.mean.ci95.is_none() && few.p95.is_some() && few.p99.is_none() && few.p99_9.is_none());
        assert!(Distribution::of(&blocks(6, 30, 1), 1).unwrap().mean.ci95.is_some());
    }

    #[test]
    fn blocks_that_differ_widen_the_interval_of_the_mean() {
        let alike: Vec<Vec<f64>> = (0..12).map(|_| (0..100).map(f64::from).collect()).collect();
        let apart: Vec<Vec<f64>> =
            (0..12).map(|block| (0..100).map(|value| f64::from(value + 50 * block)).collect()).collect();
        let width = |blocks: &[Vec<f64>]| {
            let [low, high] = Distribution::of(blocks, 1).unwrap().mean.ci95.unwrap();
            high - low
        };
        assert!(width(&alike) < 1e-9 && width(&apart) > 50.0);
    }
}
