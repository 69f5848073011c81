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
use crate::drift::relative_drift;
use crate::environment::Environment;
use crate::microbench::{ArmSample, Block, GuestSample, Outcome, rates_by};
use crate::spec::{Config, GuestKind};
use huddle_model::availability::Availability;
use huddle_model::observation::CountedEvent;
use huddle_model::stats::{Estimate, RankTest, Trend, signed_rank, trend};

/// A larger part than this is named as a disturbance.
const MOST_DRIFT: f64 = 0.1;

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
    /// Whether every block is valid: merging held (in a placebo: there was none), and every guest got to run.
    pub valid: bool,
    /// Why blocks were left out, one sentence each.
    pub invalid_blocks: Vec<String>,
    /// Reads per second of all guests together.
    pub arms: BTreeMap<&'static str, ArmFigure>,
    /// CPU time per read, which other programs on the host disturb less.
    pub arms_busy: BTreeMap<&'static str, ArmFigure>,
    /// CPU time that the host gave the vCPUs per read: with VMs, a guest cannot tell when the host lets
    /// another run.
    pub arms_host_busy: BTreeMap<&'static str, ArmFigure>,
    /// Time for a million reads of each guest, in seconds: the paper's figure is of a fixed number.
    pub arms_time: BTreeMap<&'static str, ArmFigure>,
    /// LLC misses per read, or why they cannot be told.
    pub llc_misses: Availability<BTreeMap<&'static str, ArmFigure>>,
    /// The same of each vCPU; every other counter stands in `blocks`.
    pub vcpus: Vec<VcpuFigures>,
    /// The event that was counted for each role, or why none was.
    pub events: Vec<CountedEvent>,
    /// How far the reads per second of the recommended arm moved over the run, as a part of their median.
    pub drift: Option<f64>,
    /// Whether they rose or fell (Mann-Kendall); null for few blocks.
    pub trend: Option<Trend>,
    /// What ran the VMs' instructions; null for stand-ins.
    pub accelerator: Option<String>,
    /// How the arms compare, paired by block.
    pub ratios: Ratios,
    /// What the ratio means, in one sentence.
    pub verdict: String,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Median rate (0 to 1) of the pairs that do not.
    pub sharing_rate_across: Option<f64>,
    /// The paper's Table 1: what VMs shared after boot; stand-ins have no operating system.
    pub boot: Availability<BootFigures>,
    /// The specification.
    pub spec: Config,
    /// The settings as they came out.
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

/// One vCPU in each arm.
#[derive(Clone, Debug, Serialize)]
pub struct VcpuFigures {
    /// Name of its VM.
    pub vm: String,
    /// Number of the vCPU within it.
    pub vcpu: u32,
    /// Reads per second.
    pub reads: BTreeMap<&'static str, ArmFigure>,
    /// LLC misses per read, or why they cannot be told.
    pub llc_misses: Availability<BTreeMap<&'static str, ArmFigure>>,
}

/// What VMs shared once they were up, before they held data.
#[derive(Clone, Debug, Serialize)]
pub struct BootFigures {
    /// All of it.
    pub matrix: SharingMatrix,
    /// Median rate (0 to 1) of pairs of one flavour.
    pub rate_within: Option<f64>,
    /// Median rate (0 to 1) of the other pairs.
    pub rate_across: Option<f64>,
}

/// The ratios of the arms.
#[derive(Clone, Debug, Serialize)]
pub struct Ratios {
    /// Time per read of all guests together, opposed over recommended (the paper's Figure 4: 2.1); the
    /// same as throughput recommended over opposed. Above 1 when the method helps.
    pub opposed_over_recommended: Option<Ratio>,
    /// The same in CPU time per read.
    pub opposed_over_recommended_busy: Option<Ratio>,
    /// The same in CPU time that the host gave per read.
    pub opposed_over_recommended_host_busy: Option<Ratio>,
    /// Time per read, not merged over opposed: about 1 where each cache has to hold two data sets in both.
    pub not_merged_over_opposed: Option<Ratio>,
    /// Time per read, not merged over recommended: the test against the unmerged control.
    pub not_merged_over_recommended: Option<Ratio>,
    /// Time per read, left to the kernel over recommended.
    pub kernel_over_recommended: Option<Ratio>,
    /// Time per read, placed by lot over recommended.
    pub random_over_recommended: Option<Ratio>,
    /// Time per read, recommended once more over recommended: what chance alone makes of it.
    pub control_over_recommended: Option<Ratio>,
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
    /// Wilcoxon's signed-rank test of the logarithms, over blocks, of what is above the line against what
    /// is below; null when no block differs.
    pub test: Option<RankTest>,
}

/// The settings of a run, in the units of the command line.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigFigures {
    /// KiB of a data set.
    pub data_kib: u64,
    /// KiB of each guest's own memory.
    pub private_kib: u64,
    /// Reads between two rests.
    pub burst_reads: u64,
    /// How long a rest is, in microseconds; 0 only lets others run.
    pub idle_us: u64,
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
    /// How long merging took, in seconds; null in a placebo.
    pub merging_s: Option<f64>,
}

