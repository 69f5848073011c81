//! What pinned tasks started: threads and processes that inherited an affinity which huddle had set
//! (sched_setaffinity(2)). The journal does not have them, so they are looked for when it is undone: the threads of the
//! processes that were pinned, and processes whose parent is one of these or that are in the control group which is the
//! VM. One that began after the pinning and has exactly what was set gets the affinity that its parent had before.

use std::collections::{BTreeSet, HashMap, HashSet};

use huddle_model::cpuset::CpuSet;
use huddle_model::id::TaskId;
use nix::errno::Errno;

use super::affinity::{Affinities, VcpuRef};
use super::journal::Change;
use super::own_pins::Pin;
use super::undo::{Undoers, target};
use crate::{HostError, HostRoot, cgroup, task};

/// A task may start another while those that it started before are looked at.
const MAX_PASSES: u32 = 8;

/// Most threads of one process that are looked at.
const MAX_THREADS: u32 = 1 << 20;

/// What undoing it did.
#[derive(Debug, Default)]
pub(super) struct Started {
    /// Threads that have the affinity from before.
    pub(super) restored: u32,
    pub(super) failures: Vec<String>,
}

impl Started {
    /// What to say of it; `None` where nothing was there to be undone.
    pub(super) fn note(&self) -> Option<String> {
        (self.restored > 0).then(|| {
            format!(
                "{} threads that pinned threads had started have the affinity from before huddle, too",
                self.restored
            )
        })
    }
}

/// A process that is there now.
#[derive(Clone, Copy, Debug)]
struct Process {
    id: TaskId,
    parent: i32,
}

/// Undoes what tasks inherited from threads that `changes` are about, after these were undone.
pub(super) fn undo<'a>(undoers: &Undoers, changes: impl IntoIterator<Item = &'a Change>) -> Started {
    let pins: Vec<Pin> = changes.into_iter().filter_map(Pin::of).collect();
    let pins: Vec<&Pin> = pins.iter().filter(|pin| pin.origin.since_ticks.is_some()).collect();
    let mut done = Started::default();
    if pins.is_empty() {
        return done;
    }
    for _ in 0..MAX_PASSES {
        match pass(undoers, &pins, &mut done) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                done.failures.push(format!("what pinned threads started cannot be looked for: {error}"));
                break;
            }
        }
    }
    done
}

fn pass(undoers: &Undoers, pins: &[&Pin], done: &mut Started) -> Result<u32, HostError> {
    let root = &undoers.root;
    let processes = processes(root)?;
    let families = families(root, pins, &processes);
    let known: HashSet<TaskId> = pins.iter().map(|pin| pin.thread).collect();
    let mut restored = 0;
    for process in processes.values() {
        let Some(vm) = families.get(&process.id.id) else { continue };
        for tid in of_those_there(task::thread_ids(root, process.id.id, MAX_THREADS))?.unwrap_or_default() {
            let Some(stat) = of_those_there(task::thread(root, process.id.id, tid))? else { continue };
            if known.contains(&stat.id) || stat.is_dead() {
                continue;
            }
            let of = VcpuRef::Thread { process: process.id, thread: stat.id };
            let Ok(now) = undoers.get(of) else { continue };
            let Some(pin) = parent_of(pins, vm, process, stat.id, &now, &processes) else { continue };
            match undoers.set(of, &target(root, &pin.before, &pin.origin)) {
                Ok(()) => restored += 1,
                Err(Errno::ESRCH) => {}
                Err(errno) => done.failures.push(format!(
                    "thread {tid} of VM {vm} inherited the affinity {now}, and cannot have {} instead: {errno}",
                    pin.before
                )),
            }
        }
    }
    done.restored += restored;
    Ok(if done.failures.is_empty() { restored } else { 0 })
}

/// The pin that a thread inherited its affinity from: one of its process, else of the nearest process above it, else
/// any of its VM.
fn parent_of<'a>(
    pins: &[&'a Pin],
    vm: &str,
    process: &Process,
    thread: TaskId,
    now: &CpuSet,
    processes: &HashMap<i32, Process>,
) -> Option<&'a Pin> {
    let mut fitting: Vec<&Pin> = Vec::new();
    fitting.extend(pins.iter().filter(|pin| pin.vm == vm && pin.is_inherited(thread.start_ticks, now)));
    fitting.first()?;
    let mut seen = BTreeSet::new();
    let mut above = Some(process);
    while let Some(process) = above.filter(|process| seen.insert(process.id)) {
        if let Some(pin) = fitting.iter().find(|pin| pin.process == process.id) {
            return Some(pin);
        }
        above = processes.get(&process.parent);
    }
    fitting.first().copied()
}

/// The VM of each process that was pinned, or may have been started by one that was.
fn families<'a>(
    root: &HostRoot,
    pins: &[&'a Pin],
    processes: &HashMap<i32, Process>,
) -> HashMap<i32, &'a str> {
    let mut vm_of: HashMap<i32, &str> = HashMap::new();
    let mut groups: HashMap<&[String], &str> = HashMap::new();
    for pin in pins {
        if processes.get(&pin.process.id).is_some_and(|process| process.id == pin.process) {
            vm_of.insert(pin.process.id, &pin.vm);
        }
        if !pin.origin.cgroups.is_empty() {
            groups.insert(&pin.origin.cgroups, &pin.vm);
        }
    }
    let since = pins.iter().filter_map(|pin| pin.origin.since_ticks).min().unwrap_or(u64::MAX);
    let mut later: Vec<&Process> =
        processes.values().filter(|process| process.id.start_ticks >= since).collect();
    // The oldest first: parents come before their children, as far as the clock tells.
    later.sort_by_key(|process| (process.id.start_ticks, process.id.id));
    if !groups.is_empty() {
        for process in &later {
            let of = groups_of(root, process.id.id);
            if let Some(vm) = groups.get(of.as_slice()) {
                vm_of.entry(process.id.id).or_insert(vm);
            }
        }
    }
    loop {
        let before = vm_of.len();
        for process in &later {
            if let Some(vm) = vm_of.get(&process.parent).copied() {
                vm_of.entry(process.id.id).or_insert(vm);
            }
        }
        if vm_of.len() == before {
            return vm_of;
        }
    }
}

/// The different control groups of a process, as [`Origin`](super::journal::Origin) has them; none where they may not
/// be seen.
pub(super) fn groups_of(root: &HostRoot, pid: i32) -> Vec<String> {
    let mut paths = cgroup::paths(root, pid).unwrap_or_default();
    paths.sort();
    paths.dedup();
    paths
}

fn processes(root: &HostRoot) -> Result<HashMap<i32, Process>, HostError> {
    let mut processes = HashMap::new();
    for pid in task::process_ids(root)? {
        let Some(stat) = of_those_there(task::process(root, pid))? else { continue };
        if !stat.is_kernel_thread {
            processes.insert(pid, Process { id: stat.id, parent: stat.parent });
        }
    }
    Ok(processes)
}

/// What has ended meanwhile, or may not be seen, is left out.
fn of_those_there<T>(result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() || error.is_denied() => Ok(None),
        Err(error) => Err(error),
    }
}
