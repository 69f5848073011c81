//! `summary.json` of a web experiment: the schema `huddle/summary/1` of the design.
//!
//! Figures are of valid blocks and of good responses only; failed ones are counted. What cannot be had is
//! null, never 0.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::rng::Rng;
use huddle_model::stats::{Estimate, signed_rank};
use huddle_model::topology::Topology;
use serde::Serialize;

use super::distribution::Distribution;
use super::measure::{WebBlock, WebSample, good_us, misses_reason};
use super::spec::WebConfig;
use super::{Outcome, TenantSample};
use crate::design::Arm;
use crate::drift::relative_drift;
use crate::environment::Environment;
use crate::summary::{ArmFigure, Ratio};

/// The stream of chance that draws intervals (see [`Rng::of_part`]).
const INTERVALS: u64 = 30;

/// A larger part than this is named as a disturbance.
const MOST_DRIFT: f64 = 0.1;

/// A run's result, as it is written.
#[derive(Clone, Debug, Serialize)]
pub struct WebSummary {
    /// `huddle/summary/1`.
    pub schema: &'static str,
    /// Which experiment.
    pub experiment: &'static str,
    /// What stood for the VMs.
    pub guest: &'static str,
    /// What ran their instructions, `kvm` or `tcg`; null with processes.
    pub accelerator: Option<&'static str>,
    /// What requests asked for.
    pub page: &'static str,
    /// When it began, UTC, RFC 3339.
    pub started_utc: String,
    /// How long it took in all, in seconds.
    pub duration_s: f64,
    /// Whether every block is valid.
    pub valid: bool,
    /// Why blocks were left out, one sentence each.
    pub invalid_blocks: Vec<String>,
    /// Mean response time of all servers' responses in a block: its median over blocks.
    pub arms: BTreeMap<&'static str, ArmFigure>,
    /// All response times of an arm together, in microseconds.
    pub latency_us: BTreeMap<&'static str, Distribution>,
    /// Requests of each arm.
    pub requests: BTreeMap<&'static str, Requests>,
    /// LLC misses of the servers for each request, or why they cannot be told.
    pub llc_misses: Availability<BTreeMap<&'static str, ArmFigure>>,
    /// How the arms compare, paired by block.
    pub ratios: WebRatios,
    /// What the ratio means, in one sentence.
    pub verdict: String,
    /// Each server.
    pub tenants: Vec<TenantFigures>,
    /// How far the mean response time of the recommended arm moved over the run, as a part of its median.
    pub drift: Option<f64>,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Median rate (0 to 1) of the pairs that do not.
    pub sharing_rate_across: Option<f64>,
    /// Pages of the data that each pair had merged before the first window.
    pub data_shared_pages: Vec<Vec<u64>>,
    /// What the plans were made from.
    pub placed_by: &'static str,
    /// The specification.
    pub spec: WebConfig,
    /// The settings as they came out.
    pub config: WebConfigFigures,
    /// The cache domains that were used.
    pub topology: Topology,
    /// What the servers shared before the first window.
    pub matrix: SharingMatrix,
    /// Where each arm placed the servers.
    pub plans: BTreeMap<&'static str, Plan>,
    /// Every measured block; its responses stand in the table `responses`.
    pub blocks: Vec<WebBlock>,
    /// The machine.
    pub environment: Environment,
    /// What may have disturbed the run, one sentence each.
    pub disturbances: Vec<String>,
}

/// Requests of an arm in valid blocks, without the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// All of them.
    pub sent: usize,
    /// Those without a good response, time-outs among them.
    pub failed: usize,
    /// Those without one in time.
    pub timed_out: usize,
}

/// One server.
#[derive(Clone, Debug, Serialize)]
pub struct TenantFigures {
    /// Name of its VM.
    pub vm: String,
    /// Name of its data.
    pub data: String,
    /// Whether its requests write to its data.
    pub writes: bool,
    /// Mean response time in a block, its median over blocks, by arm.
    pub arms: BTreeMap<&'static str, ArmFigure>,
    /// Mean response time, opposed over recommended.
    pub opposed_over_recommended: Option<Ratio>,
}

/// The ratios of the arms: mean response times unless said otherwise. Above 1 where the arm that is
/// named first is slower.
#[derive(Clone, Debug, Serialize)]
pub struct WebRatios {
    /// Opposed over recommended (the paper's Figure 5: 6.15 ms over 5.25 ms, 1.17).
    pub opposed_over_recommended: Option<Ratio>,
    /// The same of the medians.
    pub opposed_over_recommended_p50: Option<Ratio>,
    /// The same of the 95th percentiles.
    pub opposed_over_recommended_p95: Option<Ratio>,
    /// The same two placements when nothing of the data is merged: about 1.
    pub not_merged_opposed_over_not_merged: Option<Ratio>,
    /// Not merged over opposed: about 1 where each cache has to hold two data sets in both.
    pub not_merged_over_opposed: Option<Ratio>,
    /// Not merged over recommended.
    pub not_merged_over_recommended: Option<Ratio>,
    /// Left to the kernel over recommended.
    pub kernel_over_recommended: Option<Ratio>,
    /// Placed by lot over recommended.
    pub random_over_recommended: Option<Ratio>,
    /// Recommended once more over recommended: what chance alone makes of it.
    pub control_over_recommended: Option<Ratio>,
}

