//! Identity on a host: ids that cannot be confused with those of a later task or domain of the same number,
//! and the names that go with them.
//!
//! A VM is either held by a process of the host or is a domain of Xen, which no process holds; a vCPU is
//! either a thread or a vCPU of a domain. Fields that do not apply to a kind are absent.

use std::fmt;

use serde::{Deserialize, Serialize};
pub use uuid::Uuid;

/// A task (process or thread) that cannot be confused with a later one of the same number: its id and
/// its start time in clock ticks after boot (field 22 of `/proc/PID/stat`, proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// Process or thread id in the host's pid namespace.
    pub id: i32,
    /// Start time in clock ticks after boot.
    pub start_ticks: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// A domain of Xen that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct XenDomainId {
    /// Its number (`domid_t`).
    pub domid: u32,
    /// Its UUID (`xen_domain_handle_t`), which its toolstack chose.
    pub uuid: Uuid,
}

impl XenDomainId {
    /// A domain from files of older versions, which hold only the first 8 bytes of the UUID, in big-endian
    /// order: the other 8 are zero here, which no UUID of RFC 9562 has (its variant bits are in byte 8).
    pub fn partly_known(domid: u32, first_half: u64) -> Self {
        Self { domid, uuid: Uuid::from_u64_pair(first_half, 0) }
    }

    /// Whether only the first half of the UUID is known, see [`Self::partly_known`].
    pub fn is_partly_known(&self) -> bool {
        let (first, second) = self.uuid.as_u64_pair();
        first != 0 && second == 0
    }

    /// Whether both are the same domain, as far as both are known.
    pub fn matches(&self, other: &Self) -> bool {
        let firsts_agree = || self.uuid.as_u64_pair().0 == other.uuid.as_u64_pair().0;
        self == other
            || (self.domid == other.domid
                && (self.is_partly_known() || other.is_partly_known())
                && firsts_agree())
    }
}

impl fmt::Display for XenDomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.domid)
    }
}

/// The kind of a VM on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmKind {
    /// Held by a process.
    Process,
    /// A domain of Xen.
    XenDomain,
}

impl VmKind {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::XenDomain => "xen_domain",
        }
    }

    /// The kind with this name in files.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Process, Self::XenDomain].into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for VmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A VM that cannot be confused with a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "vm_kind", rename_all = "snake_case")]
pub enum VmId {
    /// The process that holds it; for a cgroup its first process.
    Process(TaskId),
    /// The domain.
    XenDomain(XenDomainId),
}

impl VmId {
    /// Its kind.
    pub fn kind(&self) -> VmKind {
        match self {
            Self::Process(_) => VmKind::Process,
            Self::XenDomain(_) => VmKind::XenDomain,
        }
    }

    /// The process that holds it; `None` for a domain of Xen.
    pub fn process(&self) -> Option<TaskId> {
        match self {
            Self::Process(process) => Some(*process),
            Self::XenDomain(_) => None,
        }
    }

    /// Its domain of Xen; `None` for others.
    pub fn xen_domain(&self) -> Option<XenDomainId> {
        match self {
            Self::Process(_) => None,
            Self::XenDomain(domain) => Some(*domain),
        }
    }

    /// Its number: pid or domid.
    pub fn number(&self) -> i64 {
        match self {
            Self::Process(process) => i64::from(process.id),
            Self::XenDomain(domain) => i64::from(domain.domid),
        }
    }
}

impl From<TaskId> for VmId {
    fn from(process: TaskId) -> Self {
        Self::Process(process)
    }
}

impl From<XenDomainId> for VmId {
    fn from(domain: XenDomainId) -> Self {
        Self::XenDomain(domain)
    }
}

impl fmt::Display for VmId {
    /// For messages: `process 4711`, `Xen domain 5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {process}"),
            Self::XenDomain(domain) => write!(f, "Xen domain {domain}"),
        }
    }
}

/// The user that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Number of the user on the host.
    pub uid: u32,
    /// Name of the user in the host's `/etc/passwd`; `None` where it has none there.
    pub name: Option<String>,
}

impl Owner {
    /// Whether `text` is the user's name or number.
    pub fn is(&self, text: &str) -> bool {
        self.name.as_deref() == Some(text) || text.parse() == Ok(self.uid)
    }
}

impl fmt::Display for Owner {
    /// The name, or the number where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.uid),
        }
    }
}

