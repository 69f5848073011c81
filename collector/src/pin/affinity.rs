//! The affinity of one thread, and whether the thread is still the one that was meant.

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::TaskId;
use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::host::{HostError, HostRoot, task};

/// The two system calls, so that tests can stand in for the kernel.
pub(super) trait Affinities: Send {
    /// CPUs the thread may run on, of those that are online.
    fn get(&self, tid: i32) -> Result<CpuSet, Errno>;
    /// Asks for `cpus`; the kernel narrows them silently to the thread's cpuset
    /// (sched_setaffinity(2)).
    fn set(&self, tid: i32, cpus: &CpuSet) -> Result<(), Errno>;
}

/// The running kernel.
pub(super) struct Kernel;

impl Affinities for Kernel {
    fn get(&self, tid: i32) -> Result<CpuSet, Errno> {
        let set = sched_getaffinity(Pid::from_raw(tid))?;
        // `is_set` only fails beyond `count`.
        Ok((0..nix::sched::CpuSet::count())
            .filter(|cpu| set.is_set(*cpu) == Ok(true))
            .filter_map(|cpu| u32::try_from(cpu).ok())
            .collect())
    }

    fn set(&self, tid: i32, cpus: &CpuSet) -> Result<(), Errno> {
        let mut set = nix::sched::CpuSet::new();
        for cpu in cpus.iter() {
            set.set(cpu as usize)?;
        }
        sched_setaffinity(Pid::from_raw(tid), &set)
    }
}

/// Whether a thread is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// The very thread, in the very process.
    Here,
    /// It has ended.
    Gone,
    /// Its number, or that of its process, belongs to another task now.
    Reused,
}

impl Presence {
    /// Why nothing is done to the thread.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Here => "is there",
            Self::Gone => "is gone",
            Self::Reused => "is gone and its number belongs to another task now",
        }
    }
}

/// Looks at both identities; an affinity is only ever set on a thread that is [`Presence::Here`].
pub(super) fn presence(root: &HostRoot, process: TaskId, thread: TaskId) -> Result<Presence, HostError> {
    for (stat, wanted) in
        [(task::process(root, process.id), process), (task::thread(root, process.id, thread.id), thread)]
    {
        match stat {
            Ok(stat) if stat.id != wanted => return Ok(Presence::Reused),
            // A process whose first thread has ended is a zombie to `stat` while others still run.
            Ok(stat) if stat.is_dead() && wanted == thread => return Ok(Presence::Gone),
            Ok(_) => {}
            Err(error) if error.is_gone() => return Ok(Presence::Gone),
            Err(error) => return Err(error),
        }
    }
    Ok(Presence::Here)
}

/// How messages name a thread.
pub(super) fn describe(vm: &str, vcpu: u32, thread: TaskId) -> String {
    format!("vCPU {vcpu} of VM {vm} (thread {thread})")
}
