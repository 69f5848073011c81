//! The affinity of one vCPU, and whether the vCPU is still the one that was meant.

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::TaskId;
use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::pinner::PinError;
use crate::{HostError, HostRoot, task};

/// Which of a Xen vCPU's two affinities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AffinityKind {
    /// It runs nowhere else.
    #[default]
    Hard,
    /// It runs there while a CPU there is free (credit schedulers).
    Soft,
}

/// Who schedules a vCPU, and so keeps its affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// The host's kernel: the vCPU is a thread.
    #[default]
    Host,
    /// Xen: the vCPU is one of a domain, and this one of its two affinities is meant.
    Xen(AffinityKind),
}

impl Scheduler {
    /// Whether it is the host's kernel.
    pub(super) fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// A vCPU whose affinity is read or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuRef {
    /// Who schedules it.
    pub scheduler: Scheduler,
    /// The process, or the domain.
    pub process: TaskId,
    /// The thread, or the vCPU of the domain (see [`TaskId`]).
    pub thread: TaskId,
}

/// What one scheduler is asked about its vCPUs: the seam to a hypervisor, and to tests.
pub trait Affinities: Send {
    /// Looks at both identities; an affinity is only ever set where this is [`Presence::Here`].
    ///
    /// # Errors
    /// The scheduler cannot be asked.
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError>;
    /// CPUs the vCPU may run on; of a thread, those of them that are online.
    ///
    /// # Errors
    /// `ESRCH` where the vCPU is gone.
    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno>;
    /// Asks for `cpus`; the kernel narrows them silently to the thread's cpuset
    /// (sched_setaffinity(2)).
    ///
    /// # Errors
    /// `ESRCH` where the vCPU is gone, `EINVAL` where none of the CPUs can be used.
    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno>;
}

/// The threads of the running kernel.
#[derive(Debug)]
pub struct ThreadAffinities(pub HostRoot);

impl Affinities for ThreadAffinities {
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError> {
        Ok(presence(&self.0, vcpu.process, vcpu.thread)?)
    }

    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno> {
        of_thread(vcpu.thread.id)
    }

    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        set_of_thread(vcpu.thread.id, cpus)
    }
}

fn of_thread(tid: i32) -> Result<CpuSet, Errno> {
    let set = sched_getaffinity(Pid::from_raw(tid))?;
    // `is_set` only fails beyond `count`.
    Ok((0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu) == Ok(true))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect())
}

fn set_of_thread(tid: i32, cpus: &CpuSet) -> Result<(), Errno> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu as usize)?;
    }
    sched_setaffinity(Pid::from_raw(tid), &set)
}

/// Whether a vCPU is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The very thread, in the very process; the very vCPU.
    Here,
    /// It has ended.
    Gone,
    /// Its number, or that of its process or domain, belongs to another one now.
    Reused,
}

impl Presence {
    /// Why nothing is done to it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Here => "is there",
            Self::Gone => "is gone",
            Self::Reused => "is gone and its number belongs to another task now",
        }
    }
}

/// Whether a thread is there, in its process.
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

/// How messages name a vCPU.
pub(super) fn describe(vm: &str, vcpu: u32, of: VcpuRef) -> String {
    match of.scheduler {
        Scheduler::Host => format!("vCPU {vcpu} of VM {vm} (thread {})", of.thread),
        Scheduler::Xen(_) => format!("vCPU {vcpu} of VM {vm} (xen domain {})", of.process),
    }
}
