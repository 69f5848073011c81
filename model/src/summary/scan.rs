//! Results of several data sizes, one run each: where the effect is largest, and where it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ArmFigure, Environment, MicrobenchFigures, Ratio, SUMMARY_SCHEMA, Summary};

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
            for name in ["opposed_over_recommended", "not_merged_over_opposed", "not_merged_over_recommended"]
            {
                ratios.insert(named(name), summary.ratio(name));
            }
        }
        let largest = runs.iter().max_by_key(|(_, summary)| kib(summary));
        let size = |(directory, summary): &(String, Summary<MicrobenchFigures>)| Size {
            data_kib: kib(summary),
            directory: directory.clone(),
            valid: summary.valid,
            sharing_rate: summary.sharing_rate,
            verdict: summary.verdict.clone(),
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
            sizes: runs.iter().map(size).collect(),
            environment: first.environment.clone(),
        })
    }
}
