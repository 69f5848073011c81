//! `summary.json` of a run: the schema `huddle/summary/1` of the design.
//!
//! Figures are of valid blocks only. An interval that too few blocks support is null, and so is a
//! figure that cannot be had; neither is ever 0.

use std::collections::BTreeMap;

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use serde::Serialize;

use crate::design::Arm;
use crate::environment::Environment;
use crate::microbench::{ArmSample, Block, Config, Outcome};
use huddle_model::rng::Rng;
use huddle_model::stats::Estimate;

/// The stream of chance that draws intervals (see [`Rng::of_part`]).
const INTERVALS: u64 = 30;

/// A run's result, as it is written.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// `huddle/summary/1`.
    pub schema: &'static str,
    /// Which experiment.
    pub experiment: &'static str,
    /// What stood for the VMs.
    pub guest: &'static str,
    /// When it began, UTC, RFC 3339.
    pub started_utc: String,
    /// How long it took in all, in seconds.
    pub duration_s: f64,
    /// Whether every block is valid: merging held, and every guest got to run.
    pub valid: bool,
    /// Why blocks were left out, one sentence each.
    pub invalid_blocks: Vec<String>,
    /// Reads per second of all guests together.
    pub arms: BTreeMap<&'static str, ArmFigure>,
    /// CPU time per read, which other programs on the host disturb less.
    pub arms_busy: BTreeMap<&'static str, ArmFigure>,
    /// How the arms compare, paired by block.
    pub ratios: Ratios,
    /// What the ratio means, in one sentence.
    pub verdict: String,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Median rate (0 to 1) of the pairs that do not.
    pub sharing_rate_across: Option<f64>,
    /// The settings.
    pub config: ConfigFigures,
    /// The cache domains that were used.
    pub topology: Topology,
    /// What the guests shared before the first window.
    pub matrix: SharingMatrix,
    /// Where each arm placed the guests.
    pub plans: BTreeMap<&'static str, Plan>,
    /// Every measured block.
    pub blocks: Vec<Block>,
    /// The machine.
    pub environment: Environment,
    /// What may have disturbed the run, one sentence each.
    pub disturbances: Vec<String>,
}

/// A median over blocks.
#[derive(Clone, Debug, Serialize)]
pub struct ArmFigure {
    /// The figure.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Its unit.
    pub unit: &'static str,
}

/// The ratios of the arms.
#[derive(Clone, Debug, Serialize)]
pub struct Ratios {
    /// Time per read of all guests together, opposed over recommended (the paper's Figure 4: 2.1); the
    /// same as throughput recommended over opposed. Above 1 when the method helps.
    pub opposed_over_recommended: Option<Ratio>,
    /// The same in CPU time per read.
    pub opposed_over_recommended_busy: Option<Ratio>,
}

/// A median of paired ratios.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The median over blocks.
    pub value: f64,
    /// Lower and upper end of its 95 % interval.
    pub ci95: Option<[f64; 2]>,
    /// How many blocks.
    pub n: usize,
}

/// The settings of a run, in the units of the command line.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigFigures {
    /// KiB of a data set.
    pub data_kib: usize,
    /// KiB of each guest's own memory.
    pub private_kib: usize,
    /// Reads between two yields.
    pub burst_reads: u64,
    /// Seconds an arm is measured.
    pub seconds_per_arm: f64,
    /// Seconds the guests run in a new placement first.
    pub settle_s: f64,
    /// Blocks.
    pub repetitions: usize,
    /// Blocks before them that do not count.
    pub warm_up_blocks: usize,
    /// Cache level of the domains; null when the topology does not tell.
    pub cache_level: Option<u8>,
    /// Seed of data, orders and intervals.
    pub seed: u64,
    /// How long merging took, in seconds.
    pub merging_s: f64,
}

impl From<Estimate> for Ratio {
    fn from(estimate: Estimate) -> Self {
        Self { value: estimate.median, ci95: estimate.ci95, n: estimate.n }
    }
}

impl Summary {
    /// Reduces a run to its figures.
    pub fn of_microbench(
        config: &Config,
        outcome: Outcome,
        environment: Environment,
        disturbances: Vec<String>,
        started_utc: String,
        duration_s: f64,
    ) -> Self {
        let valid: Vec<&Block> = outcome.blocks.iter().filter(|block| block.invalid.is_none()).collect();
        let ratios = Ratios {
            opposed_over_recommended: ratio(&valid, config.seed, |sample| 1.0 / sample.reads_per_s()),
            opposed_over_recommended_busy: ratio(&valid, config.seed, ArmSample::busy_ns_per_read),
        };
        let (sharing_rate, sharing_rate_across) = outcome.expected.rates(&outcome.matrix);
        Self {
            schema: "huddle/summary/1",
            experiment: "microbench",
            guest: "process",
            started_utc,
            duration_s,
            valid: valid.len() == outcome.blocks.len(),
            invalid_blocks: outcome
                .blocks
                .iter()
                .filter_map(|block| {
                    block.invalid.as_ref().map(|why| format!("block {}: {why}", block.number))
                })
                .collect(),
            arms: figures(&valid, config.seed, "reads/s", ArmSample::reads_per_s),
            arms_busy: figures(&valid, config.seed, "ns/read", ArmSample::busy_ns_per_read),
            verdict: verdict(ratios.opposed_over_recommended),
            ratios,
            sharing_rate,
            sharing_rate_across,
            config: ConfigFigures {
                data_kib: outcome.data_bytes / 1024,
                private_kib: config.private_bytes / 1024,
                burst_reads: outcome.burst_reads,
                seconds_per_arm: config.window.as_secs_f64(),
                settle_s: config.settle.as_secs_f64(),
                repetitions: config.repetitions,
                warm_up_blocks: config.warm_up_blocks,
                cache_level: outcome.topology.level(),
                seed: config.seed,
                merging_s: outcome.merging_s,
            },
            topology: outcome.topology,
            matrix: outcome.matrix,
            plans: outcome.plans.into_iter().map(|(arm, plan)| (arm.name(), plan)).collect(),
            blocks: outcome.blocks,
            environment,
            disturbances,
        }
    }
}

