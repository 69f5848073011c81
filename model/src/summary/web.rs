//! Figures of the web experiment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ArmFigure, Ratio};
use crate::stats::Distribution;

/// Figures of the web experiment in addition to those of every experiment. Its main figure is the mean response
/// time of all servers' responses in a block. Figures are of good responses only; failed ones are counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WebFigures {
    /// Contents of the requests.
    pub page: String,
    /// Distribution of all response times of an arm, in microseconds.
    pub latency_us: BTreeMap<String, Distribution>,
    /// Requests of each arm.
    pub requests: BTreeMap<String, Requests>,
    /// Each server.
    pub tenants: Vec<TenantFigures>,
    /// Pages of the data that each pair had merged before the first window.
    pub data_shared_pages: Vec<Vec<u64>>,
    /// The matrix of the plans.
    pub placed_by: String,
    /// The effective settings.
    pub config: WebConfig,
}

/// Requests of an arm in valid blocks, without the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// All requests.
    pub sent: usize,
    /// Requests without a good response, including time-outs.
    pub failed: usize,
    /// Time-outs.
    pub timed_out: usize,
}

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TenantFigures {
    /// Name of its VM.
    pub vm: String,
    /// Name of its data.
    pub data: String,
    /// Whether its requests write to its data.
    pub writes: bool,
    /// Mean response time in a block, its median over blocks, by arm.
    pub arms: BTreeMap<String, ArmFigure>,
    /// Mean response time, opposed over recommended.
    pub opposed_over_recommended: Option<Ratio>,
}

/// The effective settings of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WebConfig {
    /// KiB of a data set.
    pub data_kib: u64,
    /// Visits of a request to its data.
    pub visits: u64,
    /// Dependent reads of a visit.
    pub reads_per_visit: u64,
    /// Whether requests followed responses (`closed`) or a clock (`open`).
    pub loop_kind: String,
    /// Cache level of the domains; null if the topology lacks it.
    pub cache_level: Option<u8>,
    /// How long merging took, in seconds.
    pub merging_s: Option<f64>,
}

/// One request and its outcome: a row of the table `responses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// When it was sent or, in an open loop, was to be sent: microseconds since the Unix epoch.
    pub at_us: i64,
    /// From then until the body was complete, or until it failed, in nanoseconds.
    pub latency_ns: u64,
    /// The HTTP status; `None` without a response.
    pub status: Option<u16>,
    /// Why it is not a good response.
    pub failure: Option<Failure>,
}

/// Why a request has no good response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Connection,
    /// No response in time.
    TimedOut,
    /// A status other than 200.
    Status,
    /// A body that is not a position within the data.
    Body,
}

impl Failure {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::TimedOut => "timed_out",
            Self::Status => "status",
            Self::Body => "body",
        }
    }
}

/// The response times of the good ones, in microseconds.
pub fn good_us(responses: &[Response]) -> impl Iterator<Item = f64> {
    responses
        .iter()
        .filter(|response| response.failure.is_none())
        .map(|response| response.latency_ns as f64 / 1000.0)
}
