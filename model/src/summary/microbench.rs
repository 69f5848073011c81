//! What only the microbenchmark measures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ArmFigure;
use crate::availability::Availability;
use crate::observation::CountedEvent;
use crate::stats::Trend;

/// Figures of the microbenchmark beside those of every experiment. Its main figure is the reads per
/// second of all guests together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicrobenchFigures {
    /// CPU time per read, which other programs on the host disturb less.
    pub arms_busy: BTreeMap<String, ArmFigure>,
    /// CPU time that the host gave the vCPUs per read: with VMs, a guest cannot tell when the host lets
    /// another run.
    pub arms_host_busy: BTreeMap<String, ArmFigure>,
    /// Time for a million reads of each guest, in seconds: the paper's figure is of a fixed number.
    pub arms_time: BTreeMap<String, ArmFigure>,
    /// Reads and misses of each vCPU; every other counter stands in `blocks`.
    pub vcpus: Vec<VcpuFigures>,
    /// The event that was counted for each role, or why none was.
    pub events: Vec<CountedEvent>,
    /// Whether the reads per second of the recommended arm rose or fell (Mann-Kendall); null for few blocks.
    pub trend: Option<Trend>,
    /// The settings as they came out.
    pub config: MicrobenchConfig,
}

/// One vCPU in each arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuFigures {
    /// Name of its VM.
    pub vm: String,
    /// Number of the vCPU within it.
    pub vcpu: u32,
    /// Reads per second.
    pub reads: BTreeMap<String, ArmFigure>,
    /// LLC misses per read, or why they cannot be told.
    pub llc_misses: Availability<BTreeMap<String, ArmFigure>>,
}

/// The settings of a run, in the units of the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicrobenchConfig {
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
