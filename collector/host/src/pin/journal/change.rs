//! What a journal holds: changes to the host, and what each is about.

use huddle_model::cpuset::CpuSet;
use huddle_model::id::{TaskId, XenDomainId};
use serde::{Deserialize, Serialize};

use super::super::affinity::{AffinityKind, VcpuRef};
use super::lines::{ChangeLine, KeyLine};

/// One change and what was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "ChangeLine", try_from = "ChangeLine")]
pub enum Change {
    /// The CPUs a vCPU may run on.
    Affinity {
        /// Name of the VM, for messages.
        vm: String,
        /// Number of the vCPU, for messages.
        vcpu: u32,
        /// Whose affinity it is.
        of: VcpuRef,
        /// The affinity before huddle first changed it.
        before: CpuSet,
        /// The affinity huddle sets.
        after: CpuSet,
        /// What else is known of the affinity before.
        origin: Origin,
    },
    /// Xen's sharing of a domain's pages, which was off and had no page before.
    MemorySharing {
        /// Name of the VM, for messages.
        vm: String,
        /// The domain.
        domain: XenDomainId,
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

/// What is known of the affinity of a thread before huddle first changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Whether it was all that its cpuset and the online CPUs allowed.
    pub is_whole: bool,
    /// When huddle first changed it, in clock ticks since the boot, as the start times of tasks; `None` in journals of
    /// earlier versions, and on Xen. What the thread starts later inherits what huddle set.
    pub since_ticks: Option<u64>,
    /// The control groups of its process, where the VM is a control group, so that the processes in it are known again.
    pub cgroups: Vec<String>,
}

/// What a change is about. All changes of one key are undone as one, to the first `before`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "KeyLine")]
pub enum Key {
    /// The affinity of this thread.
    Thread(TaskId),
    /// One affinity of this vCPU of a domain of Xen.
    XenVcpu {
        /// The domain.
        domain: XenDomainId,
        /// Number of the vCPU within it.
        vcpu: u32,
        /// Which of its affinities.
        affinity: AffinityKind,
    },
    /// Xen's sharing of this domain's pages.
    MemorySharing(XenDomainId),
    /// This file of `/sys/kernel/mm/ksm`.
    KsmSetting(String),
}

impl Key {
    /// Whether it is an affinity of a vCPU.
    pub(in crate::pin) fn is_of_vcpu(&self) -> bool {
        matches!(self, Self::Thread(_) | Self::XenVcpu { .. })
    }
}

impl From<VcpuRef> for Key {
    fn from(of: VcpuRef) -> Self {
        match of {
            VcpuRef::Thread { thread, .. } => Self::Thread(thread),
            VcpuRef::Xen { domain, vcpu, affinity } => Self::XenVcpu { domain, vcpu, affinity },
        }
    }
}

impl Change {
    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Affinity { of, .. } => Key::from(*of),
            Self::MemorySharing { domain, .. } => Key::MemorySharing(*domain),
            Self::KsmSetting { file, .. } => Key::KsmSetting(file.clone()),
        }
    }

    /// The domain of Xen it is about, if it is about one.
    pub(super) fn xen_domain(&self) -> Option<&XenDomainId> {
        match self {
            Self::Affinity { of: VcpuRef::Xen { domain, .. }, .. } | Self::MemorySharing { domain, .. } => {
                Some(domain)
            }
            Self::Affinity { .. } | Self::KsmSetting { .. } => None,
        }
    }

    /// The same, to name it whole.
    pub(super) fn xen_domain_mut(&mut self) -> Option<&mut XenDomainId> {
        match self {
            Self::Affinity { of: VcpuRef::Xen { domain, .. }, .. } | Self::MemorySharing { domain, .. } => {
                Some(domain)
            }
            Self::Affinity { .. } | Self::KsmSetting { .. } => None,
        }
    }

    /// This change with the `before` of `first`, when both are of one kind.
    pub(super) fn with_before_of(self, first: &Self) -> Self {
        match (self, first) {
            (Self::Affinity { vm, vcpu, of, after, .. }, Self::Affinity { before, origin, .. }) => {
                Self::Affinity { vm, vcpu, of, before: before.clone(), after, origin: origin.clone() }
            }
            (Self::KsmSetting { file, after, .. }, Self::KsmSetting { before, .. }) => {
                Self::KsmSetting { file, before: before.clone(), after }
            }
            (change, _) => change,
        }
    }
}
