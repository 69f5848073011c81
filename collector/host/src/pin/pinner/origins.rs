//! What is known of an affinity before it is changed for the first time.

use std::collections::HashSet;

use huddle_model::binding::ThreadCpus;
use huddle_model::cpuset::CpuSet;

use super::super::affinity::VcpuRef;
use super::super::journal::{Change, Key, Origin};
use super::super::own_pins::{Before, OwnPins};
use super::super::started::groups_of;
use super::{HostPinner, ThreadPin};
use crate::cgroup::Cpusets;
use crate::{HostRoot, clock, topology};

impl HostPinner {
    /// What is to be in the journal before these affinities are set.
    pub(super) fn changes(
        &self,
        todo: &[(&ThreadPin, VcpuRef, CpuSet)],
        foreign: &[Key],
        groups: &HashSet<String>,
    ) -> Vec<Change> {
        let mut origins = None;
        let foreign: HashSet<&Key> = foreign.iter().collect();
        let change = |(pin, of, current): &(&ThreadPin, VcpuRef, CpuSet)| {
            let key = Key::from(*of);
            let change = pin.change(*of, current, &pin.cpus);
            if self.journal.first(&key).is_some() && !foreign.contains(&key) {
                return change;
            }
            let journal = || self.journal.by_key().iter();
            origins.get_or_insert_with(|| Origins::of(&self.root, journal())).complete(change, groups)
        };
        todo.iter().map(change).collect()
    }
}

/// What is read of the host for the first changes of one round.
struct Origins<'a> {
    root: &'a HostRoot,
    cpusets: Cpusets,
    /// `None` where that is not known; then nothing is known to be whole.
    online: Option<CpuSet>,
    now_ticks: Option<u64>,
    own: OwnPins,
}

impl<'a> Origins<'a> {
    /// For changes beside those that are in the journal.
    fn of<'b>(root: &'a HostRoot, journal: impl IntoIterator<Item = &'b Change>) -> Self {
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
    fn complete(&mut self, change: Change, groups: &HashSet<String>) -> Change {
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
