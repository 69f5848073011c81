//! Which classes of cores a placement uses. The vCPUs of a VM on cores of several classes run at different speeds, so a
//! reason of the plan names it.

use std::collections::{BTreeMap, BTreeSet};

use super::{PlanInput, VcpuPlacement};
use crate::topology::{CacheDomain, CoreClasses, DomainId};

/// One sentence for each domain in use that has cores of several classes, and one for each VM whose domains have
/// different ones.
pub(super) fn reasons(input: &PlanInput<'_>, placement: &[VcpuPlacement]) -> Vec<String> {
    let topology = input.topology;
    if topology.classes().is_empty() {
        return Vec::new();
    }
    let used = |vm: Option<&str>| -> Vec<(&CacheDomain, CoreClasses)> {
        let is_here = |placed: &VcpuPlacement| vm.is_none_or(|vm| placed.vm == vm);
        let here: BTreeSet<DomainId> =
            placement.iter().filter(|placed| is_here(placed)).map(|placed| placed.domain).collect();
        let is_used = |domain: &&CacheDomain| here.contains(&domain.id);
        topology
            .domains()
            .iter()
            .filter(is_used)
            .map(|domain| (domain, topology.classes_in(domain)))
            .collect()
    };
    let mut reasons: Vec<String> = Vec::new();
    for (domain, classes) in used(None).iter().filter(|(_, classes)| classes.len() > 1) {
        reasons.push(format!(
            "domain {} has cores of several classes ({classes}): the kernel chooses among them for each vCPU placed \
             there, so vCPUs of one VM may run on cores of different classes",
            domain.id
        ));
    }
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for placed in placement {
        *sizes.entry(&placed.vm).or_default() += 1;
    }
    for vm in input.matrix.vms().iter().filter(|vm| sizes.get(vm.name.as_str()).is_some_and(|size| *size > 1))
    {
        let domains = used(Some(&vm.name));
        let Some((_, first)) = domains.first() else { continue };
        if domains.iter().any(|(_, classes)| !classes.are_those_of(first)) {
            let list: Vec<String> = domains
                .iter()
                .map(|(domain, classes)| format!("domain {} ({})", domain.id, classes.names()))
                .collect();
            reasons.push(format!(
                "{}: its vCPUs are on cores of different classes: {}",
                vm.name,
                list.join(", ")
            ));
        }
    }
    reasons
}
