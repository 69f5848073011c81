//! The affinity of one vCPU, and whether the vCPU is still the one that was meant.

use std::cell::OnceCell;

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::TaskId;
use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::pinner::PinError;
use crate::host::{HostError, HostRoot, task};
use crate::xen;
use crate::xen::toolstack::{AffinityKind, Domain, Toolstack, XenError};

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
pub(super) struct VcpuRef {
    pub(super) scheduler: Scheduler,
    /// The process, or the domain.
    pub(super) process: TaskId,
    /// The thread, or the vCPU of the domain (see [`TaskId`]).
    pub(super) thread: TaskId,
}

/// What the schedulers of a host are asked, so that tests can stand in for them.
pub(super) trait Affinities: Send {
    /// Looks at both identities; an affinity is only ever set where this is [`Presence::Here`].
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError>;
    /// CPUs the vCPU may run on; of a thread, those of them that are online.
    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno>;
    /// Asks for `cpus`; the kernel narrows them silently to the thread's cpuset
    /// (sched_setaffinity(2)).
    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno>;
}

/// The running kernel, and the Xen beneath it once a domain is asked for.
pub(super) struct Schedulers {
    root: HostRoot,
    xen: OnceCell<Box<dyn Toolstack>>,
}

impl Schedulers {
    pub(super) fn new(root: HostRoot) -> Self {
        Self { root, xen: OnceCell::new() }
    }

    /// With a Xen that is open already.
    pub(super) fn on_xen(root: HostRoot, toolstack: Box<dyn Toolstack>) -> Self {
        Self { root, xen: OnceCell::from(toolstack) }
    }

    fn xen(&self) -> Result<&dyn Toolstack, XenError> {
        if let Some(toolstack) = self.xen.get() {
            return Ok(&**toolstack);
        }
        let toolstack = xen::open(&self.root)?;
        Ok(&**self.xen.get_or_init(|| toolstack))
    }

    /// What to ask Xen of a vCPU: its domain as it is now, and its number.
    fn domain(&self, vcpu: VcpuRef) -> Result<(&dyn Toolstack, Domain, u32), XenError> {
        let xen = self.xen()?;
        let domain = xen.domains()?.into_iter().find(|domain| domain.domain.task() == vcpu.process);
        let gone = || XenError::Gone(u16::try_from(vcpu.process.id).unwrap_or(u16::MAX));
        let domain = domain.ok_or_else(gone)?;
        Ok((xen, domain, u32::try_from(vcpu.thread.id).map_err(|_| gone())?))
    }
}

/// What is not an error number is told in the log, with the next reading or setting that fails.
fn errno(error: XenError) -> Errno {
    match &error {
        XenError::Gone(_) => Errno::ESRCH,
        other => other.errno().unwrap_or_else(|| {
            tracing::warn!("{error}");
            Errno::EIO
        }),
    }
}

impl Affinities for Schedulers {
    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError> {
        let VcpuRef { scheduler, process, thread } = vcpu;
        if scheduler == Scheduler::Host {
            return Ok(presence(&self.root, process, thread)?);
        }
        let domains = self.xen()?.domains()?;
        let Some(domain) = domains.iter().find(|domain| i32::from(domain.domain.id) == process.id) else {
            return Ok(Presence::Gone);
        };
        let is_vcpu = domain.vcpus.iter().any(|of_domain| domain.domain.vcpu_task(of_domain.index) == thread);
        Ok(match (domain.domain.task() == process, is_vcpu && !domain.is_ending) {
            (false, _) => Presence::Reused,
            (true, true) => Presence::Here,
            (true, false) => Presence::Gone,
        })
    }

    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno> {
        match vcpu.scheduler {
            Scheduler::Host => of_thread(vcpu.thread.id),
            Scheduler::Xen(kind) => {
                let (xen, domain, index) = self.domain(vcpu).map_err(errno)?;
                xen.affinity(domain.domain, index, kind).map_err(errno)
            }
        }
    }

    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        match vcpu.scheduler {
            Scheduler::Host => set_of_thread(vcpu.thread.id, cpus),
            Scheduler::Xen(kind) => {
                let (xen, domain, index) = self.domain(vcpu).map_err(errno)?;
                xen.set_affinity(domain.domain, index, kind, cpus).map_err(errno)
            }
        }
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
pub(super) enum Presence {
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
        Scheduler::Xen(_) => format!("vCPU {vcpu} of VM {vm} (domain {})", of.process),
    }
}
