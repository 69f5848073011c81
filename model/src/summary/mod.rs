//! The schema of `summary.json`, the result of an experiment: `huddle/summary/1`.
//!
//! One definition for writers and readers of summaries. The common part of all experiments is [`Summary`],
//! with figures of single experiments beside it ([`MicrobenchFigures`], [`WebFigures`]). A reader for any
//! experiment uses `Summary`, whose further figures are plain JSON.
//!
//! Figures are of valid blocks only. An interval is null if there are too few blocks, and so is an
//! unavailable figure; neither is ever 0. This version writes all optional fields; fields that a summary of
//! another version lacks are read as unknown.

mod arm;
mod environment;
mod figure;
mod kinds;
mod measured;
mod microbench;
mod predicted;
mod sample;
mod scan;
mod simulated;
mod steps;
mod web;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::availability::Availability;
use crate::matrix::SharingMatrix;
use crate::plan::Plan;
use crate::topology::Topology;

pub use crate::cache::estimate::MISS_OVER_HIT;
pub use arm::{Arm, by_order_of_arms};
pub use environment::{Environment, Extra};
pub use figure::{ArmFigure, Ratio, SECONDS_A_MILLION_READS, figures};
pub use kinds::one_a_kind;
pub use microbench::{MicrobenchConfig, MicrobenchFigures, VcpuFigures};
pub use predicted::{PredictedCaches, PredictedMisses, PredictedReads, PredictedVm};
pub use sample::{Block, GuestSample, Sample, Seen, TenantSample, VcpuProbe};
pub use scan::{OPPOSED_OVER_RECOMMENDED, ScanSummary, Size};
pub use simulated::{
    AccessOrigin, MICROSECONDS, MISSES_PER_READ, MISSES_PER_THOUSAND_READS,
    MISSES_PER_THOUSAND_READS_OF_GUEST, SIMULATED_RATIOS, SimulatedBlock, SimulatedDomain, SimulatedMisses,
    SimulatedSample, SimulatedVcpu, SimulatedVm, misses_for,
};
pub use steps::{ArmSteps, MAX_BLOCKS, NoSteps, ShownFigures, SizeDirectory};
pub use web::{Failure, Requests, Response, TenantFigures, WebConfig, WebFigures, good_us};

/// Name of a result's file within the directory of an experiment.
pub const SUMMARY_FILE: &str = "summary.json";

/// The value of the summary's `schema`.
pub const SUMMARY_SCHEMA: &str = "huddle/summary/1";

/// The result of an experiment. `F` has the experiment's own figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary<F = Map<String, Value>> {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// Name of the experiment.
    pub experiment: String,
    /// What was used as VMs.
    pub guest: String,
    /// What ran the VMs' instructions, `kvm` or `tcg`; null for processes and domains of Xen.
    pub accelerator: Option<String>,
    /// When it began, UTC, RFC 3339.
    pub started_utc: Option<String>,
    /// Total duration, in seconds.
    pub duration_s: Option<f64>,
    /// Whether every block is valid: pages stayed merged (in a placebo: there was no merging), and every
    /// guest ran.
    #[serde(default)]
    pub valid: bool,
    /// Why blocks were left out, one sentence each.
    #[serde(default)]
    pub invalid_blocks: Vec<String>,
    /// The main figure of each arm.
    pub arms: BTreeMap<String, ArmFigure>,
    /// LLC misses per operation, or why they are unknown.
    pub llc_misses: Option<Availability<BTreeMap<String, ArmFigure>>>,
    /// Misses that an estimate expects, or why there is none; absent if none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Availability<PredictedMisses>>,
    /// Misses that a simulated cache has had; absent if none was simulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<SimulatedMisses>,
    /// Why nothing was timed; absent where something was to be and was, or where nothing is ever timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untimed: Option<String>,
    /// Ratios of the arms, paired by block: of times, so that above 1 the arm named first is slower.
    #[serde(default)]
    pub ratios: BTreeMap<String, Option<Ratio>>,
    /// What the ratio of the arms that are compared means, in one sentence: of opposed over recommended, or, where VMs
    /// were placed by what they read too, of recommended over that.
    pub verdict: Option<String>,
    /// Drift of the main figure of the recommended arm over the run, relative to its median.
    pub drift: Option<f64>,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Median rate (0 to 1) of the other pairs.
    pub sharing_rate_across: Option<f64>,
    /// The paper's Table 1: what VMs shared after boot; absent if an experiment does not measure it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Availability<BootFigures>>,
    /// The specification, with keys of the experiment; `data` names the data of each VM.
    #[serde(default)]
    pub spec: Value,
    /// The cache domains used.
    pub topology: Option<Topology>,
    /// What the VMs shared before the first window.
    pub matrix: Option<SharingMatrix>,
    /// Where each arm placed the VMs.
    #[serde(default)]
    pub plans: BTreeMap<String, Plan>,
    /// Every measured block.
    #[serde(default)]
    pub blocks: Vec<Block>,
    /// The machine.
    pub environment: Option<Environment>,
    /// Possible disturbances of the run, one sentence each.
    #[serde(default)]
    pub disturbances: Vec<String>,
    /// Figures of this experiment only.
    #[serde(flatten)]
    pub own: F,
}

