//! The affinity of one vCPU, and whether the vCPU is still the one that was meant.

use huddle_model::cpuset::CpuSet;
use huddle_model::id::{TaskId, VcpuId, XenDomainId};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::mask;
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

/// A vCPU whose affinity is read or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuRef {
    /// A thread, which the host's kernel schedules.
    Thread {
        /// Its process.
        process: TaskId,
        /// Itself.
        thread: TaskId,
    },
    /// A vCPU of a domain, which Xen schedules.
    Xen {
        /// The domain.
        domain: XenDomainId,
        /// Its number within it.
        vcpu: u32,
        /// Which of its two affinities is meant.
        affinity: AffinityKind,
    },
}

impl VcpuRef {
    /// A vCPU as its scheduler knows it; `None` where `scheduler` does not schedule such vCPUs, or the process
    /// of a thread is not known.
    pub(super) fn of(scheduler: Scheduler, id: VcpuId, process: Option<TaskId>) -> Option<Self> {
        match (scheduler, id) {
            (Scheduler::Host, VcpuId::Thread(thread)) => Some(Self::Thread { process: process?, thread }),
            (Scheduler::Xen(affinity), VcpuId::Xen { domain, vcpu }) => {
                Some(Self::Xen { domain, vcpu, affinity })
            }
            _ => None,
        }
    }
}

/// What one scheduler is asked about its vCPUs: the seam to a hypervisor, and to tests.
pub trait Affinities: Send {
    /// The domains of Xen there are now; none where there is no Xen.
    ///
    /// # Errors
    /// Xen cannot be asked.
    fn domains(&self) -> Result<Vec<XenDomainId>, PinError> {
        Ok(Vec::new())
    }
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
    fn presence(&self, of: VcpuRef) -> Result<Presence, PinError> {
        match of {
            VcpuRef::Thread { process, thread } => Ok(presence(&self.0, process, thread)?),
            // No thread of this kernel.
            VcpuRef::Xen { .. } => Ok(Presence::Gone),
        }
    }

    fn get(&self, of: VcpuRef) -> Result<CpuSet, Errno> {
        match of {
            VcpuRef::Thread { thread, .. } => mask::get(thread.id),
            VcpuRef::Xen { .. } => Err(Errno::ESRCH),
        }
    }

    fn set(&self, of: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        match of {
            VcpuRef::Thread { thread, .. } => mask::set(thread.id, cpus),
            VcpuRef::Xen { .. } => Err(Errno::ESRCH),
        }
    }
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
    // The process by its first thread, which has its number and its start: for /proc/PID/stat itself the kernel sums up
    // all threads (fs/proc/array.c, do_task_stat, Linux 6.18), so each look would cost time by their number.
    for wanted in [process, thread] {
        match task::thread(root, process.id, wanted.id) {
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
    match of {
        VcpuRef::Thread { thread, .. } => format!("vCPU {vcpu} of VM {vm} (thread {thread})"),
        VcpuRef::Xen { domain, .. } => format!("vCPU {vcpu} of VM {vm} (Xen domain {domain})"),
    }
}
