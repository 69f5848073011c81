//! Several data sizes, one run each, beside each other: at which the effect is largest, and where it ends.
//!
//! The `summary.json` of a scan has the form of every other, its arms and ratios named with their size
//! (`recommended_512_kib`); the whole result of each size stands in its own directory.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use crate::environment::Environment;
use crate::summary::{ArmFigure, Ratio, Summary};

/// The result of a scan, as it is written.
#[derive(Clone, Debug, Serialize)]
pub struct ScanSummary {
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
    /// Whether every block of every size is valid.
    pub valid: bool,
    /// Reads per second of all guests together, by arm and size.
    pub arms: BTreeMap<String, ArmFigure>,
    /// Ratios of times per read, by size.
    pub ratios: BTreeMap<String, Option<Ratio>>,
    /// Median rate (0 to 1) of the pairs that hold the same data, of the largest size; each size has its
    /// own in `sizes`.
    pub sharing_rate: Option<f64>,
    /// The sizes, in the order they were measured.
    pub sizes: Vec<Size>,
    /// The machine, before the first size.
    pub environment: Environment,
}

/// One size.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    /// KiB of a data set.
    pub data_kib: u64,
    /// The directory of its own summary, beneath that of the scan.
    pub directory: String,
    /// Whether every block is valid.
    pub valid: bool,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Its result in one sentence.
    pub verdict: String,
}

impl ScanSummary {
    /// Puts the summaries of all sizes beside each other; `None` when there are none.
    pub fn of(runs: &[(String, Summary)]) -> Option<Self> {
        let (_, first) = runs.first()?;
        let named = |name: &str, summary: &Summary| format!("{name}_{}_kib", summary.config.data_kib);
        let (mut arms, mut ratios) = (BTreeMap::new(), BTreeMap::new());
        for (_, summary) in runs {
            arms.extend(summary.arms.iter().map(|(arm, figure)| (named(arm, summary), figure.clone())));
            for (name, ratio) in [
                ("opposed_over_recommended", summary.ratios.opposed_over_recommended),
                ("not_merged_over_opposed", summary.ratios.not_merged_over_opposed),
                ("not_merged_over_recommended", summary.ratios.not_merged_over_recommended),
            ] {
                ratios.insert(named(name, summary), ratio);
            }
        }
        let largest = runs.iter().max_by_key(|(_, summary)| summary.config.data_kib);
        let size = |(directory, summary): &(String, Summary)| Size {
            data_kib: summary.config.data_kib,
            directory: directory.clone(),
            valid: summary.valid,
            sharing_rate: summary.sharing_rate,
            verdict: summary.verdict.clone(),
        };
        Some(Self {
            schema: first.schema,
            experiment: "microbench_scan",
            guest: first.guest,
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

    /// What a person reads of it.
    pub fn text(&self) -> String {
        let header = [
            "data",
            "sharing",
            "recommended, reads/s",
            "opposed, reads/s",
            "C / B",
            "A / C",
            "A / B",
            "valid",
        ];
        let mut table: Table = crate::report::table(header.map(str::to_owned).to_vec());
        for size in &self.sizes {
            let named = |name: &str| format!("{name}_{}_kib", size.data_kib);
            let arm = |name| {
                let figure = self.arms.get(&named(name));
                figure.map_or_else(|| "-".into(), |figure| crate::report::number(figure.estimate.median, 0))
            };
            let ratio = |name| crate::report_paper::ratio(self.ratios.get(&named(name)).copied().flatten());
            table.add_row([
                format!("{} KiB", size.data_kib),
                crate::report_paper::percent(size.sharing_rate),
                arm("recommended"),
                arm("opposed"),
                ratio("opposed_over_recommended"),
                ratio("not_merged_over_opposed"),
                ratio("not_merged_over_recommended"),
                if size.valid { "yes".into() } else { "NO".into() },
            ]);
        }
        format!(
            "By size of the data (A not merged, B recommended, C opposed; ratios of time per read)\n{table}\n"
        )
    }
}
