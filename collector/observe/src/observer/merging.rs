//! Merges and breaks per VM, window by window.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::observation::MergeObservation;
use huddle_model::vm::{TaskId, Vm};

use super::super::probes::ksm::{BreakCount, KsmProbe, ProcessMerges, merging_pages};
use huddle_host::HostRoot;

/// How often an apparent break is read again, and after how long.
const LOOKS_AGAIN: u32 = 3;
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(200);

/// Counts of one process when the window began.
#[derive(Clone, Copy, Debug)]
struct Before {
    merged_pages: u64,
    failed_merges: u64,
    broken_pages: u64,
    breaks: BreakCount,
}

/// One reading of the totals of one VM.
struct Look<'a> {
    vm: &'a Vm,
    merged_pages: u64,
    failed_merges: u64,
    /// Why the two above are missing.
    unavailable: Option<String>,
    merged_now: Availability<u64>,
}

/// KSM's merges and breaks of the VMs that are followed.
pub(super) struct MergeWindow {
    probe: Availability<KsmProbe>,
    processes: BTreeMap<TaskId, Before>,
}

impl MergeWindow {
    pub(super) fn new(probe: Availability<KsmProbe>) -> Self {
        Self { probe, processes: BTreeMap::new() }
    }

    /// Merges and breaks of `vms` since they were first followed, or since the last call.
    pub(super) fn read(&mut self, root: &HostRoot, vms: &[Vm]) -> Vec<MergeObservation> {
        let mut looks = self.look(root, vms);
        // A merge in progress looks like a break for some microseconds. A real break stays.
        for _ in 0..LOOKS_AGAIN {
            if !looks.iter().any(|look| self.apparent_breaks(look) > 0) {
                break;
            }
            std::thread::sleep(LOOK_AGAIN_AFTER);
            for (look, again) in looks.iter_mut().zip(self.look(root, vms)) {
                if self.apparent_breaks(&again) < self.apparent_breaks(look) {
                    *look = again;
                }
            }
        }
        looks.into_iter().map(|look| self.of(look)).collect()
    }

    /// The current totals of each VM.
    fn look<'a>(&self, root: &HostRoot, vms: &'a [Vm]) -> Vec<Look<'a>> {
        let counted = self.counted();
        let look = |vm: &'a Vm| {
            let (merged_pages, failed_merges, unavailable) = match &counted {
                Ok(counted) => {
                    let (merged, failed) = totals(vm.process().and_then(|process| counted.get(&process)));
                    (merged, failed, None)
                }
                Err(reason) => (0, 0, Some(reason.clone())),
            };
            let merged_now = match vm.process() {
                Some(process) => merging_pages(root, process.id).into(),
                None => Availability::Unavailable("no process of this host holds the VM".into()),
            };
            Look { vm, merged_pages, failed_merges, unavailable, merged_now }
        };
        vms.iter().map(look).collect()
    }

    /// Breaks in this reading that were not reported yet.
    fn apparent_breaks(&self, look: &Look<'_>) -> u64 {
        let before = look.vm.process().and_then(|process| self.processes.get(&process));
        match (before, &look.merged_now, &look.unavailable) {
            (Some(before), Availability::Available(merging), None) => {
                before.breaks.apparent(look.merged_pages, *merging).saturating_sub(before.broken_pages)
            }
            _ => 0,
        }
    }

    /// Follows the processes of `vms`, and no others.
    pub(super) fn follow(&mut self, root: &HostRoot, vms: &[Vm]) {
        let counted = self.counted().unwrap_or_default();
        let followed: BTreeSet<TaskId> = vms.iter().filter_map(Vm::process).collect();
        self.processes.retain(|process, _| followed.contains(process));
        for process in followed {
            if self.processes.contains_key(&process) {
                continue;
            }
            // A process that has ended has no start value; the next round leaves it out.
            let Ok(merging) = merging_pages(root, process.id) else { continue };
            let (merged_pages, failed_merges) = totals(counted.get(&process));
            let breaks = BreakCount::new(merged_pages, merging);
            self.processes.insert(process, Before { merged_pages, failed_merges, broken_pages: 0, breaks });
        }
        self.make_room(root, counted);
    }

    fn of(&mut self, look: Look<'_>) -> MergeObservation {
        let Look { vm, merged_pages, failed_merges, unavailable, merged_now } = look;
        let before = vm.process().and_then(|process| self.processes.get_mut(&process));
        let before = match (unavailable, before) {
            (None, Some(before)) => Ok(before),
            (Some(reason), _) => Err(reason),
            (None, None) => Err("its merges were not followed from the beginning of the window".into()),
        };
        let (merges, breaks, failed) = match before {
            Ok(before) => {
                let breaks = merged_now.clone().map(|merging| {
                    let broken = before.breaks.update(merged_pages, merging);
                    grown(&mut before.broken_pages, broken)
                });
                let merges = grown(&mut before.merged_pages, merged_pages);
                let failed = grown(&mut before.failed_merges, failed_merges);
                (Availability::Available(merges), breaks, Availability::Available(failed))
            }
            Err(reason) => {
                let none = || Availability::Unavailable(reason.clone());
                (none(), none(), none())
            }
        };
        MergeObservation { vm: vm.name.clone(), id: vm.id, merged_now, merges, breaks, failed }
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

    /// The kernel's map keeps ended processes: without this it would fill up.
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

/// Growth of a total since the start value, which is replaced by it.
fn grown(before: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(before, now))
}
