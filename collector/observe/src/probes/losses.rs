//! Events that the programs lost because a buffer or a map was full.

use aya::maps::{MapData, PerCpuArray};
use huddle_abi::Loss;
use huddle_model::availability::Availability;

use super::attach::Attacher;
use super::{ProbeError, take_map};

/// Losses since the programs were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Starts and ends of passes for which the ring buffer was full.
    pub pass_events: u64,
    /// KSM events of processes for which the map was full.
    pub ksm_events: u64,
    /// Guest exits whose reason did not fit in the map.
    pub exit_reasons: u64,
    /// Entries into guest mode of threads for which the map was full.
    pub vcpu_threads: u64,
}

impl Losses {
    /// The sum of all losses.
    pub fn total(&self) -> u64 {
        self.pass_events + self.ksm_events + self.exit_reasons + self.vcpu_threads
    }
}

/// Reader of the counts of losses.
pub struct LossReader {
    counts: PerCpuArray<MapData, u64>,
}

impl LossReader {
    pub(super) fn take(attacher: &mut Attacher<'_>) -> Availability<Self> {
        let mut take = || {
            let map = take_map(attacher.ebpf, "LOSSES")?;
            let counts = PerCpuArray::try_from(map).map_err(failed)?;
            Ok::<_, ProbeError>(Self { counts })
        };
        take().into()
    }

    /// The losses so far.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn read(&self) -> Result<Losses, ProbeError> {
        let count = |loss: Loss| -> Result<u64, ProbeError> {
            Ok(self.counts.get(&(loss as u32), 0).map_err(failed)?.iter().sum())
        };
        Ok(Losses {
            pass_events: count(Loss::PassRing)?,
            ksm_events: count(Loss::KsmProcesses)?,
            exit_reasons: count(Loss::ExitReasons)?,
            vcpu_threads: count(Loss::VcpuThreads)?,
        })
    }
}

fn failed(source: aya::maps::MapError) -> ProbeError {
    ProbeError::Map { map: "LOSSES", source }
}
