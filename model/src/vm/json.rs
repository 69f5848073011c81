//! The JSON of VMs: the fields of both kinds side by side, null where they do not apply.
//!
//! `vm_kind`, `process`, `uuid` and `domid` encode [`Vm::id`] and [`Vm::uuid`]; `thread` (or `xen`, only on
//! Xen) encodes [`Vcpu::id`].

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    GuestRegion, Owner, TaskId, Uuid, Vcpu, VcpuId, VcpuLimits, Vm, VmId, VmKind, VmmKind, XenDomainId,
};
use crate::binding::{Binding, RealTime};
use crate::cpuset::CpuSet;

/// A vCPU of a domain.
#[derive(Serialize, Deserialize)]
struct XenVcpu {
    domain: XenDomainId,
    vcpu: u32,
}

impl Serialize for Vcpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            index: u32,
            thread: Option<TaskId>,
            process: Option<TaskId>,
            thread_name: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            xen: Option<XenVcpu>,
            affinity: &'a CpuSet,
            last_cpu: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            allowed_cpus: Option<&'a CpuSet>,
            #[serde(skip_serializing_if = "Option::is_none")]
            binding: Option<&'a Binding>,
            #[serde(skip_serializing_if = "Option::is_none")]
            real_time: Option<RealTime>,
            #[serde(skip_serializing_if = "Option::is_none")]
            core_cookie: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            affinity_before_huddle: Option<&'a CpuSet>,
        }
        let VcpuLimits { allowed_cpus, binding, real_time, core_cookie, before_huddle } = &self.limits;
        Out {
            index: self.index,
            thread: self.id.thread(),
            process: self.process,
            thread_name: self.thread_name.as_deref(),
            xen: match self.id {
                VcpuId::Thread(_) => None,
                VcpuId::Xen { domain, vcpu } => Some(XenVcpu { domain, vcpu }),
            },
            affinity: &self.affinity,
            last_cpu: self.last_cpu,
            allowed_cpus: allowed_cpus.as_ref(),
            binding: binding.as_ref(),
            real_time: *real_time,
            core_cookie: *core_cookie,
            affinity_before_huddle: before_huddle.as_ref(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Vcpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct In {
            index: u32,
            thread: Option<TaskId>,
            process: Option<TaskId>,
            thread_name: Option<String>,
            xen: Option<XenVcpu>,
            affinity: CpuSet,
            last_cpu: Option<u32>,
            allowed_cpus: Option<CpuSet>,
            binding: Option<Binding>,
            real_time: Option<RealTime>,
            core_cookie: Option<u64>,
            affinity_before_huddle: Option<CpuSet>,
        }
        let read = In::deserialize(deserializer)?;
        let id = match (read.thread, read.xen) {
            (Some(thread), None) => VcpuId::Thread(thread),
            (None, Some(XenVcpu { domain, vcpu })) => VcpuId::Xen { domain, vcpu },
            _ => return Err(D::Error::custom("a vCPU has either a thread or a number on Xen")),
        };
        Ok(Self {
            index: read.index,
            id,
            process: read.process,
            thread_name: read.thread_name,
            affinity: read.affinity,
            last_cpu: read.last_cpu,
            limits: VcpuLimits {
                allowed_cpus: read.allowed_cpus,
                binding: read.binding,
                real_time: read.real_time,
                core_cookie: read.core_cookie,
                before_huddle: read.affinity_before_huddle,
            },
        })
    }
}

