//! The schema of `summary.json`, the result of an experiment: `huddle/summary/1`.
//!
//! One definition for whoever writes a summary and whoever reads one. What every experiment has stands
//! in [`Summary`]; what only one of them measures stands beside it ([`MicrobenchFigures`],
//! [`WebFigures`]). A reader that does not care which experiment it has takes `Summary`, whose further
//! figures are plain JSON.
//!
//! Figures are of valid blocks only. An interval that too few blocks support is null, and so is a
//! figure that cannot be had; neither is ever 0. Of what is optional here, everything is written by this
//! version; what a summary of another one lacks is read as not told.

mod arm;
mod environment;
mod figure;
mod microbench;
mod sample;
mod scan;
mod web;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::availability::Availability;
use crate::matrix::SharingMatrix;
use crate::plan::Plan;
use crate::topology::Topology;

pub use arm::Arm;
pub use environment::{Environment, Extra};
pub use figure::{ArmFigure, Ratio, figures};
pub use microbench::{MicrobenchConfig, MicrobenchFigures, VcpuFigures};
pub use sample::{Block, GuestSample, Sample, Seen, TenantSample, VcpuProbe};
pub use scan::{ScanSummary, Size};
pub use web::{Failure, Requests, Response, TenantFigures, WebConfig, WebFigures, good_us};

/// Name of a result's file within the directory of an experiment.
pub const SUMMARY_FILE: &str = "summary.json";

/// What the summary's `schema` says.
pub const SUMMARY_SCHEMA: &str = "huddle/summary/1";

/// The result of an experiment. `F` are the figures of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary<F = Map<String, Value>> {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// Which experiment.
    pub experiment: String,
    /// What stood for the VMs.
    pub guest: String,
    /// What ran the VMs' instructions, `kvm` or `tcg`; null for processes and domains of Xen.
    pub accelerator: Option<String>,
    /// When it began, UTC, RFC 3339.
    pub started_utc: Option<String>,
    /// How long it took in all, in seconds.
    pub duration_s: Option<f64>,
    /// Whether every block is valid: merging held (in a placebo: there was none), and every guest got to run.
    #[serde(default)]
    pub valid: bool,
    /// Why blocks were left out, one sentence each.
    #[serde(default)]
    pub invalid_blocks: Vec<String>,
    /// The main figure of each arm.
    pub arms: BTreeMap<String, ArmFigure>,
    /// LLC misses of an operation, or why they cannot be told.
    pub llc_misses: Option<Availability<BTreeMap<String, ArmFigure>>>,
    /// How the arms compare, paired by block: times, so that above 1 the arm named first is the slower one.
    #[serde(default)]
    pub ratios: BTreeMap<String, Option<Ratio>>,
    /// What the ratio of opposed over recommended means, in one sentence.
    pub verdict: Option<String>,
    /// How far the main figure of the recommended arm moved over the run, as a part of its median.
    pub drift: Option<f64>,
    /// Median rate (0 to 1) of the pairs that hold the same data.
    pub sharing_rate: Option<f64>,
    /// Median rate (0 to 1) of the pairs that do not.
    pub sharing_rate_across: Option<f64>,
    /// The paper's Table 1: what VMs shared after boot; absent where an experiment does not look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Availability<BootFigures>>,
    /// The specification, whose keys are the experiment's own; `data` names what each VM held.
    #[serde(default)]
    pub spec: Value,
    /// The cache domains that were used.
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
    /// What may have disturbed the run, one sentence each.
    #[serde(default)]
    pub disturbances: Vec<String>,
    /// Figures of this experiment alone.
    #[serde(flatten)]
    pub own: F,
}

/// What VMs shared once they were up, before they held data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BootFigures {
    /// All of it.
    pub matrix: SharingMatrix,
    /// Median rate (0 to 1) of pairs of one flavour.
    pub rate_within: Option<f64>,
    /// Median rate (0 to 1) of the other pairs.
    pub rate_across: Option<f64>,
}

/// A text that is no summary of a version that is read here.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// It is of no known form.
    #[error("not an experiment's result: {0}")]
    NotASummary(serde_json::Error),
    /// Another version.
    #[error("its schema is {0:?}, and this version reads {SUMMARY_SCHEMA:?} only")]
    Schema(String),
    /// It lacks what every summary has, or has something of another type.
    #[error("not a {SUMMARY_SCHEMA}: {0}")]
    Content(serde_json::Error),
}

impl<F: DeserializeOwned> Summary<F> {
    /// Reads one.
    ///
    /// # Errors
    /// It is no summary, or of another version.
    pub fn from_json(text: &str) -> Result<Self, SummaryError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        // The schema decides what the rest means, so it comes first.
        let head: Head = serde_json::from_str(text).map_err(SummaryError::NotASummary)?;
        if head.schema != SUMMARY_SCHEMA {
            return Err(SummaryError::Schema(head.schema));
        }
        serde_json::from_str(text).map_err(SummaryError::Content)
    }
}

impl<F> Summary<F> {
    /// A ratio of the arms, where it could be had.
    pub fn ratio(&self, name: &str) -> Option<Ratio> {
        self.ratios.get(name).copied().flatten()
    }

    /// What each VM holds, in the order of the matrix, where the specification tells.
    pub fn data(&self) -> Vec<&str> {
        let data = self.spec.get("data").and_then(Value::as_array);
        data.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Whether one block at least is valid.
    pub fn has_result(&self) -> bool {
        self.blocks.iter().any(|block| block.invalid.is_none())
    }

    /// Why there are no LLC misses, where the summary says so.
    pub fn why_no_misses(&self) -> Option<&str> {
        self.llc_misses.as_ref()?.reason()
    }
}

#[cfg(test)]
mod tests;