/// The settings of a run as they came out.
#[derive(Clone, Debug, Serialize)]
pub struct WebConfigFigures {
    /// KiB of a data set.
    pub data_kib: u64,
    /// Visits of a request to its data.
    pub visits: u64,
    /// Dependent reads of a visit.
    pub reads_per_visit: u64,
    /// Whether the next request followed the response or a clock.
    pub loop_kind: &'static str,
    /// Cache level of the domains; null when the topology does not tell.
    pub cache_level: Option<u8>,
    /// How long merging took, in seconds.
    pub merging_s: f64,
}

/// What a summary is made of beside the measurement.
#[derive(Clone, Debug)]
pub struct About {
    /// The machine.
    pub environment: Environment,
    /// What may have disturbed the run.
    pub disturbances: Vec<String>,
    /// What ran the instructions of VMs.
    pub accelerator: Option<&'static str>,
    /// When it began.
    pub started_utc: String,
    /// How long it took, in seconds.
    pub duration_s: f64,
}

impl WebSummary {
    /// Reduces a run to its figures.
    pub fn of(config: &WebConfig, outcome: Outcome, about: About) -> Self {
        let valid: Vec<&WebBlock> = outcome.blocks.iter().filter(|block| block.invalid.is_none()).collect();
        let seed = Rng::of_part(config.seed, INTERVALS).next_u64();
        let mean = |over, under| ratio(&valid, over, under, WebSample::mean_us);
        let at = |percentile: f64| {
            let of = move |sample: &WebSample| {
                let all: Vec<f64> = times(sample);
                Some(huddle_model::stats::quantiles(&all, &[percentile])?[0])
            };
            ratio(&valid, Arm::Opposed, Arm::Recommended, of)
        };
        let ratios = WebRatios {
            opposed_over_recommended: mean(Arm::Opposed, Arm::Recommended),
            opposed_over_recommended_p50: at(0.5),
            opposed_over_recommended_p95: at(0.95),
            not_merged_opposed_over_not_merged: mean(Arm::NotMergedOpposed, Arm::NotMerged),
            not_merged_over_opposed: mean(Arm::NotMerged, Arm::Opposed),
            not_merged_over_recommended: mean(Arm::NotMerged, Arm::Recommended),
            kernel_over_recommended: mean(Arm::Kernel, Arm::Recommended),
            random_over_recommended: mean(Arm::Random, Arm::Recommended),
            control_over_recommended: mean(Arm::Control, Arm::Recommended),
        };
        let mut disturbances = about.disturbances;
        let recommended = valid.iter().filter_map(|block| block.sample(Arm::Recommended)?.mean_us());
        let drift = relative_drift(&recommended.collect::<Vec<_>>());
        if let Some(drift) = drift.filter(|drift| drift.abs() > MOST_DRIFT) {
            disturbances.push(format!(
                "the recommended arm's mean response time moved by {:+.0} % from the first block to the last",
                drift * 100.0
            ));
        }
        let misses = figures(&valid, "misses/request", WebSample::llc_misses_per_request);
        let (sharing_rate, sharing_rate_across) = outcome.expected.rates(&outcome.matrix);
        Self {
            schema: "huddle/summary/1",
            experiment: "web",
            guest: config.guest.name(),
            accelerator: about.accelerator,
            page: config.page.name(),
            started_utc: about.started_utc,
            duration_s: about.duration_s,
            valid: valid.len() == outcome.blocks.len(),
            invalid_blocks: outcome
                .blocks
                .iter()
                .filter_map(|block| {
                    block.invalid.as_ref().map(|why| format!("block {}: {why}", block.number))
                })
                .collect(),
            arms: figures(&valid, "us", WebSample::mean_us),
            latency_us: by_arm(|arm| {
                let samples = valid.iter().filter_map(|block| block.sample(arm));
                Distribution::of(&samples.map(times).collect::<Vec<_>>(), seed)
            }),
            requests: by_arm(|arm| requests(&valid, arm)),
            llc_misses: match misses.is_empty() {
                false => Availability::Available(misses),
                true => misses_reason(&valid).map(|()| BTreeMap::new()),
            },
            verdict: verdict(ratios.opposed_over_recommended),
            ratios,
            tenants: tenants(config, &valid),
            drift,
            sharing_rate,
            sharing_rate_across,
            data_shared_pages: outcome.data_shared,
            placed_by: match config.data_merges() {
                true => "measured sharing",
                false => "the data that servers are known to hold",
            },
            config: WebConfigFigures {
                data_kib: outcome.data_bytes / 1024,
                visits: config.visits,
                reads_per_visit: outcome.reads,
                loop_kind: if config.rate_per_s.is_some() { "open" } else { "closed" },
                cache_level: outcome.topology.level(),
                merging_s: outcome.merging_s,
            },
            spec: config.clone(),
            topology: outcome.topology,
            matrix: outcome.matrix,
            plans: outcome.plans.into_iter().map(|(arm, plan)| (arm.name(), plan)).collect(),
            blocks: outcome.blocks,
            environment: about.environment,
            disturbances,
        }
    }
}

