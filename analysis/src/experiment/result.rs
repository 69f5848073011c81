//! What is read of an experiment's `summary.json` (`huddle/summary/1`).
//!
//! Experiments differ in what they measure, so only what all of them have is required; whatever else a
//! summary holds is passed over, and what it lacks is said to be missing.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::rates::CounterDelta;
use huddle_model::stats::Estimate;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What the summary's `schema` says.
pub(crate) const SUMMARY_SCHEMA: &str = "huddle/summary/1";

/// An experiment's result.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Summary {
    pub(crate) experiment: String,
    /// What stood for the VMs.
    pub(crate) guest: String,
    pub(crate) started_utc: Option<String>,
    pub(crate) duration_s: Option<f64>,
    /// Why blocks were left out, one sentence each.
    #[serde(default)]
    pub(crate) invalid_blocks: Vec<String>,
    /// The main figure of each arm.
    pub(crate) arms: BTreeMap<String, ArmFigure>,
    #[serde(default)]
    pub(crate) ratios: BTreeMap<String, Option<Ratio>>,
    pub(crate) verdict: Option<String>,
    /// What VMs shared after boot.
    pub(crate) boot: Option<Availability<Boot>>,
    /// What they shared while it was measured.
    pub(crate) matrix: Option<SharingMatrix>,
    #[serde(default)]
    pub(crate) plans: BTreeMap<String, Plan>,
    #[serde(default)]
    pub(crate) blocks: Vec<Block>,
    #[serde(default)]
    pub(crate) environment: Map<String, Value>,
    #[serde(default)]
    pub(crate) disturbances: Vec<String>,
    spec: Option<Value>,
    /// Everything else: further figures by arm are looked for in it.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A median over blocks, with its unit.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ArmFigure {
    #[serde(flatten)]
    pub(crate) estimate: Estimate,
    pub(crate) unit: String,
}

/// A median of paired ratios.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) ci95: Option<[f64; 2]>,
    pub(crate) n: Option<usize>,
}

/// What VMs shared after boot.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Boot {
    pub(crate) matrix: SharingMatrix,
}

/// Where an arm placed the VMs.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Plan {
    pub(crate) policy: String,
    #[serde(default)]
    pub(crate) placement: Vec<Placed>,
    pub(crate) shared_within: Option<u64>,
    pub(crate) shared_total: Option<u64>,
}

/// One vCPU of a plan.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Placed {
    pub(crate) vm: String,
    pub(crate) vcpu: u32,
    pub(crate) domain: u32,
}

/// One block: every arm once.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Block {
    pub(crate) number: u64,
    /// Why it must enter no figure.
    pub(crate) invalid: Option<String>,
    #[serde(default)]
    pub(crate) samples: Vec<Sample>,
}

/// One arm in one block.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Sample {
    pub(crate) arm: String,
    /// Each vCPU or server.
    #[serde(default, alias = "tenants")]
    pub(crate) guests: Vec<GuestSample>,
    /// What KSM did to each VM.
    #[serde(default)]
    pub(crate) merging: Vec<Merging>,
}

/// One vCPU in one arm's window.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GuestSample {
    pub(crate) vm: String,
    pub(crate) reads: Option<f64>,
    pub(crate) elapsed_ns: Option<f64>,
    pub(crate) busy_ns: Option<f64>,
    pub(crate) host: Option<HostSample>,
}

/// What the host saw of a vCPU.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HostSample {
    pub(crate) cpu_time_ns: Option<Availability<f64>>,
    pub(crate) counters: Option<CounterDelta>,
    pub(crate) migrations: Option<Availability<u64>>,
    pub(crate) domain_migrations: Option<Availability<u64>>,
}

/// What KSM did to a VM.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Merging {
    pub(crate) vm: String,
    pub(crate) breaks: Option<Availability<u64>>,
}

impl Summary {
    /// Reads one; the error is why it cannot be used, in one sentence.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        // The schema decides what the rest means, so it comes first.
        let head: Head =
            serde_json::from_str(text).map_err(|error| format!("not an experiment's result: {error}"))?;
        if head.schema != SUMMARY_SCHEMA {
            return Err(format!(
                "its schema is {:?}, and this version reads {SUMMARY_SCHEMA:?} only",
                head.schema
            ));
        }
        serde_json::from_str(text).map_err(|error| format!("not a {SUMMARY_SCHEMA}: {error}"))
    }

    /// Further figures by arm (`arms_time` and the like), by the name of their field.
    pub(crate) fn other_figures(&self) -> BTreeMap<&str, BTreeMap<String, ArmFigure>> {
        let figures = |value: &Value| serde_json::from_value(value.clone()).ok();
        let of_arms = self.rest.iter().filter(|(name, _)| name.starts_with("arms_"));
        of_arms.filter_map(|(name, value)| Some((name.as_str(), figures(value)?))).collect()
    }

    /// What each VM holds, in the order of the matrix, where the specification says so.
    pub(crate) fn data(&self) -> Vec<&str> {
        let data = self.spec.as_ref().and_then(|spec| spec.get("data")).and_then(Value::as_array);
        data.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Why there are no LLC misses, where the summary says so.
    pub(crate) fn why_no_misses(&self) -> Option<&str> {
        self.rest.get("llc_misses")?.get("unavailable")?.as_str()
    }
}
