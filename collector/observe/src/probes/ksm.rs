//! Merges and breaks of KSM per process.
//!
//! The kernel traces every merge, but not every break: a page that is written to leaves its merged frame by
//! an ordinary page fault. ksmd detects it on its next visit, and only visits that find the whole frame gone
//! are traced (`remove_node_from_stable_tree` against `remove_rmap_item_from_tree` in mm/ksm.c, Linux 6.18).
//! So breaks are counted by balance, which misses none: pages merged since a moment, minus the increase of
//! `ksm_merging_pages` since then.

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::tp_btf::BtfTracePointLink;
use huddle_abi::{KsmCounts, KsmTotals, ProcessKey};
use huddle_model::availability::Availability;
use huddle_model::vm::TaskId;

use super::attach::Attacher;
use super::program::Program;
use super::{ProbeError, if_there, take_map};
pub use huddle_host::process_ksm::merging_pages;

/// What KSM did to one process since the probe was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessMerges {
    /// The process.
    pub process: TaskId,
    /// Pages mapped to a merged frame.
    pub merged_pages: u64,
    /// Failed merges: the page changed, or was busy.
    pub failed_merges: u64,
    /// Pages mapped to the kernel's zero page; `None` where that is not traced.
    pub zero_merged_pages: Option<u64>,
    /// Pages that ksmd found to have left a merged frame that is gone: a part of the breaks, see the module;
    /// `None` where that is not traced.
    pub removed_pages: Option<u64>,
    key: ProcessKey,
}

/// What KSM did on the whole host since the probe was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMerges {
    /// Merged frames that were no longer mapped; `None` where that is not traced.
    pub frames_removed: Option<u64>,
    /// Events of an unknown process, because it was ending.
    pub unattributed: u64,
}

/// Counts merges per process in the kernel.
pub struct KsmProbe {
    processes: PerCpuHashMap<MapData, ProcessKey, KsmCounts>,
    totals: PerCpuArray<MapData, KsmTotals>,
    tick_ns: u64,
    zero: Option<BtfTracePointLink>,
    removals: Option<BtfTracePointLink>,
    frames: Option<BtfTracePointLink>,
    _merges: BtfTracePointLink,
}

impl KsmProbe {
    pub(super) fn attach(attacher: &mut Attacher<'_>, tick_ns: u64) -> Availability<Self> {
        let mut optional = |program| match attacher.tracepoint(program) {
            Availability::Available(link) => Some(link),
            Availability::Unavailable(_) => None,
        };
        let zero = optional(Program::KsmMergeOnePage);
        let removals = optional(Program::KsmRemoveRmapItem);
        let frames = optional(Program::KsmRemoveKsmPage);
        let merges = match attacher.tracepoint(Program::KsmMergeWithKsmPage) {
            Availability::Available(link) => link,
            Availability::Unavailable(reason) => return Availability::Unavailable(reason),
        };
        let attach = || -> Result<_, ProbeError> {
            let (processes, totals) = (take_map(attacher.ebpf, PROCESSES)?, take_map(attacher.ebpf, TOTALS)?);
            let processes = PerCpuHashMap::try_from(processes).map_err(failed(PROCESSES))?;
            let totals = PerCpuArray::try_from(totals).map_err(failed(TOTALS))?;
            Ok(Self { processes, totals, tick_ns, zero, removals, frames, _merges: merges })
        };
        attach().into()
    }

    /// Every process with KSM events, in ascending process id.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn read(&self) -> Result<Vec<ProcessMerges>, ProbeError> {
        let mut merges = Vec::new();
        for row in self.processes.iter() {
            let (key, per_cpu) = row.map_err(failed(PROCESSES))?;
            let sum = |part: fn(&KsmCounts) -> u64| per_cpu.iter().map(part).sum::<u64>();
            merges.push(ProcessMerges {
                process: TaskId {
                    id: key.tgid.cast_signed(),
                    start_ticks: key.start_boottime_ns / self.tick_ns,
                },
                merged_pages: sum(|counts| counts.merges),
                failed_merges: sum(|counts| counts.failures),
                zero_merged_pages: self.zero.as_ref().map(|_| sum(|counts| counts.zero_merges)),
                removed_pages: self.removals.as_ref().map(|_| sum(|counts| counts.removals)),
                key,
            });
        }
        merges.sort_unstable_by_key(|row| row.process);
        Ok(merges)
    }

    /// Frees an entry of the kernel's map: call it for ended processes.
    ///
    /// # Errors
    /// The entry cannot be removed.
    pub fn forget(&mut self, merges: &ProcessMerges) -> Result<(), ProbeError> {
        if_there(self.processes.remove(&merges.key)).map_err(failed(PROCESSES))
    }

    /// Counts that are not per process.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn host(&self) -> Result<HostMerges, ProbeError> {
        let totals = self.totals.get(&0, 0).map_err(failed(TOTALS))?;
        Ok(HostMerges {
            frames_removed: self.frames.as_ref().map(|_| totals.iter().map(|t| t.frames_removed).sum()),
            unattributed: totals.iter().map(|totals| totals.unattributed).sum(),
        })
    }
}

const PROCESSES: &str = "KSM_PROCESSES";
const TOTALS: &str = "KSM_TOTALS";

fn failed(map: &'static str) -> impl Fn(MapError) -> ProbeError {
    move |source| ProbeError::Map { map, source }
}

/// Breaks of one process, by balance; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakCount {
    merged_pages: u64,
    merging_pages: u64,
    broken_pages: u64,
}

impl BreakCount {
    /// Starts at the current values of the probe and of `ksm_merging_pages`.
    pub fn new(merged_pages: u64, merging_pages: u64) -> Self {
        Self { merged_pages, merging_pages, broken_pages: 0 }
    }

    /// Breaks since the start by this reading: possibly too high by a merge or two that ksmd has traced but
    /// not counted yet (`try_to_merge_two_pages` before `stable_tree_append`, mm/ksm.c, Linux 6.18), and too
    /// low by merges between the two readings.
    pub fn apparent(&self, merged_pages: u64, merging_pages: u64) -> u64 {
        let merged = merged_pages.saturating_sub(self.merged_pages);
        (self.merging_pages + merged).saturating_sub(merging_pages)
    }

    /// Breaks since the start, from the probe's `merged_pages` and the kernel's `merging_pages`.
    ///
    /// Never decreases: the two are read one after the other, and a merge in between looks like an undone
    /// break until the next reading.
    pub fn update(&mut self, merged_pages: u64, merging_pages: u64) -> u64 {
        self.broken_pages = self.broken_pages.max(self.apparent(merged_pages, merging_pages));
        self.broken_pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_are_pages_that_are_no_longer_merged() {
        let mut breaks = BreakCount::new(100, 40);
        assert_eq!(breaks.update(100, 40), 0);
        assert_eq!(breaks.update(110, 45), 5);
        assert_eq!(breaks.update(110, 20), 30);
        assert_eq!(breaks.update(110, 21), 30, "a reading in between does not undo breaks");
        assert_eq!(breaks.update(120, 21), 39);
    }
}
