//! Keeping VMs on the NUMA node of their memory.

use std::collections::BTreeSet;

use super::{PlacementState, PlanInput, PlanVm};
use crate::topology::DomainId;

/// The VMs with their allowed domains restricted to nodes with enough of their memory, and notes about that.
/// `None` if there is no restriction: no limit is set, or all domains are on one node.
pub(super) fn narrowed(input: &PlanInput<'_>) -> Option<(Vec<PlanVm>, Vec<String>)> {
    let least = input.limits?.local_memory?;
    let nodes: BTreeSet<&BTreeSet<u32>> =
        input.topology.domains().iter().map(|domain| &domain.nodes).collect();
    if nodes.len() < 2 {
        return None;
    }
    let mut notes = Vec::new();
    let vms = (0..input.matrix.len()).map(|position| {
        let mut vm = input.vms.get(position).cloned().unwrap_or_default();
        let name = input.name(position);
        let pages: u64 = vm.node_pages.values().sum();
        if pages == 0 {
            notes.push(format!("{name}: the nodes of its memory are unknown, so it is not limited"));
            return vm;
        }
        let share = |node: u32| vm.node_pages.get(&node).copied().unwrap_or(0) as f64 / pages as f64;
        let is_near = |nodes: &BTreeSet<u32>| {
            nodes.is_empty() || nodes.iter().map(|node| share(*node)).sum::<f64>() >= least
        };
        let may = input.topology.domains().iter().filter(|domain| input.is_allowed(position, domain.id));
        let near: BTreeSet<DomainId> = may.filter(|domain| is_near(&domain.nodes)).map(|d| d.id).collect();
        if near.is_empty() {
            notes.push(format!(
                "{name}: no domain it may run in is on a node with {:.0} % of its memory, so it is not \
                 limited",
                least * 100.0
            ));
        } else {
            vm.allowed = Some(near);
        }
        vm
    });
    let vms = vms.collect();
    Some((vms, notes))
}

/// The same, but without restriction for VMs that can be kept apart from others only without it.
pub(super) fn apart_first(
    input: &PlanInput<'_>,
    mut vms: Vec<PlanVm>,
    mut notes: Vec<String>,
) -> (Vec<PlanVm>, Vec<String>) {
    let near = PlacementState::new(&PlanInput { vms: &vms, ..*input });
    let anywhere = PlacementState::new(input);
    let gives_way = |vm: &usize| anywhere.can_be_kept_apart(*vm) && !near.can_be_kept_apart(*vm);
    let give_way: Vec<usize> = (0..input.matrix.len()).filter(gives_way).collect();
    for vm in give_way {
        vms[vm].allowed = input.vms.get(vm).and_then(|vm| vm.allowed.clone());
        notes.push(format!(
            "{}: it can be kept apart from others only without the limit for local memory, so it is not limited",
            input.name(vm)
        ));
    }
    (vms, notes)
}
