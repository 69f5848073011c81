//! The JSON of changes and keys, of this version of the journal and of those before it.
//!
//! Until version 2 a domain of Xen stood where processes and threads do: its number as the id, and the first 8
//! bytes of its UUID as the start time. Such a line names the domain as far as it can
//! ([`XenDomainId::partly_known`]), so that `huddle restore` undoes it after an upgrade.

use huddle_model::cpuset::CpuSet;
use huddle_model::id::{TaskId, XenDomainId};
use serde::{Deserialize, Serialize};

use super::super::affinity::{AffinityKind, Scheduler, VcpuRef};
use super::{Change, Key, Origin};

/// A vCPU of a domain of Xen, and which of its affinities.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct XenLine {
    domain: XenDomainId,
    vcpu: u32,
    affinity: AffinityKind,
}

/// A change as a line has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(super) enum ChangeLine {
    Affinity {
        vm: String,
        vcpu: u32,
        /// Read only: who schedules it, until version 2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scheduler: Option<Scheduler>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process: Option<TaskId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread: Option<TaskId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        xen: Option<XenLine>,
        before: CpuSet,
        after: CpuSet,
        /// The fields of the origin.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        whole: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ticks: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cgroups: Vec<String>,
    },
    MemorySharing {
        vm: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        xen_domain: Option<XenDomainId>,
        /// Read only: the same until version 2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<TaskId>,
    },
    KsmSetting {
        file: String,
        before: String,
        after: String,
    },
}

/// A key as a line has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyLine {
    Thread(TaskId),
    XenVcpu {
        domain: XenDomainId,
        vcpu: u32,
        affinity: AffinityKind,
    },
    XenMemorySharing(XenDomainId),
    KsmSetting(String),
    /// Read only, until version 2: the number of the vCPU and half of the UUID of its domain.
    DomainVcpu(TaskId, AffinityKind),
    /// Read only, until version 2: the number of the domain and half of its UUID.
    MemorySharing(TaskId),
}

/// What a task stood for until version 2.
fn domain_of(task: TaskId) -> XenDomainId {
    XenDomainId::partly_known(task.id.unsigned_abs(), task.start_ticks)
}

impl From<Change> for ChangeLine {
    fn from(change: Change) -> Self {
        match change {
            Change::Affinity { vm, vcpu, of, before, after, origin } => {
                let (process, thread, xen) = match of {
                    VcpuRef::Thread { process, thread } => (Some(process), Some(thread), None),
                    VcpuRef::Xen { domain, vcpu, affinity } => {
                        (None, None, Some(XenLine { domain, vcpu, affinity }))
                    }
                };
                let Origin { is_whole: whole, since_ticks, cgroups } = origin;
                Self::Affinity {
                    vm,
                    vcpu,
                    scheduler: None,
                    process,
                    thread,
                    xen,
                    before,
                    after,
                    whole,
                    since_ticks,
                    cgroups,
                }
            }
            Change::MemorySharing { vm, domain } => {
                Self::MemorySharing { vm, xen_domain: Some(domain), domain: None }
            }
            Change::KsmSetting { file, before, after } => Self::KsmSetting { file, before, after },
        }
    }
}

impl TryFrom<ChangeLine> for Change {
    type Error = &'static str;

    fn try_from(line: ChangeLine) -> Result<Self, Self::Error> {
        Ok(match line {
            ChangeLine::Affinity {
                vm,
                vcpu,
                scheduler,
                process,
                thread,
                xen,
                before,
                after,
                whole,
                since_ticks,
                cgroups,
            } => {
                let of = match (scheduler, process, thread, xen) {
                    (None | Some(Scheduler::Host), Some(process), Some(thread), None) => {
                        VcpuRef::Thread { process, thread }
                    }
                    (Some(Scheduler::Xen(affinity)), Some(process), Some(thread), None) => {
                        VcpuRef::Xen { domain: domain_of(process), vcpu: thread.id.unsigned_abs(), affinity }
                    }
                    (None, None, None, Some(XenLine { domain, vcpu, affinity })) => {
                        VcpuRef::Xen { domain, vcpu, affinity }
                    }
                    _ => return Err("an affinity of neither a thread nor a vCPU of Xen"),
                };
                let origin = Origin { is_whole: whole, since_ticks, cgroups };
                Self::Affinity { vm, vcpu, of, before, after, origin }
            }
            ChangeLine::MemorySharing { vm, xen_domain, domain } => {
                let domain = xen_domain.or(domain.map(domain_of)).ok_or("sharing of memory of no domain")?;
                Self::MemorySharing { vm, domain }
            }
            ChangeLine::KsmSetting { file, before, after } => Self::KsmSetting { file, before, after },
        })
    }
}

impl From<Key> for KeyLine {
    fn from(key: Key) -> Self {
        match key {
            Key::Thread(thread) => Self::Thread(thread),
            Key::XenVcpu { domain, vcpu, affinity } => Self::XenVcpu { domain, vcpu, affinity },
            Key::MemorySharing(domain) => Self::XenMemorySharing(domain),
            Key::KsmSetting(file) => Self::KsmSetting(file),
        }
    }
}

impl KeyLine {
    /// The key, where it is whole.
    pub(super) fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Thread(thread) => Key::Thread(*thread),
            Self::XenVcpu { domain, vcpu, affinity } => {
                Key::XenVcpu { domain: *domain, vcpu: *vcpu, affinity: *affinity }
            }
            Self::XenMemorySharing(domain) => Key::MemorySharing(*domain),
            Self::KsmSetting(file) => Key::KsmSetting(file.clone()),
            Self::DomainVcpu(..) | Self::MemorySharing(_) => return None,
        })
    }

    /// Whether it is the key of a change, as far as it says.
    pub(super) fn is_of(&self, change: &Change) -> bool {
        match (self, change.key()) {
            (Self::DomainVcpu(task, kind), Key::XenVcpu { domain, vcpu, affinity }) => {
                let same_half = domain.uuid.as_u64_pair().0 == task.start_ticks;
                *kind == affinity && vcpu == task.id.unsigned_abs() && same_half
            }
            (Self::MemorySharing(task), Key::MemorySharing(domain)) => domain.matches(&domain_of(*task)),
            (line, key) => *line == Self::from(key),
        }
    }
}