/// What VMs shared once they were up, before they held data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BootFigures {
    /// The complete matrix.
    pub matrix: SharingMatrix,
    /// Median rate (0 to 1) of pairs of one flavour.
    pub rate_within: Option<f64>,
    /// Median rate (0 to 1) of the other pairs.
    pub rate_across: Option<f64>,
}

/// A text that is not a summary of a supported version.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// It is not a summary.
    #[error("not an experiment's result: {0}")]
    NotASummary(serde_json::Error),
    /// It has another version.
    #[error("its schema is {0:?}, and this version reads {SUMMARY_SCHEMA:?} only")]
    Schema(String),
    /// It lacks a required field, or has a field of another type.
    #[error("not a {SUMMARY_SCHEMA}: {0}")]
    Content(serde_json::Error),
}

impl<F: DeserializeOwned> Summary<F> {
    /// Parses a summary.
    ///
    /// # Errors
    /// It is not a summary, or has another version.
    pub fn from_json(text: &str) -> Result<Self, SummaryError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        // The schema decides what the rest means, so it is checked first.
        let head: Head = serde_json::from_str(text).map_err(SummaryError::NotASummary)?;
        if head.schema != SUMMARY_SCHEMA {
            return Err(SummaryError::Schema(head.schema));
        }
        serde_json::from_str(text).map_err(SummaryError::Content)
    }
}

impl<F> Summary<F> {
    /// A ratio of the arms, if available.
    pub fn ratio(&self, name: &str) -> Option<Ratio> {
        self.ratios.get(name).copied().flatten()
    }

    /// Expected misses, if available.
    pub fn predicted(&self) -> Option<&PredictedMisses> {
        self.predicted.as_ref()?.value()
    }

    /// The data of each VM, in the order of the matrix, if the specification has it.
    pub fn data(&self) -> Vec<&str> {
        self.names("data")
    }

    /// The data that each VM holds and never reads, in the order of the matrix, an empty name for none; nothing where
    /// the specification has none.
    pub fn cold(&self) -> Vec<&str> {
        self.names("cold")
    }

    fn names(&self, key: &str) -> Vec<&str> {
        let names = self.spec.get(key).and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Why blocks are left out, one sentence for each kind of reason, that of most blocks first.
    pub fn left_out(&self) -> Vec<String> {
        let blocks: Vec<(usize, &str)> =
            self.blocks.iter().filter_map(|block| Some((block.number, block.invalid.as_deref()?))).collect();
        // Summaries may have the reasons without the blocks.
        if blocks.is_empty() {
            one_a_kind(&self.invalid_blocks)
        } else {
            kinds::of_blocks(&blocks, self.blocks.len())
        }
    }

    /// Whether one block at least is valid.
    pub fn has_result(&self) -> bool {
        self.blocks.iter().any(|block| block.invalid.is_none())
    }

    /// Why there are no LLC misses, if the summary has the reason.
    pub fn why_no_misses(&self) -> Option<&str> {
        self.llc_misses.as_ref()?.reason()
    }
}

#[cfg(test)]
mod tests;