impl Summary {
    /// Reduces a run to its figures.
    pub fn of_microbench(
        config: &Config,
        outcome: Outcome,
        environment: Environment,
        mut disturbances: Vec<String>,
        accelerator: Option<String>,
        started_utc: String,
        duration_s: f64,
    ) -> Self {
        let valid: Vec<&Block> = outcome.blocks.iter().filter(|block| block.invalid.is_none()).collect();
        let time = |sample: &ArmSample| Some(1.0 / sample.reads_per_s());
        let times = |over, under| ratio(&valid, over, under, time);
        let busy =
            |figure: fn(&ArmSample) -> Option<f64>| ratio(&valid, Arm::Opposed, Arm::Recommended, figure);
        let ratios = Ratios {
            opposed_over_recommended: times(Arm::Opposed, Arm::Recommended),
            opposed_over_recommended_busy: busy(|sample| Some(sample.busy_ns_per_read())),
            opposed_over_recommended_host_busy: busy(ArmSample::host_ns_per_read),
            not_merged_over_opposed: times(Arm::NotMerged, Arm::Opposed),
            not_merged_over_recommended: times(Arm::NotMerged, Arm::Recommended),
            kernel_over_recommended: times(Arm::Kernel, Arm::Recommended),
            random_over_recommended: times(Arm::Random, Arm::Recommended),
            control_over_recommended: times(Arm::Control, Arm::Recommended),
        };
        let recommended: Vec<f64> = valid
            .iter()
            .filter_map(|block| block.sample(Arm::Recommended))
            .map(ArmSample::reads_per_s)
            .collect();
        let drift = relative_drift(&recommended);
        if let Some(drift) = drift.filter(|drift| drift.abs() > MOST_DRIFT) {
            disturbances.push(format!(
                "the recommended arm's reads per second moved by {:+.0} % from the first block to the last",
                drift * 100.0
            ));
        }
        let boot = match (&outcome.boot, config.guest) {
            (Some(matrix), _) => {
                let alike = |i: usize, j: usize| config.flavours[i] == config.flavours[j];
                let (rate_within, rate_across) = rates_by(matrix, alike);
                Availability::Available(BootFigures { matrix: matrix.clone(), rate_within, rate_across })
            }
            (None, GuestKind::Qemu | GuestKind::Xen) => {
                Availability::Unavailable("it was not measured".into())
            }
            (None, GuestKind::Process) => Availability::Unavailable(
                "stand-ins have no operating system to share; run with --guest qemu".into(),
            ),
        };
        let (sharing_rate, sharing_rate_across) = outcome.expected.rates(&outcome.matrix);
        Self {
            schema: "huddle/summary/1",
            experiment: "microbench",
            guest: config.guest.name(),
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
            arms: figures(&valid, "reads/s", |sample| Some(sample.reads_per_s())),
            arms_busy: figures(&valid, "ns/read", |sample| Some(sample.busy_ns_per_read())),
            arms_host_busy: figures(&valid, "ns/read", ArmSample::host_ns_per_read),
            arms_time: figures(&valid, "s/Mreads", |sample| {
                Some(1e6 * sample.guests.len() as f64 / sample.reads_per_s())
            }),
            llc_misses: llc_misses(&valid),
            vcpus: vcpus(&valid),
            events: outcome.events,
            drift,
            trend: trend(&recommended),
            accelerator,
            verdict: if config.arms.contains(&Arm::Opposed) {
                let placebo = if config.merge { "" } else { "PLACEBO, nothing was merged: " };
                format!("{placebo}{}", verdict(ratios.opposed_over_recommended))
            } else {
                "the arms to compare, recommended and opposed, were not both measured".into()
            },
            boot,
            spec: config.clone(),
            ratios,
            sharing_rate,
            sharing_rate_across,
            config: ConfigFigures {
                data_kib: outcome.data_bytes / 1024,
                private_kib: config.private_kib,
                burst_reads: outcome.pace.burst_reads,
                idle_us: outcome.pace.idle_us,
                seconds_per_arm: config.seconds_per_arm,
                settle_s: config.settle_seconds,
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

fn figures(
    blocks: &[&Block],
    unit: &'static str,
    figure: impl Fn(&ArmSample) -> Option<f64>,
) -> BTreeMap<&'static str, ArmFigure> {
    let of_arm = |arm: Arm| {
        let samples = blocks.iter().filter_map(|block| block.sample(arm));
        // One block without the figure and it cannot be had.
        let values = samples.map(&figure).collect::<Option<Vec<f64>>>()?;
        let estimate = Estimate::of_median(&values)?;
        Some((arm.name(), ArmFigure { estimate, unit }))
    };
    Arm::ALL.into_iter().filter_map(of_arm).collect()
}

fn llc_misses(blocks: &[&Block]) -> Availability<BTreeMap<&'static str, ArmFigure>> {
    let figures = figures(blocks, "misses/read", ArmSample::llc_misses_per_read);
    available(figures, blocks, |_| true)
}

/// The figures, or the first reason that one of the vCPUs has none.
fn available(
    figures: BTreeMap<&'static str, ArmFigure>,
    blocks: &[&Block],
    of: impl Fn(&GuestSample) -> bool,
) -> Availability<BTreeMap<&'static str, ArmFigure>> {
    if !figures.is_empty() {
        return Availability::Available(figures);
    }
    let probes = blocks.iter().flat_map(|block| &block.samples).flat_map(|sample| &sample.guests);
    let probes = probes.filter(|guest| of(guest)).filter_map(|guest| guest.host.as_ref());
    let reason = probes.filter_map(|host| host.llc_misses().reason()).next();
    Availability::Unavailable(reason.unwrap_or("no valid block has them").to_owned())
}

fn vcpus(blocks: &[&Block]) -> Vec<VcpuFigures> {
    let sample = blocks.iter().find_map(|block| block.samples.first());
    let vcpus = sample.into_iter().flat_map(|sample| &sample.guests);
    let figures_of = |first: &GuestSample| {
        let is_it = |guest: &GuestSample| guest.vm == first.vm && guest.vcpu == first.vcpu;
        let of = |figure: fn(&GuestSample) -> Option<f64>| {
            move |sample: &ArmSample| figure(sample.guests.iter().find(|guest| is_it(guest))?)
        };
        let misses = figures(blocks, "misses/read", of(GuestSample::llc_misses_per_read));
        VcpuFigures {
            vm: first.vm.clone(),
            vcpu: first.vcpu,
            reads: figures(blocks, "reads/s", of(|guest| Some(guest.reads_per_s()))),
            llc_misses: available(misses, blocks, is_it),
        }
    };
    vcpus.map(figures_of).collect()
}

fn ratio(
    blocks: &[&Block],
    over: Arm,
    under: Arm,
    figure: impl Fn(&ArmSample) -> Option<f64>,
) -> Option<Ratio> {
    let pairs: Vec<(f64, f64)> = blocks
        .iter()
        .filter_map(|block| Some((figure(block.sample(over)?)?, figure(block.sample(under)?)?)))
        .collect();
    let Estimate { n, median, ci95 } = Estimate::of_paired_ratio(&pairs)?;
    // Of logarithms, so that a block counts by its ratio, however fast the machine was then.
    let logarithms: Vec<(f64, f64)> = pairs.iter().map(|(over, under)| (under.ln(), over.ln())).collect();
    Some(Ratio { value: median, ci95, n, test: signed_rank(&logarithms) })
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
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn block(number: usize, recommended: u64, opposed: u64, invalid: bool) -> Block {
        let sample = |arm, reads| ArmSample {
            arm,
            guests: vec![GuestSample {
                vm: "vm1".into(),
                vcpu: 0,
                reads,
                elapsed_ns: 1_000_000_000,
                busy_ns: 1_000_000,
                host: None,
            }],
            plan: None,
            merging: Vec::new(),
            occupancy: None,
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
        let time =
            ratio(&all, Arm::Opposed, Arm::Recommended, |sample| Some(1.0 / sample.reads_per_s())).unwrap();
        assert!((time.value - 1.5).abs() < 1e-12 && time.n == 8);
        let [low, high] = time.ci95.unwrap();
        assert!((low - 1.5).abs() < 1e-12 && (high - 1.5).abs() < 1e-12);
        // All 8 signs alike, of 2^8 ways that they can fall: two-sided 2 / 256.
        let test = time.test.unwrap();
        assert_eq!((test.n, test.p_value, test.effect_size), (8, 2.0 / 256.0, 1.0));
        let figures = figures(&all, "reads/s", |sample| Some(sample.reads_per_s()));
        assert!(matches!(llc_misses(&all), Availability::Unavailable(_)), "never 0");
        assert_eq!((figures["recommended"].estimate.n, figures["recommended"].estimate.median), (8, 1350.0));
    }

    #[test]
    fn verdicts_say_no_more_than_the_interval() {
        let verdict_of = |value, ci95| verdict(Some(Ratio { value, ci95, n: 9, test: None }));
        assert!(verdict_of(1.8, Some([1.7, 1.9])).contains("1.80 times as fast"));
        assert!(verdict_of(0.8, Some([0.7, 0.9])).contains("SLOWER"));
        assert!(verdict_of(1.2, Some([0.9, 1.5])).starts_with("no effect shown"));
        assert!(verdict_of(1.2, Some([1.0, 1.5])).starts_with("no effect shown"));
        assert!(verdict_of(1.8, None).contains("too few"));
        assert!(verdict(None).starts_with("no result"));
    }
}
