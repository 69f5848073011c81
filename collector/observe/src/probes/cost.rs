//! Cost of the programs, from the kernel's BPF statistics.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::sys::{Stats, enable_stats};

use super::program::Program;
use super::{ProbeError, one_line};

/// Runs of one program since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCost {
    /// How often it ran while statistics were on.
    pub runs: u64,
    /// Total time of these runs, in nanoseconds.
    pub run_ns: u64,
}

/// Keeps the kernel's BPF statistics on (`BPF_ENABLE_STATS`, Linux 5.8) until it is dropped. They cost
/// two readings of a clock for each run of every BPF program on the host.
#[derive(Debug)]
pub struct CostMeter {
    _on: OwnedFd,
}

impl CostMeter {
    /// Turns the statistics on.
    ///
    /// # Errors
    /// The kernel does not allow it.
    pub fn start() -> Result<Self, ProbeError> {
        let on =
            enable_stats(Stats::RunTime).map_err(|error| ProbeError::Load { reason: one_line(&error) })?;
        Ok(Self { _on: on })
    }
}

/// The cost of each program that is loaded.
pub(super) fn read(ebpf: &Ebpf) -> BTreeMap<Program, ProgramCost> {
    let cost = |program: &Program| {
        let info = ebpf.program(program.name())?.info().ok()?;
        let run_ns = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
        Some((*program, ProgramCost { runs: info.run_count(), run_ns }))
    };
    Program::ALL.iter().filter_map(cost).collect()
}
