//! What is known of an affinity before it is changed for the first time.

use std::collections::HashSet;

use huddle_model::binding::ThreadCpus;
use huddle_model::cpuset::CpuSet;

use super::super::affinity::VcpuRef;
use super::super::journal::{Change, Origin};
use super::super::own_pins::{Before, OwnPins};
use super::super::started::groups_of;
use crate::cgroup::Cpusets;
use crate::{HostRoot, clock, topology};

/// What is read of the host for the first changes of one round.
pub(super) struct Origins<'a> {
    root: &'a HostRoot,
    cpusets: Cpusets,
    /// `None` where that is not known; then nothing is known to be whole.
    online: Option<CpuSet>,
    now_ticks: Option<u64>,
    own: OwnPins,
}

impl<'a> Origins<'a> {
    /// For changes beside those that are in the journal.
    pub(super) fn of<'b>(root: &'a HostRoot, journal: impl IntoIterator<Item = &'b Change>) -> Self {
        Self {
            root,
            cpusets: Cpusets::of_host(root),
            online: topology::online_cpus(root).ok(),
            now_ticks: clock::boot_ticks(root).ok(),
            own: OwnPins::of(journal),
        }
    }

    /// The first change of a thread, whose `before` is its affinity of now, with what is known of that. What it
    /// inherited from a thread that huddle pinned is not its own: before is what that thread had.
    pub(super) fn complete(&mut self, change: Change, groups: &HashSet<String>) -> Change {
        let Change::Affinity { vm, vcpu, of, before, after, .. } = change else { return change };
        let VcpuRef::Thread { process, thread } = of else {
            return Change::Affinity { vm, vcpu, of, before, after, origin: Origin::default() };
        };
        let inherited = self.own.before(&vm, process, thread, &before);
        let Before { cpus: before, is_whole } = inherited.unwrap_or_else(|| Before {
            is_whole: self.is_whole(process.id, thread.id, &before),
            cpus: before,
        });
        let cgroups = if groups.contains(&vm) { groups_of(self.root, process.id) } else { Vec::new() };
        let origin = Origin { is_whole, since_ticks: self.now_ticks, cgroups };
        Change::Affinity { vm, vcpu, of, before, after, origin }
    }

    fn is_whole(&mut self, pid: i32, tid: i32, affinity: &CpuSet) -> bool {
        let Some(online) = &self.online else { return false };
        // A thread that ended meanwhile is found by whoever sets its affinity.
        let Ok(cpuset) = self.cpusets.of_thread(self.root, pid, tid) else { return false };
        let isolated = CpuSet::new();
        let cpus =
            ThreadCpus { affinity, cpuset: cpuset.as_ref(), online, isolated: &isolated, real_time: None };
        cpus.is_whole()
    }
}
