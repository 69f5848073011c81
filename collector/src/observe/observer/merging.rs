//! Merges and breaks per VM, window by window.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::observation::MergeObservation;
use huddle_model::vm::{TaskId, Vm};

use super::super::probes::ksm::{BreakCount, KsmProbe, ProcessMerges, merging_pages};
use crate::host::HostRoot;

/// What was counted of one process when the window began.
#[derive(Clone, Copy, Debug)]
struct Before {
    merged_pages: u64,
    failed_merges: u64,
    broken_pages: u64,
    breaks: BreakCount,
}

/// KSM's doings with the VMs that are followed.
pub(super) struct MergeWindow {
    probe: Availability<KsmProbe>,
    processes: BTreeMap<TaskId, Before>,
}

impl MergeWindow {
    pub(super) fn new(probe: Availability<KsmProbe>) -> Self {
        Self { probe, processes: BTreeMap::new() }
    }

    /// What happened to `vms` since they were followed, or since the last call.
    pub(super) fn read(&mut self, root: &HostRoot, vms: &[Vm]) -> Vec<MergeObservation> {
        let counted = self.counted();
        vms.iter().map(|vm| self.of(root, vm, &counted)).collect()
    }

    /// Follows the processes of `vms`, and no others.
    pub(super) fn follow(&mut self, root: &HostRoot, vms: &[Vm]) {
        let counted = self.counted().unwrap_or_default();
        self.processes.retain(|process, _| vms.iter().any(|vm| vm.process == *process));
        for vm in vms {
            if self.processes.contains_key(&vm.process) {
                continue;
            }
            // A process that is gone by now has no beginning; the next round leaves it out.
            let Ok(merging) = merging_pages(root, vm.process.id) else { continue };
            let (merged_pages, failed_merges) = totals(counted.get(&vm.process));
            let breaks = BreakCount::new(merged_pages, merging);
            self.processes
                .insert(vm.process, Before { merged_pages, failed_merges, broken_pages: 0, breaks });
        }
        self.make_room(root, counted);
    }

    fn of(
        &mut self,
        root: &HostRoot,
        vm: &Vm,
        counted: &Result<BTreeMap<TaskId, ProcessMerges>, String>,
    ) -> MergeObservation {
        let merged_now: Availability<u64> = merging_pages(root, vm.process.id).into();
        let unknown = |reason: &str| MergeObservation {
            vm: vm.name.clone(),
            process: vm.process,
            merged_now: merged_now.clone(),
            merges: Availability::Unavailable(reason.to_owned()),
            breaks: Availability::Unavailable(reason.to_owned()),
            failed: Availability::Unavailable(reason.to_owned()),
        };
        let counted = match counted {
            Ok(counted) => counted,
            Err(reason) => return unknown(reason),
        };
        let Some(before) = self.processes.get_mut(&vm.process) else {
            return unknown("its merges were not followed from the beginning of the window");
        };
        let (merged_pages, failed_merges) = totals(counted.get(&vm.process));
        let breaks = merged_now.clone().map(|merging| {
            let broken = before.breaks.update(merged_pages, merging);
            broken - std::mem::replace(&mut before.broken_pages, broken)
        });
        MergeObservation {
            vm: vm.name.clone(),
            process: vm.process,
            merged_now,
            merges: Availability::Available(grown(&mut before.merged_pages, merged_pages)),
            breaks,
            failed: Availability::Available(grown(&mut before.failed_merges, failed_merges)),
        }
    }

    fn counted(&self) -> Result<BTreeMap<TaskId, ProcessMerges>, String> {
        match &self.probe {
            Availability::Available(probe) => {
                let read = probe.read().map_err(|error| error.to_string())?;
                Ok(read.into_iter().map(|merges| (merges.process, merges)).collect())
            }
            Availability::Unavailable(reason) => Err(reason.clone()),
        }
    }

    /// The kernel's map keeps processes that are gone: without this it would fill up.
    fn make_room(&mut self, root: &HostRoot, counted: BTreeMap<TaskId, ProcessMerges>) {
        let Availability::Available(probe) = &mut self.probe else { return };
        for merges in counted.values().filter(|merges| !self.processes.contains_key(&merges.process)) {
            let gone = merging_pages(root, merges.process.id).is_err_and(|error| error.is_gone());
            if gone && let Err(error) = probe.forget(merges) {
                tracing::debug!("{error}");
            }
        }
    }
}

fn totals(merges: Option<&ProcessMerges>) -> (u64, u64) {
    merges.map_or((0, 0), |merges| (merges.merged_pages, merges.failed_merges))
}

/// By how much a total has grown; it is the new beginning.
fn grown(before: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(before, now))
}
