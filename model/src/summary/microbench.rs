//! Figures of the microbenchmark.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ArmFigure;
use crate::availability::Availability;
use crate::observation::CountedEvent;
use crate::stats::Trend;

/// Figures of the microbenchmark in addition to those of every experiment. Its main figure is the reads per
/// second of all guests together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicrobenchFigures {
    /// CPU time per read, which is less disturbed by other programs on the host.
    pub arms_busy: BTreeMap<String, ArmFigure>,
    /// CPU time that the host gave the vCPUs per read: with VMs, a guest cannot see when the host runs
    /// something else.
    pub arms_host_busy: BTreeMap<String, ArmFigure>,
    /// Time for a million reads of each guest, in seconds ([`super::SECONDS_A_MILLION_READS`]): the paper has it for a
    /// fixed number. People are shown [`ArmFigure::shown`], nanoseconds for a read.
    pub arms_time: BTreeMap<String, ArmFigure>,
    /// Reads and misses of each vCPU; all other counters are in `blocks`.
    pub vcpus: Vec<VcpuFigures>,
    /// The event that was counted for each role, or why there was none.
    pub events: Vec<CountedEvent>,
    /// Whether the reads per second of the recommended arm rose or fell (Mann-Kendall); null for few blocks.
    pub trend: Option<Trend>,
    /// The effective settings.
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
    /// LLC misses per read, or why they are unknown.
    pub llc_misses: Availability<BTreeMap<String, ArmFigure>>,
}

/// The settings of a run, in the units of the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicrobenchConfig {
    /// KiB of a data set.
    pub data_kib: u64,
    /// KiB that a VM holds besides and never reads, if it holds any; null where none does.
    pub cold_kib: Option<u64>,
    /// KiB of each guest's own memory.
    pub private_kib: u64,
    /// Reads between two pauses.
    pub burst_reads: u64,
    /// Length of a pause, in microseconds; 0 only yields.
    pub idle_us: u64,
    /// Seconds of measurement per arm.
    pub seconds_per_arm: f64,
    /// Seconds of warm-up in a new placement.
    pub settle_s: f64,
    /// Blocks.
    pub repetitions: usize,
    /// Uncounted blocks before these.
    pub warm_up_blocks: usize,
    /// Cache level of the domains; null if the topology lacks it.
    pub cache_level: Option<u8>,
    /// Seed of data, orders and intervals.
    pub seed: u64,
    /// How long merging took, in seconds; null in a placebo.
    pub merging_s: Option<f64>,
}
