//! Results of several data sizes, one run each: where the effect is largest, and where it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::stats::rank_correlation;

use super::{AccessOrigin, ArmFigure, Environment, MicrobenchFigures, Ratio, SUMMARY_SCHEMA, Summary};

/// The ratio that a scan is about.
pub const OPPOSED_OVER_RECOMMENDED: &str = "opposed_over_recommended";

/// The result of a scan over data sizes. It has the form of every summary, with arms and ratios named with
/// their size (`recommended_512_kib`); the whole result of each size is in its own directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScanSummary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// Name of the experiment.
    pub experiment: String,
    /// What was used as VMs.
    pub guest: String,
    /// When it began, UTC, RFC 3339.
    pub started_utc: Option<String>,
    /// Total duration, in seconds.
    pub duration_s: Option<f64>,
    /// Whether every block of every size is valid.
    pub valid: bool,
    /// Reads per second of all guests together, by arm and size.
    pub arms: BTreeMap<String, ArmFigure>,
    /// Ratios of times per read, by size.
    pub ratios: BTreeMap<String, Option<Ratio>>,
    /// Median rate (0 to 1) of the pairs that hold the same data, for the largest size; each size has its own
    /// in `sizes`.
    pub sharing_rate: Option<f64>,
    /// The sizes, in the order they were measured.
    pub sizes: Vec<Size>,
    /// How well simulated ratios of time, opposed over recommended, are in the order of the measured ones: Spearman's rank
    /// correlation over the sizes; absent without a simulation of any size, null if fewer than three sizes have both or all
    /// values of one of the two are equal. Sizes with simulated reads at random ([`AccessOrigin::RandomReads`]) have none:
    /// what was timed read a ring.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub simulated_rank_correlation: Option<Option<f64>>,
    /// The same of the ratios of time that an estimate expects; absent without an estimate of any size.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub predicted_rank_correlation: Option<Option<f64>>,
    /// The machine, before the first size.
    pub environment: Option<Environment>,
}

/// One size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Size {
    /// KiB of a data set.
    pub data_kib: u64,
    /// The directory of its own summary, below that of the scan.
    pub directory: String,
    /// Whether every block is valid.
    pub valid: bool,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Its result in one sentence.
    pub verdict: Option<String>,
    /// Simulated misses, opposed over recommended; absent if none were simulated, null if a block has none.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub simulated_misses: Option<Option<Ratio>>,
    /// The same as a ratio of time.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub simulated_time: Option<Option<Ratio>>,
    /// Misses that an estimate expects, opposed over recommended; absent without an estimate, null if an arm is expected
    /// to have none.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub predicted_misses: Option<Option<f64>>,
    /// The same as a ratio of time.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub predicted_time: Option<Option<f64>>,
}

/// A field that is there, if only as null: otherwise null is read as absent.
fn there<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// Of the runs of a scan those with both the measured ratio and another one of time: the rank correlation of the two.
fn correlation(
    runs: &[(String, Summary<MicrobenchFigures>)],
    other: impl Fn(&Summary<MicrobenchFigures>) -> Option<f64>,
) -> Option<f64> {
    let pair = |(_, run): &(String, Summary<MicrobenchFigures>)| {
        Some((run.ratio(OPPOSED_OVER_RECOMMENDED)?.value, other(run)?))
    };
    rank_correlation(&runs.iter().filter_map(pair).collect::<Vec<_>>())
}

