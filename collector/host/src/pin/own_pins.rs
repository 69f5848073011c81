//! What huddle's own changes explain of the affinities that are found. An affinity that huddle set is no decision of
//! the VM's owner, and neither is one that a task inherited from a thread that huddle pinned: what the owner decided is
//! what was there before.

use std::collections::HashMap;
use std::path::Path;

use huddle_model::cpuset::CpuSet;
use huddle_model::id::TaskId;

use super::affinity::VcpuRef;
use super::journal::{Change, Origin, changes_in};
use crate::HostRoot;

/// One change of the affinity of a thread.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    pub(super) vm: String,
    pub(super) process: TaskId,
    pub(super) thread: TaskId,
    pub(super) before: CpuSet,
    pub(super) after: CpuSet,
    pub(super) origin: Origin,
}

impl Pin {
    /// `None` where it is about something else.
    pub(super) fn of(change: &Change) -> Option<Self> {
        match change {
            Change::Affinity {
                vm, of: VcpuRef::Thread { process, thread }, before, after, origin, ..
            } => Some(Self {
                vm: vm.clone(),
                process: *process,
                thread: *thread,
                before: before.clone(),
                after: after.clone(),
                origin: origin.clone(),
            }),
            _ => None,
        }
    }

    /// Whether a task that began then and has this affinity may have inherited it from the thread.
    pub(super) fn is_inherited(&self, start_ticks: u64, affinity: &CpuSet) -> bool {
        let is_later = self.origin.since_ticks.is_some_and(|since| since <= start_ticks);
        is_later && self.after == *affinity && self.before != *affinity
    }
}

/// An affinity from before huddle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// It.
    pub cpus: CpuSet,
    /// Whether it was all that the cpuset and the online CPUs allowed.
    pub is_whole: bool,
}

impl From<&Pin> for Before {
    fn from(pin: &Pin) -> Self {
        Self { cpus: pin.before.clone(), is_whole: pin.origin.is_whole }
    }
}

/// The changes of affinities that a journal holds.
#[derive(Clone, Debug, Default)]
pub struct OwnPins {
    pins: Vec<Pin>,
    of_thread: HashMap<TaskId, Vec<usize>>,
    of_process: HashMap<TaskId, Vec<usize>>,
    /// Of VMs that are control groups, whose processes come and go.
    of_group: HashMap<String, Vec<usize>>,
}

impl OwnPins {
    /// Those among `changes`, the oldest first.
    pub(super) fn of<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        let mut own = Self::default();
        for pin in changes.into_iter().filter_map(Pin::of) {
            let at = own.pins.len();
            own.of_thread.entry(pin.thread).or_default().push(at);
            own.of_process.entry(pin.process).or_default().push(at);
            if !pin.origin.cgroups.is_empty() {
                own.of_group.entry(pin.vm.clone()).or_default().push(at);
            }
            own.pins.push(pin);
        }
        own
    }

    /// Those of the journal in the directory `state`, which a huddle may be writing; none where it cannot be read.
    pub fn read(root: &HostRoot, state: &Path) -> Self {
        Self::of(&changes_in(root, state))
    }

    /// The affinity that a thread of a VM had before huddle changed it, or that the thread which started it had, where
    /// that explains its affinity of now; `None` where it does not: then it is its owner's.
    pub fn before(&self, vm: &str, process: TaskId, thread: TaskId, affinity: &CpuSet) -> Option<Before> {
        let pins = |of: Option<&Vec<usize>>| -> Vec<&Pin> {
            of.into_iter().flatten().map(|at| &self.pins[*at]).collect()
        };
        let own = pins(self.of_thread.get(&thread));
        if let Some(first) = own.first() {
            // A part of what huddle set is what the kernel left of it, as its cpuset and the online CPUs changed.
            let is_ours = own.iter().any(|pin| affinity.is_subset(&pin.after));
            return (is_ours && *affinity != first.before).then(|| Before::from(*first));
        }
        let relatives = pins(self.of_process.get(&process)).into_iter().chain(pins(self.of_group.get(vm)));
        let mut parents = relatives.filter(|pin| pin.is_inherited(thread.start_ticks, affinity));
        parents.next().map(Before::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: i32, start_ticks: u64) -> TaskId {
        TaskId { id, start_ticks }
    }

    fn change(thread: TaskId, before: &str, after: &str, cgroups: &[&str]) -> Change {
        Change::Affinity {
            vm: "a".into(),
            vcpu: 0,
            of: VcpuRef::Thread { process: task(10, 1), thread },
            before: before.parse().unwrap(),
            after: after.parse().unwrap(),
            origin: Origin {
                is_whole: true,
                since_ticks: Some(100),
                cgroups: cgroups.iter().map(|path| (*path).to_owned()).collect(),
            },
        }
    }

    fn before(own: &OwnPins, vm: &str, process: TaskId, thread: TaskId, now: &str) -> Option<String> {
        own.before(vm, process, thread, &now.parse().unwrap()).map(|before| before.cpus.to_string())
    }

    #[test]
    fn what_huddle_set_and_what_the_kernel_left_of_it_is_not_the_owners() {
        let (process, thread) = (task(10, 1), task(11, 2));
        let own = OwnPins::of(&[change(thread, "0-7", "0-1", &[]), change(thread, "0-7", "2-3", &[])]);
        for (now, expected) in
            [("0-1", Some("0-7")), ("3", Some("0-7")), ("0-7", None), ("5", None), ("1-2", None)]
        {
            assert_eq!(before(&own, "a", process, thread, now).as_deref(), expected, "{now}");
        }
        assert_eq!(before(&own, "a", process, task(11, 3), "0-1"), None, "another task of that number");
    }

    #[test]
    fn a_later_thread_of_the_process_has_inherited_what_it_has() {
        let process = task(10, 1);
        let own = OwnPins::of(&[change(task(11, 2), "0-7", "0-1", &[])]);
        assert_eq!(before(&own, "a", process, task(12, 100), "0-1").as_deref(), Some("0-7"));
        assert_eq!(before(&own, "a", process, task(12, 99), "0-1"), None, "it was there before");
        assert_eq!(before(&own, "a", process, task(12, 100), "0"), None, "somebody else set it");
        assert_eq!(before(&own, "a", task(20, 1), task(20, 100), "0-1"), None, "another process");
    }

    #[test]
    fn a_later_process_of_a_control_group_has_inherited_what_it_has() {
        let worker = task(30, 150);
        let own = OwnPins::of(&[change(task(11, 2), "0-7", "0-1", &["/web"])]);
        assert_eq!(before(&own, "a", worker, worker, "0-1").as_deref(), Some("0-7"));
        assert_eq!(before(&own, "b", worker, worker, "0-1"), None, "another VM");
    }
}
