//! What applying the plan that is shown would do.

use huddle_model::plan::{Plan, PlanVm};
use huddle_model::text::counted;
use huddle_model::topology::Topology;
use huddle_model::view::View;
use huddle_model::vm::Vm;

/// One line for each vCPU that would be moved, and one for all that would stay.
pub(super) fn moves(view: &View) -> Vec<String> {
    let (Some(plan), Some(topology)) = (view.round.plan.value(), view.round.topology.value()) else {
        return vec!["do nothing: there is no plan".into()];
    };
    if let Some(waiting) = plan.waiting.as_ref().filter(|_| plan.placement.is_empty()) {
        return vec![format!("change nothing: {waiting}")];
    }
    if view.pinning.outcome().is_some() && view.comparison.value().is_none() {
        return vec![format!("change nothing: the loop pins as policy {} plans already", plan.policy)];
    }
    lines(plan, topology, &view.round.vms)
}

fn lines(plan: &Plan, topology: &Topology, vms: &[Vm]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut staying = 0;
    for vm in vms {
        let current = PlanVm::of(vm, topology).current;
        for (vcpu, now) in vm.vcpus.iter().zip(current) {
            let Some(to) = plan.domain_of(&vm.name, vcpu.index) else { continue };
            if now == Some(to.id) {
                staying += 1;
                continue;
            }
            let from = now.map_or_else(|| "no domain of its own".to_owned(), |id| format!("domain {id}"));
            lines.push(format!("{} vCPU {}: {from} -> domain {}", vm.name, vcpu.index, to.id));
        }
    }
    if lines.is_empty() {
        return vec![format!(
            "change nothing: policy {} wants {} where they are",
            plan.policy,
            counted(staying, "vCPU")
        )];
    }
    if staying > 0 {
        lines.push(format!("{} left where they are", counted(staying, "vCPU")));
    }
    lines
}