impl Serialize for Vm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            name: &'a str,
            vm_kind: VmKind,
            process: Option<TaskId>,
            uuid: Option<Uuid>,
            domid: Option<u32>,
            vmid: Option<u32>,
            owner: Option<&'a Owner>,
            vmm: VmmKind,
            vcpus: &'a [Vcpu],
            memory: &'a [GuestRegion],
            left_out: &'a [String],
            allowed_cpus: &'a CpuSet,
            cannot_merge: &'a [String],
        }
        let domain = self.id.xen_domain();
        Out {
            name: &self.name,
            vm_kind: self.id.kind(),
            process: self.process(),
            uuid: self.uuid.or(domain.map(|domain| domain.uuid)),
            domid: domain.map(|domain| domain.domid),
            vmid: self.vmid,
            owner: self.owner.as_ref(),
            vmm: self.vmm,
            vcpus: &self.vcpus,
            memory: &self.memory,
            left_out: &self.left_out,
            allowed_cpus: &self.allowed_cpus,
            cannot_merge: &self.cannot_merge,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Vm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct In {
            name: String,
            process: Option<TaskId>,
            uuid: Option<Uuid>,
            domid: Option<u32>,
            vmid: Option<u32>,
            owner: Option<Owner>,
            vmm: VmmKind,
            vcpus: Vec<Vcpu>,
            memory: Vec<GuestRegion>,
            #[serde(default)]
            left_out: Vec<String>,
            allowed_cpus: CpuSet,
            cannot_merge: Vec<String>,
        }
        let read = In::deserialize(deserializer)?;
        let id = match (read.process, read.domid, read.uuid) {
            (Some(process), None, _) => VmId::Process(process),
            (None, Some(domid), Some(uuid)) => VmId::XenDomain(XenDomainId { domid, uuid }),
            _ => return Err(D::Error::custom("a VM has either a process, or a domid and a uuid")),
        };
        Ok(Self {
            name: read.name,
            id,
            uuid: read.uuid,
            vmid: read.vmid,
            owner: read.owner,
            vmm: read.vmm,
            vcpus: read.vcpus,
            memory: read.memory,
            left_out: read.left_out,
            allowed_cpus: read.allowed_cpus,
            cannot_merge: read.cannot_merge,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryKind;
    use super::*;
    use crate::binding::BindingKind;

    fn vm(id: VmId, vcpu: VcpuId, process: Option<TaskId>) -> Vm {
        Vm {
            name: "a".into(),
            id,
            uuid: Some(Uuid::from_u128(7 << 64 | 9)),
            vmid: None,
            owner: process.map(|_| Owner { uid: 64055, name: Some("libvirt-qemu".into()) }),
            vmm: VmmKind::QemuKvm,
            vcpus: vec![Vcpu {
                index: 0,
                id: vcpu,
                process,
                thread_name: process.map(|_| "CPU 0/KVM".into()),
                affinity: "0-1".parse().unwrap(),
                last_cpu: Some(1),
                limits: VcpuLimits::default(),
            }],
            memory: vec![GuestRegion { process, start: 0, end: 4096, kind: MemoryKind::Mergeable }],
            left_out: vec!["2 MiB of memory of devices".into()],
            allowed_cpus: "0-3".parse().unwrap(),
            cannot_merge: vec!["no".into()],
        }
    }

    #[test]
    fn both_kinds_round_trip_with_null_where_a_field_does_not_apply() {
        let process = TaskId { id: 4711, start_ticks: 5 };
        let domain = XenDomainId { domid: 5, uuid: Uuid::from_u128(7 << 64 | 9) };
        let held = vm(process.into(), TaskId { id: 4712, start_ticks: 6 }.into(), Some(process));
        let on_xen = vm(domain.into(), VcpuId::Xen { domain, vcpu: 0 }, None);
        for vm in [&held, &on_xen] {
            let text = serde_json::to_string(vm).unwrap();
            assert_eq!(&serde_json::from_str::<Vm>(&text).unwrap(), vm);
        }
        let held = serde_json::to_value(&held).unwrap();
        assert_eq!((&held["vm_kind"], &held["process"]["id"]), (&"process".into(), &4711.into()));
        assert!(held["domid"].is_null() && held["vcpus"][0].get("xen").is_none());
        assert_eq!(held["vcpus"][0]["thread"]["id"], 4712);
        let on_xen = serde_json::to_value(&on_xen).unwrap();
        assert_eq!((&on_xen["vm_kind"], &on_xen["domid"]), (&"xen_domain".into(), &5.into()));
        assert_eq!(on_xen["uuid"], "00000000-0000-0007-0000-000000000009");
        for absent in ["process", "thread", "thread_name"] {
            let of = if absent == "process" { &on_xen } else { &on_xen["vcpus"][0] };
            assert!(of.get(absent).is_some_and(serde_json::Value::is_null), "{absent}");
        }
    }

    #[test]
    fn limits_of_a_vcpu_round_trip_and_are_absent_where_there_are_none() {
        let task = TaskId { id: 1, start_ticks: 1 };
        let mut vm = vm(task.into(), task.into(), Some(task));
        assert!(serde_json::to_value(&vm).unwrap()["vcpus"][0].get("binding").is_none());
        let kind = BindingKind::RealTime(RealTime::Fifo);
        vm.vcpus[0].limits = VcpuLimits {
            allowed_cpus: Some("1-2".parse().unwrap()),
            binding: Some(Binding { cpus: "1".parse().unwrap(), kind }),
            real_time: Some(RealTime::Fifo),
            core_cookie: Some(u64::MAX),
            before_huddle: Some("1-2".parse().unwrap()),
        };
        vm.vmid = Some(100);
        let text = serde_json::to_string(&vm).unwrap();
        assert_eq!(serde_json::from_str::<Vm>(&text).unwrap(), vm);
        let json = serde_json::to_value(&vm).unwrap();
        assert_eq!(json["vcpus"][0]["binding"]["kind"], serde_json::json!({"real_time": "fifo"}));
        assert_eq!(vm.allowed_cpus_of(&vm.vcpus[0]).to_string(), "1-2");
        let note = "a: vCPU 0 is left as its owner bound it, on CPUs 1, with the real-time policy SCHED_FIFO";
        assert_eq!(vm.binding_notes(), [note]);
    }

    #[test]
    fn neither_or_both_is_rejected() {
        let task = TaskId { id: 1, start_ticks: 1 };
        let good = serde_json::to_value(vm(task.into(), task.into(), Some(task))).unwrap();
        for (field, value) in [("process", serde_json::Value::Null), ("domid", 5.into())] {
            let mut bad = good.clone();
            bad[field] = value;
            assert!(serde_json::from_value::<Vm>(bad).is_err(), "{field}");
        }
    }
}
