//! The JSON `huddle/plan/1`.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::{Expected, Plan, Policy, VcpuPlacement};
use crate::id::{Uuid, VmKind};
use crate::matrix::MatrixVm;
use crate::topology::{CacheDomain, DomainId};

#[derive(Serialize)]
struct Out<'a, P> {
    schema: &'static str,
    policy: Policy,
    domains: &'a [CacheDomain],
    placement: P,
    shared_within: Option<u64>,
    shared_total: Option<u64>,
    expected: Option<&'a Expected>,
    waiting: Option<&'a str>,
    reasons: &'a [String],
}

impl<'a, P> Out<'a, P> {
    fn of(plan: &'a Plan, placement: P) -> Self {
        Self {
            schema: "huddle/plan/1",
            policy: plan.policy,
            domains: &plan.domains,
            placement,
            shared_within: plan.shared_within,
            shared_total: plan.shared_total,
            expected: plan.expected.as_ref(),
            waiting: plan.waiting.as_deref(),
            reasons: &plan.reasons,
        }
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Out::<&[VcpuPlacement]>::of(self, &self.placement).serialize(serializer)
    }
}

/// A plan whose JSON has the id of each placed vCPU's VM, see [`Plan::of_vms`].
#[derive(Clone, Copy, Debug)]
pub struct PlanOfVms<'a> {
    plan: &'a Plan,
    vms: &'a [MatrixVm],
}

impl Plan {
    /// For programs that read the plan: with `vm_kind`, `pid`, `uuid` and `domid` of the VMs of its matrix,
    /// null if they do not apply or the matrix lacks them.
    pub fn of_vms<'a>(&'a self, vms: &'a [MatrixVm]) -> PlanOfVms<'a> {
        PlanOfVms { plan: self, vms }
    }
}

#[derive(Serialize)]
struct Placed<'a> {
    vm: &'a str,
    vm_kind: Option<VmKind>,
    pid: Option<i32>,
    uuid: Option<Uuid>,
    domid: Option<u32>,
    vcpu: u32,
    domain: DomainId,
}

impl Serialize for PlanOfVms<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let vms: HashMap<&str, &MatrixVm> = self.vms.iter().map(|vm| (vm.name.as_str(), vm)).collect();
        let placed = |placed: &'_ VcpuPlacement| {
            let vm = vms.get(placed.vm.as_str());
            let id = vm.and_then(|vm| vm.id);
            let domain = id.and_then(|id| id.xen_domain());
            let of = (id.map(|id| id.kind()), id.and_then(|id| id.process()), domain);
            (of, vm.and_then(|vm| vm.uuid).or(domain.map(|domain| domain.uuid)))
        };
        let placement = self.plan.placement.iter().map(|entry| {
            let ((vm_kind, process, xen_domain), uuid) = placed(entry);
            Placed {
                vm: &entry.vm,
                vm_kind,
                pid: process.map(|process| process.id),
                uuid,
                domid: xen_domain.map(|domain| domain.domid),
                vcpu: entry.vcpu,
                domain: entry.domain,
            }
        });
        Out::of(self.plan, placement.collect::<Vec<_>>()).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{TaskId, XenDomainId};

    #[test]
    fn placed_vcpus_have_the_ids_of_their_vm() {
        let place = |vm: &str| VcpuPlacement { vm: vm.into(), vcpu: 0, domain: DomainId(1) };
        let plan = Plan {
            policy: Policy::Paper,
            domains: Vec::new(),
            placement: ["a", "x", "file"].map(place).to_vec(),
            shared_within: None,
            shared_total: None,
            expected: None,
            waiting: None,
            reasons: Vec::new(),
        };
        let uuid = Uuid::from_u128(9);
        let vms = [
            MatrixVm { id: Some(TaskId { id: 7, start_ticks: 1 }.into()), ..MatrixVm::named("a") },
            MatrixVm { id: Some(XenDomainId { domid: 5, uuid }.into()), ..MatrixVm::named("x") },
            MatrixVm::named("file"),
        ];
        let json = serde_json::to_value(plan.of_vms(&vms)).unwrap();
        let of = |at: usize, field: &str| json["placement"][at][field].clone();
        let null = serde_json::Value::Null;
        assert_eq!(
            (of(0, "vm_kind"), of(0, "pid"), of(0, "domid")),
            ("process".into(), 7.into(), null.clone())
        );
        assert_eq!(
            (of(1, "vm_kind"), of(1, "pid"), of(1, "domid")),
            ("xen_domain".into(), null.clone(), 5.into())
        );
        assert_eq!((of(1, "uuid"), of(2, "vm_kind")), (uuid.to_string().into(), null));
        // Without them it is the same plan.
        assert_eq!(serde_json::from_value::<Plan>(json).unwrap(), plan);
    }
}
