//! The columns that identify a row's VM, and conversion from and to ids.

use std::fmt;

use super::{Cell, ColumnKind, Value};
use crate::id::{TaskId, Uuid, VmId, VmKind, VmRef, XenDomainId};
use crate::matrix::MatrixVm;
use crate::vm::{Vm, VmmKind};

/// A UUID as its text (36 characters, lower case, with hyphens), in place: a table has millions of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UuidText([u8; uuid::fmt::Hyphenated::LENGTH]);

impl UuidText {
    /// The text.
    pub fn as_str(&self) -> &str {
        // It is ASCII, as it is only made from a UUID.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The UUID.
    pub fn uuid(&self) -> Uuid {
        Uuid::try_parse_ascii(&self.0).unwrap_or_default()
    }
}

impl From<Uuid> for UuidText {
    fn from(uuid: Uuid) -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        uuid.hyphenated().encode_lower(&mut text);
        Self(text)
    }
}

impl fmt::Debug for UuidText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Cell for UuidText {
    const KIND: ColumnKind = ColumnKind::Text;
    const NULLABLE: bool = false;
    fn value(&self) -> Value<'_> {
        Value::Text(self.as_str())
    }
    fn of(value: Value<'_>) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        Uuid::try_parse(text).ok().map(Self::from)
    }
}

impl Cell for VmKind {
    const KIND: ColumnKind = ColumnKind::Text;
    const NULLABLE: bool = false;
    fn value(&self) -> Value<'_> {
        Value::Text(self.name())
    }
    fn of(value: Value<'_>) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        Self::of_name(text)
    }
}

/// The VM of a row, by column; `None` if a column does not apply or is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmColumns {
    /// Column `vm_kind`.
    pub vm_kind: Option<VmKind>,
    /// Columns `pid` and `vm_pid`.
    pub pid: Option<i32>,
    /// Column `start_ticks`.
    pub start_ticks: Option<u64>,
    /// Column `uuid`.
    pub uuid: Option<UuidText>,
    /// Column `domid`.
    pub domid: Option<u32>,
}

impl VmColumns {
    /// The columns of a VM with this id and UUID.
    pub fn new(id: Option<VmId>, uuid: Option<Uuid>) -> Self {
        let process = id.and_then(|id| id.process());
        let domain = id.and_then(|id| id.xen_domain());
        Self {
            vm_kind: id.map(|id| id.kind()),
            pid: process.map(|process| process.id),
            start_ticks: process.map(|process| process.start_ticks),
            uuid: uuid.or(domain.map(|domain| domain.uuid)).map(UuidText::from),
            domid: domain.map(|domain| domain.domid),
        }
    }

    /// The id, if it is completely known.
    pub fn id(&self) -> Option<VmId> {
        match (self.pid, self.start_ticks, self.domid, self.uuid) {
            (Some(id), Some(start_ticks), None, _) => Some(VmId::Process(TaskId { id, start_ticks })),
            (None, _, Some(domid), Some(uuid)) => {
                Some(VmId::XenDomain(XenDomainId { domid, uuid: uuid.uuid() }))
            }
            _ => None,
        }
    }

    /// Converts a row of a version before 4, which had the number of a domain as pid and the first 8 bytes of
    /// its UUID as start time. The row's VM is run by `vmm`.
    #[must_use]
    pub fn modern(self, vmm: VmmKind) -> Self {
        if self.vm_kind.is_some() {
            return self;
        }
        match (self.pid, self.start_ticks) {
            (Some(pid), Some(part)) if vmm.is_xen() => {
                let domain = XenDomainId::partly_known(pid.unsigned_abs(), part);
                // Half of a UUID is not a UUID.
                Self::new(Some(VmId::XenDomain(domain)), Some(domain.uuid))
            }
            (Some(_), _) => Self { vm_kind: Some(VmKind::Process), ..self },
            _ => self,
        }
    }
}

impl From<&Vm> for VmColumns {
    fn from(vm: &Vm) -> Self {
        Self::new(Some(vm.id), vm.uuid)
    }
}

impl From<&VmRef> for VmColumns {
    fn from(vm: &VmRef) -> Self {
        Self::new(vm.id, vm.uuid)
    }
}

impl From<&MatrixVm> for VmColumns {
    fn from(vm: &MatrixVm) -> Self {
        Self::new(vm.id, vm.uuid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_and_uuids_are_read_back_from_their_columns(
            id in any::<i32>(), start_ticks in any::<u64>(), domid in any::<u32>(), uuid in any::<u128>(),
        ) {
            let uuid = Uuid::from_u128(uuid);
            let text = UuidText::from(uuid);
            prop_assert_eq!(text.uuid(), uuid);
            prop_assert_eq!(text.as_str(), uuid.to_string());
            prop_assert_eq!(UuidText::of(text.value()), Some(text));
            let process = VmId::Process(TaskId { id, start_ticks });
            let domain = VmId::XenDomain(XenDomainId { domid, uuid });
            for (vm, own) in [(process, None), (process, Some(uuid)), (domain, Some(uuid))] {
                let columns = VmColumns::new(Some(vm), own);
                prop_assert_eq!(columns.id(), Some(vm));
                prop_assert_eq!(columns.uuid.map(|uuid| uuid.uuid()), own);
                prop_assert_eq!(columns.modern(VmmKind::Xen), columns);
                prop_assert_eq!(VmKind::of(vm.kind().value()), columns.vm_kind);
                prop_assert_eq!(columns.pid.is_none(), columns.domid.is_some());
            }
        }
    }

    #[test]
    fn rows_before_version_4_keep_their_meaning() {
        let old = VmColumns { pid: Some(5), start_ticks: Some(0x1122), ..VmColumns::default() };
        let process = VmId::Process(TaskId { id: 5, start_ticks: 0x1122 });
        assert_eq!(old.modern(VmmKind::QemuKvm).id(), Some(process));
        let domain = XenDomainId::partly_known(5, 0x1122);
        assert_eq!(old.modern(VmmKind::XenPv).id(), Some(VmId::XenDomain(domain)));
        assert_eq!(VmColumns::default().id(), None);
        assert_eq!(UuidText::of(Value::Text("no uuid")), None);
    }
}