fn interval_seed(seed: u64) -> u64 {
    Rng::of_part(seed, INTERVALS).next_u64()
}

fn figures(
    blocks: &[&Block],
    seed: u64,
    unit: &'static str,
    figure: impl Fn(&ArmSample) -> f64,
) -> BTreeMap<&'static str, ArmFigure> {
    let of_arm = |arm: Arm| {
        let values: Vec<f64> = blocks.iter().filter_map(|block| block.sample(arm)).map(&figure).collect();
        let estimate = Estimate::of_median(&values, interval_seed(seed))?;
        Some((arm.name(), ArmFigure { estimate, unit }))
    };
    Arm::ALL.into_iter().filter_map(of_arm).collect()
}

fn ratio(blocks: &[&Block], seed: u64, figure: impl Fn(&ArmSample) -> f64) -> Option<Ratio> {
    let pairs: Vec<(f64, f64)> = blocks
        .iter()
        .filter_map(|block| {
            Some((figure(block.sample(Arm::Opposed)?), figure(block.sample(Arm::Recommended)?)))
        })
        .collect();
    Estimate::of_paired_ratio(&pairs, interval_seed(seed)).map(Ratio::from)
}

/// What a ratio of times, opposed over recommended, says; no more than its interval allows.
pub fn verdict(ratio: Option<Ratio>) -> String {
    let Some(ratio) = ratio else {
        return "no result: no block is valid".into();
    };
    let Some([low, high]) = ratio.ci95 else {
        return format!(
            "{} block(s) are too few to say: the ratio of {:.2} has no interval; at least {} are needed",
            ratio.n,
            ratio.value,
            huddle_model::stats::LEAST_VALUES
        );
    };
    if low > 1.0 {
        format!(
            "placed as recommended the guests read {:.2} times as fast as placed the opposite way \
             (95 % interval {low:.2} to {high:.2}, {} blocks)",
            ratio.value, ratio.n
        )
    } else if high < 1.0 {
        format!(
            "placed as recommended the guests read SLOWER than placed the opposite way: {:.2} times as fast \
             (95 % interval {low:.2} to {high:.2}, {} blocks)",
            ratio.value, ratio.n
        )
    } else {
        format!(
            "no effect shown: the 95 % interval of the ratio, {low:.2} to {high:.2}, includes 1 ({} blocks)",
            ratio.n
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microbench::GuestSample;

    fn block(number: usize, recommended: u64, opposed: u64, invalid: bool) -> Block {
        let sample = |arm, reads| ArmSample {
            arm,
            guests: vec![GuestSample {
                vm: "vm1".into(),
                reads,
                elapsed_ns: 1_000_000_000,
                busy_ns: 1_000_000,
            }],
            cpu_share: 1.0,
        };
        Block {
            number,
            samples: vec![sample(Arm::Recommended, recommended), sample(Arm::Opposed, opposed)],
            invalid: invalid.then(|| "merging did not hold".to_owned()),
        }
    }

    #[test]
    fn the_ratio_is_of_times_and_paired_by_block() {
        let blocks: Vec<Block> = (1..=8).map(|n| block(n, 300 * n as u64, 200 * n as u64, false)).collect();
        let all: Vec<&Block> = blocks.iter().collect();
        let time = ratio(&all, 1, |sample| 1.0 / sample.reads_per_s()).unwrap();
        assert!((time.value - 1.5).abs() < 1e-12 && time.n == 8);
        let [low, high] = time.ci95.unwrap();
        assert!((low - 1.5).abs() < 1e-12 && (high - 1.5).abs() < 1e-12);
        let figures = figures(&all, 1, "reads/s", ArmSample::reads_per_s);
        assert_eq!((figures["recommended"].estimate.n, figures["recommended"].estimate.median), (8, 1350.0));
    }

    #[test]
    fn verdicts_say_no_more_than_the_interval() {
        let verdict_of = |value, ci95| verdict(Some(Ratio { value, ci95, n: 9 }));
        assert!(verdict_of(1.8, Some([1.7, 1.9])).contains("1.80 times as fast"));
        assert!(verdict_of(0.8, Some([0.7, 0.9])).contains("SLOWER"));
        assert!(verdict_of(1.2, Some([0.9, 1.5])).starts_with("no effect shown"));
        assert!(verdict_of(1.2, Some([1.0, 1.5])).starts_with("no effect shown"));
        assert!(verdict_of(1.8, None).contains("too few"));
        assert!(verdict(None).starts_with("no result"));
    }
}