/// A vCPU that cannot be confused with a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VcpuId {
    /// The thread of the host that runs it.
    Thread(TaskId),
    /// A vCPU of a domain of Xen, which no thread of the host runs.
    Xen {
        /// The domain.
        domain: XenDomainId,
        /// Its number within the domain, from 0.
        vcpu: u32,
    },
}

impl VcpuId {
    /// The thread that runs it; `None` on Xen.
    pub fn thread(&self) -> Option<TaskId> {
        match self {
            Self::Thread(thread) => Some(*thread),
            Self::Xen { .. } => None,
        }
    }
}

impl From<TaskId> for VcpuId {
    fn from(thread: TaskId) -> Self {
        Self::Thread(thread)
    }
}

impl fmt::Display for VcpuId {
    /// For messages: `thread 4712`, `vCPU 0 of Xen domain 5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(thread) => write!(f, "thread {thread}"),
            Self::Xen { domain, vcpu } => write!(f, "vCPU {vcpu} of Xen domain {domain}"),
        }
    }
}

/// A VM as named by events and windows, which may outlive other facts about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRef {
    /// Its name, unique at the time.
    pub name: String,
    /// Its id; `None` if not recorded.
    pub id: Option<VmId>,
    /// Its UUID; `None` if it has none or it is unknown.
    pub uuid: Option<Uuid>,
}

impl VmRef {
    /// A VM of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), id: None, uuid: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task() -> impl Strategy<Value = TaskId> {
        (any::<i32>(), any::<u64>()).prop_map(|(id, start_ticks)| TaskId { id, start_ticks })
    }

    fn domain() -> impl Strategy<Value = XenDomainId> {
        (any::<u32>(), any::<u128>())
            .prop_map(|(domid, uuid)| XenDomainId { domid, uuid: Uuid::from_u128(uuid) })
    }

    fn vm_id() -> impl Strategy<Value = VmId> {
        prop_oneof![task().prop_map(VmId::Process), domain().prop_map(VmId::XenDomain)]
    }

    fn vcpu_id() -> impl Strategy<Value = VcpuId> {
        prop_oneof![
            task().prop_map(VcpuId::Thread),
            (domain(), any::<u32>()).prop_map(|(domain, vcpu)| VcpuId::Xen { domain, vcpu })
        ]
    }

    proptest! {
        #[test]
        fn ids_are_read_back_from_json(vm in vm_id(), vcpu in vcpu_id(), uuid in any::<u128>()) {
            let text = serde_json::to_string(&vm).unwrap();
            prop_assert_eq!(serde_json::from_str::<VmId>(&text).unwrap(), vm);
            let text = serde_json::to_string(&vcpu).unwrap();
            prop_assert_eq!(serde_json::from_str::<VcpuId>(&text).unwrap(), vcpu);
            let uuid = Uuid::from_u128(uuid);
            let text = serde_json::to_string(&uuid).unwrap();
            prop_assert_eq!(serde_json::from_str::<Uuid>(&text).unwrap(), uuid);
        }

        #[test]
        fn partly_known_ids_match_their_domain_and_no_other(domain in domain(), other in domain()) {
            let (first, second) = domain.uuid.as_u64_pair();
            let known = XenDomainId::partly_known(domain.domid, first);
            prop_assert!(known.matches(&domain) || first == 0 && second != 0);
            prop_assert!(domain.matches(&domain));
            prop_assert_eq!(known.matches(&other), known == other);
            prop_assert_eq!(domain.matches(&other), domain == other);
        }
    }

    #[test]
    fn ids_are_written_as_documented() {
        let task = TaskId { id: 4711, start_ticks: 5 };
        let uuid = "6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d".parse().unwrap();
        let domain = XenDomainId { domid: 5, uuid };
        for (id, json, words) in [
            (VmId::Process(task), r#"{"vm_kind":"process","id":4711,"start_ticks":5}"#, "process 4711"),
            (
                VmId::XenDomain(domain),
                r#"{"vm_kind":"xen_domain","domid":5,"uuid":"6a8c3a1e-6e1c-4c0e-9c3c-1f0e5a6b7c8d"}"#,
                "Xen domain 5",
            ),
        ] {
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
            assert_eq!(id.to_string(), words);
            assert_eq!(VmKind::of_name(id.kind().name()), Some(id.kind()));
        }
        assert_eq!(VcpuId::Xen { domain, vcpu: 1 }.to_string(), "vCPU 1 of Xen domain 5");
    }
}