fn times(sample: &WebSample) -> Vec<f64> {
    sample.tenants.iter().flat_map(|tenant| good_us(&tenant.responses)).collect()
}

fn by_arm<T>(of: impl Fn(Arm) -> Option<T>) -> BTreeMap<&'static str, T> {
    Arm::ALL.into_iter().filter_map(|arm| Some((arm.name(), of(arm)?))).collect()
}

fn requests(blocks: &[&WebBlock], arm: Arm) -> Option<Requests> {
    let samples: Vec<&WebSample> = blocks.iter().filter_map(|block| block.sample(arm)).collect();
    let all = || samples.iter().flat_map(|sample| &sample.tenants);
    (!samples.is_empty()).then(|| Requests {
        sent: all().map(|tenant| tenant.requests).sum(),
        failed: all().map(|tenant| tenant.failed).sum(),
        timed_out: all().map(|tenant| tenant.timed_out).sum(),
    })
}

fn figures(
    blocks: &[&WebBlock],
    unit: &'static str,
    figure: impl Fn(&WebSample) -> Option<f64>,
) -> BTreeMap<&'static str, ArmFigure> {
    by_arm(|arm| {
        let samples = blocks.iter().filter_map(|block| block.sample(arm));
        // One block without the figure and it cannot be had.
        let values = samples.map(&figure).collect::<Option<Vec<f64>>>()?;
        Some(ArmFigure { estimate: Estimate::of_median(&values)?, unit })
    })
}

fn tenants(config: &WebConfig, blocks: &[&WebBlock]) -> Vec<TenantFigures> {
    let figures_of = |(number, data): (usize, &String)| {
        let of =
            |sample: &WebSample| sample.tenants.get(number).and_then(|tenant: &TenantSample| tenant.mean_us);
        TenantFigures {
            vm: config.bench().guest_name(number),
            data: data.clone(),
            writes: config.writes(number),
            arms: figures(blocks, "us", of),
            opposed_over_recommended: ratio(blocks, Arm::Opposed, Arm::Recommended, of),
        }
    };
    config.data.iter().enumerate().map(figures_of).collect()
}

fn ratio(
    blocks: &[&WebBlock],
    over: Arm,
    under: Arm,
    figure: impl Fn(&WebSample) -> Option<f64>,
) -> Option<Ratio> {
    let of = |block: &&WebBlock| Some((figure(block.sample(over)?)?, figure(block.sample(under)?)?));
    let pairs: Vec<(f64, f64)> = blocks.iter().filter_map(of).collect();
    let Estimate { n, median, ci95 } = Estimate::of_paired_ratio(&pairs)?;
    // Of logarithms, so that a block counts by its ratio, however fast the machine was then.
    let logarithms: Vec<(f64, f64)> = pairs.iter().map(|(over, under)| (under.ln(), over.ln())).collect();
    Some(Ratio { value: median, ci95, n, test: signed_rank(&logarithms) })
}

/// What a ratio of mean response times, opposed over recommended, says; no more than its interval allows.
pub fn verdict(ratio: Option<Ratio>) -> String {
    let Some(ratio) = ratio else {
        return "no result: recommended and opposed were not both measured in a valid block".into();
    };
    let (value, n) = (ratio.value, ratio.n);
    let Some([low, high]) = ratio.ci95 else {
        return format!(
            "{n} block(s) are too few to say: the ratio of {value:.2} has no interval; at least {} are needed",
            huddle_model::stats::LEAST_VALUES
        );
    };
    let interval = format!("95 % interval {low:.2} to {high:.2}, {n} blocks");
    if low > 1.0 {
        format!(
            "placed the opposite way, users wait {value:.2} times as long as placed as recommended ({interval})"
        )
    } else if high < 1.0 {
        format!(
            "placed as recommended, users wait LONGER: placed the opposite way they wait {value:.2} times as long \
             ({interval})"
        )
    } else {
        format!(
            "no effect shown: the 95 % interval of the ratio, {low:.2} to {high:.2}, includes 1 ({n} blocks)"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn verdicts_say_no_more_than_the_interval() {
        let of = |value, ci95| verdict(Some(Ratio { value, ci95, n: 9, test: None }));
        assert!(of(1.5, Some([1.4, 1.6])).contains("wait 1.50 times as long"));
        assert!(of(0.8, Some([0.7, 0.9])).contains("LONGER"));
        assert!(of(1.2, Some([0.9, 1.5])).starts_with("no effect shown"));
        assert!(of(1.5, None).contains("too few"));
        assert!(verdict(None).starts_with("no result"));
    }
}
