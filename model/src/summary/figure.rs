//! Figures of arms: medians over blocks, and ratios of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Arm, Block, Sample};
use crate::stats::{Estimate, RankTest, signed_rank};

/// A median over blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmFigure {
    /// The figure.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Its unit.
    pub unit: String,
}

/// The unit of the field `arms_time` of the microbenchmark, which other programs know it by: seconds that a guest takes
/// for a million reads.
pub const SECONDS_A_MILLION_READS: &str = "s/Mreads";

impl ArmFigure {
    /// In the unit that tables and figures show it in: nanoseconds for a read, where files have seconds for a million
    /// reads.
    pub fn shown(&self) -> Self {
        if self.unit != SECONDS_A_MILLION_READS {
            return self.clone();
        }
        // 1 s / 10^6 is 1000 ns.
        let Estimate { n, median, ci95 } = self.estimate;
        let estimate = Estimate { n, median: median * 1e3, ci95: ci95.map(|ends| ends.map(|end| end * 1e3)) };
        Self { estimate, unit: "ns/read".to_owned() }
    }
}

/// A median of paired ratios.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The median over blocks.
    pub value: f64,
    /// Lower and upper end of its 95 % interval.
    pub ci95: Option<[f64; 2]>,
    /// Number of blocks.
    pub n: usize,
    /// Wilcoxon's signed-rank test of the logarithms, over blocks, of the numerator against the denominator;
    /// null if no block differs.
    pub test: Option<RankTest>,
}

impl Ratio {
    /// The median of `figure` in the arm `over` divided by that in `under`, over the blocks that have both;
    /// `None` if there are none.
    pub fn of(
        blocks: &[&Block],
        over: Arm,
        under: Arm,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Self> {
        let of = |block: &&Block| Some((figure(block.sample(over)?)?, figure(block.sample(under)?)?));
        let pairs: Vec<(f64, f64)> = blocks.iter().filter_map(of).collect();
        let Estimate { n, median, ci95 } = Estimate::of_paired_ratio(&pairs)?;
        // With logarithms, so that a block counts by its ratio, however fast the machine was.
        let logarithms: Vec<(f64, f64)> = pairs.iter().map(|(over, under)| (under.ln(), over.ln())).collect();
        Some(Self { value: median, ci95, n, test: signed_rank(&logarithms) })
    }
}

/// The median of `figure` over blocks, by arm; an arm with a block without it is left out.
pub fn figures(
    blocks: &[&Block],
    unit: &str,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> BTreeMap<String, ArmFigure> {
    Arm::by_name(|arm| {
        let samples = blocks.iter().filter_map(|block| block.sample(arm));
        let values = samples.map(&figure).collect::<Option<Vec<f64>>>()?;
        Some(ArmFigure { estimate: Estimate::of_median(&values)?, unit: unit.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{GuestSample, Seen};

    fn block(number: usize, recommended: u64, opposed: u64) -> Block {
        let sample = |arm, reads| Sample {
            guests: vec![GuestSample {
                vm: "vm1".into(),
                vcpu: 0,
                reads,
                elapsed_ns: 1_000_000_000,
                busy_ns: 1_000_000,
                host: None,
            }],
            seen: Some(Seen { merging: Vec::new(), occupancy: None, cpu_share: 1.0 }),
            ..Sample::new(arm)
        };
        Block {
            number,
            samples: vec![sample(Arm::Recommended, recommended), sample(Arm::Opposed, opposed)],
            invalid: None,
        }
    }

    #[test]
    fn times_are_shown_in_nanoseconds_for_a_read() {
        let estimate = Estimate { n: 7, median: 0.5, ci95: Some([0.25, 1.0]) };
        let shown = ArmFigure { estimate, unit: SECONDS_A_MILLION_READS.into() }.shown();
        assert_eq!((shown.unit.as_str(), shown.estimate.median), ("ns/read", 500.0));
        assert_eq!((shown.estimate.ci95, shown.estimate.n), (Some([250.0, 1000.0]), 7));
        let other = ArmFigure { estimate, unit: "us".into() };
        assert_eq!(other.shown(), other);
    }

    #[test]
    fn the_ratio_is_paired_by_block_and_figures_are_medians() {
        let blocks: Vec<Block> = (1..=8).map(|n| block(n, 300 * n as u64, 200 * n as u64)).collect();
        let all: Vec<&Block> = blocks.iter().collect();
        let time = |sample: &Sample| Some(1.0 / sample.reads_per_s()?);
        let time = Ratio::of(&all, Arm::Opposed, Arm::Recommended, time).unwrap();
        assert!((time.value - 1.5).abs() < 1e-12 && time.n == 8);
        let [low, high] = time.ci95.unwrap();
        assert!((low - 1.5).abs() < 1e-12 && (high - 1.5).abs() < 1e-12);
        // All 8 signs are equal, one of 2^8 possibilities: two-sided 2 / 256.
        let test = time.test.unwrap();
        assert_eq!((test.n, test.p_value, test.effect_size), (8, 2.0 / 256.0, 1.0));
        let found = figures(&all, "reads/s", Sample::reads_per_s);
        assert_eq!((found["recommended"].estimate.n, found["recommended"].estimate.median), (8, 1350.0));
        assert!(!found.contains_key("kernel"), "an unmeasured arm has no figure");
        assert!(figures(&all, "misses/read", Sample::llc_misses_per_read).is_empty(), "never 0");
    }
}