impl ScanSummary {
    /// Combines the summaries of all sizes, each with its directory; `None` if there are none.
    pub fn of(runs: &[(String, Summary<MicrobenchFigures>)]) -> Option<Self> {
        let (_, first) = runs.first()?;
        let kib = |summary: &Summary<MicrobenchFigures>| summary.own.config.data_kib;
        let (mut arms, mut ratios) = (BTreeMap::new(), BTreeMap::new());
        for (_, summary) in runs {
            let named = |name: &str| format!("{name}_{}_kib", kib(summary));
            arms.extend(summary.arms.iter().map(|(arm, figure)| (named(arm), figure.clone())));
            for name in [OPPOSED_OVER_RECOMMENDED, "not_merged_over_opposed", "not_merged_over_recommended"] {
                ratios.insert(named(name), summary.ratio(name));
            }
        }
        let any = |is: &dyn Fn(&Summary<MicrobenchFigures>) -> bool| runs.iter().any(|(_, run)| is(run));
        let largest = runs.iter().max_by_key(|(_, summary)| kib(summary));
        let size = |(directory, summary): &(String, Summary<MicrobenchFigures>)| Size {
            data_kib: kib(summary),
            directory: directory.clone(),
            valid: summary.valid,
            sharing_rate: summary.sharing_rate,
            verdict: summary.verdict.clone(),
            simulated_misses: summary
                .simulated
                .as_ref()
                .map(|simulated| simulated.ratio(OPPOSED_OVER_RECOMMENDED)),
            simulated_time: summary
                .simulated
                .as_ref()
                .map(|simulated| simulated.time_ratio(OPPOSED_OVER_RECOMMENDED)),
            predicted_misses: summary.predicted().map(|predicted| predicted.ratio(OPPOSED_OVER_RECOMMENDED)),
            predicted_time: summary
                .predicted()
                .map(|predicted| predicted.time_ratio(OPPOSED_OVER_RECOMMENDED)),
        };
        Some(Self {
            schema: SUMMARY_SCHEMA.to_owned(),
            experiment: "microbench_scan".to_owned(),
            guest: first.guest.clone(),
            started_utc: first.started_utc.clone(),
            duration_s: runs.iter().map(|(_, summary)| summary.duration_s).sum(),
            valid: runs.iter().all(|(_, summary)| summary.valid),
            arms,
            ratios,
            sharing_rate: largest.and_then(|(_, summary)| summary.sharing_rate),
            simulated_rank_correlation: any(&|run| run.simulated.is_some()).then(|| {
                correlation(runs, |run| {
                    let simulated = run.simulated.as_ref()?;
                    let as_timed = simulated.origin != AccessOrigin::RandomReads;
                    Some(simulated.time_ratio(OPPOSED_OVER_RECOMMENDED).filter(|_| as_timed)?.value)
                })
            }),
            predicted_rank_correlation: any(&|run| run.predicted().is_some())
                .then(|| correlation(runs, |run| run.predicted()?.time_ratio(OPPOSED_OVER_RECOMMENDED))),
            sizes: runs.iter().map(size).collect(),
            environment: first.environment.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::{ByKind, CacheModel, Counts};
    use crate::summary::{Arm, SimulatedBlock, SimulatedMisses, SimulatedSample, SimulatedVcpu};

    fn simulated(origin: AccessOrigin, opposed_misses: u64) -> SimulatedMisses {
        let sample = |arm, misses| {
            let counts = Counts {
                accesses: ByKind { reads: 1000, ..ByKind::default() },
                references: ByKind::default(),
                misses: ByKind { reads: misses, ..ByKind::default() },
            };
            SimulatedSample {
                arm,
                vcpus: vec![SimulatedVcpu { vm: "vm1".into(), vcpu: 0, domain: 0, counts }],
            }
        };
        let samples = vec![sample(Arm::Recommended, 10), sample(Arm::Opposed, opposed_misses)];
        let block =
            SimulatedBlock { number: 1, samples, lost: 0, without_frame: 0, elsewhere: 0, set_forward: 0 };
        SimulatedMisses::of(CacheModel::preset("paper").unwrap(), 8, origin, vec![block])
    }

    /// A run of a size with this measured ratio, and so many simulated misses.
    fn run(
        data_kib: u64,
        measured: f64,
        simulated: Option<SimulatedMisses>,
    ) -> (String, Summary<MicrobenchFigures>) {
        let text = json!({
            "schema": SUMMARY_SCHEMA, "experiment": "microbench", "guest": "process", "arms": {}, "blocks": [],
            "ratios": {OPPOSED_OVER_RECOMMENDED: {"value": measured, "ci95": null, "n": 6, "test": null}},
            "simulated": simulated, "arms_busy": {}, "arms_host_busy": {}, "arms_time": {}, "vcpus": [],
            "events": [], "trend": null,
            "config": {"data_kib": data_kib, "cold_kib": null, "private_kib": 1, "burst_reads": 1, "idle_us": 0,
                       "seconds_per_arm": 1.0, "settle_s": 0.1, "repetitions": 1, "warm_up_blocks": 0,
                       "cache_level": null, "seed": 1, "merging_s": null},
        });
        (format!("data-{data_kib}-kib"), serde_json::from_value(text).unwrap())
    }

    #[test]
    fn simulated_and_measured_sizes_have_a_correlation_if_what_was_timed_was_simulated() {
        let of = |origins: [Option<AccessOrigin>; 4]| {
            let sizes = (1..).zip(origins).map(|(number, origin)| {
                run(number * 256, number as f64, origin.map(|origin| simulated(origin, 10 + number * 100)))
            });
            ScanSummary::of(&sizes.collect::<Vec<_>>()).unwrap().simulated_rank_correlation
        };
        let known = Some(AccessOrigin::KnownReads);
        let random = Some(AccessOrigin::RandomReads);
        assert_eq!(of([known; 4]), Some(Some(1.0)));
        assert_eq!(of([None, known, known, known]), Some(Some(1.0)), "not the first size alone decides");
        assert_eq!(of([None, None, known, known]), Some(None), "two sizes");
        assert_eq!(of([None; 4]), None, "nothing was simulated");
        assert_eq!(of([random; 4]), Some(None), "what was timed read a ring");
        assert_eq!(of([random, known, known, known]), Some(Some(1.0)));
    }
}
