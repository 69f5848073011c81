//! What a journal holds: changes to the host, and what each is about.

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::TaskId;
use serde::{Deserialize, Serialize};

use super::super::affinity::{AffinityKind, Scheduler, VcpuRef};

/// One change and what was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// The CPUs a vCPU may run on.
    Affinity {
        /// Name of the VM, for messages.
        vm: String,
        /// Number of the vCPU, for messages.
        vcpu: u32,
        /// Who schedules it.
        #[serde(default, skip_serializing_if = "Scheduler::is_host")]
        scheduler: Scheduler,
        /// The process of its thread, or its domain.
        process: TaskId,
        /// Its thread, or what stands for it (see [`TaskId`]).
        thread: TaskId,
        /// The affinity before huddle first changed it.
        before: CpuSet,
        /// The affinity huddle sets.
        after: CpuSet,
    },
    /// Xen's sharing of a domain's pages, which was off and had no page before.
    MemorySharing {
        /// Name of the VM, for messages.
        vm: String,
        /// The domain.
        domain: TaskId,
    },
    /// A file of `/sys/kernel/mm/ksm`.
    KsmSetting {
        /// Its name, such as `run`.
        file: String,
        /// Its value before huddle first changed it, trimmed; the bracketed choice for `advisor_mode`.
        before: String,
        /// The value huddle writes.
        after: String,
    },
}

/// What a change is about. All changes of one key are undone as one, to the first `before`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The affinity of this thread.
    Thread(TaskId),
    /// One affinity of this vCPU of a domain of Xen.
    DomainVcpu(TaskId, AffinityKind),
    /// Xen's sharing of this domain's pages.
    MemorySharing(TaskId),
    /// This file of `/sys/kernel/mm/ksm`.
    KsmSetting(String),
}

impl Key {
    /// The affinity of a vCPU.
    pub(in crate::pin) fn of(scheduler: Scheduler, thread: TaskId) -> Self {
        match scheduler {
            Scheduler::Host => Self::Thread(thread),
            Scheduler::Xen(kind) => Self::DomainVcpu(thread, kind),
        }
    }
}

impl Change {
    /// The vCPU it is about, if it is about one.
    pub(in crate::pin) fn vcpu(&self) -> Option<VcpuRef> {
        match self {
            Self::Affinity { scheduler, process, thread, .. } => {
                Some(VcpuRef { scheduler: *scheduler, process: *process, thread: *thread })
            }
            Self::MemorySharing { .. } | Self::KsmSetting { .. } => None,
        }
    }

    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Affinity { scheduler, thread, .. } => Key::of(*scheduler, *thread),
            Self::MemorySharing { domain, .. } => Key::MemorySharing(*domain),
            Self::KsmSetting { file, .. } => Key::KsmSetting(file.clone()),
        }
    }

    /// This change with the `before` of `first`, when both are of one kind.
    pub(super) fn with_before_of(self, first: &Self) -> Self {
        match (self, first) {
            (
                Self::Affinity { vm, vcpu, scheduler, process, thread, after, .. },
                Self::Affinity { before, .. },
            ) => Self::Affinity { vm, vcpu, scheduler, process, thread, before: before.clone(), after },
            (Self::KsmSetting { file, after, .. }, Self::KsmSetting { before, .. }) => {
                Self::KsmSetting { file, before: before.clone(), after }
            }
            (change, _) => change,
        }
    }
}
