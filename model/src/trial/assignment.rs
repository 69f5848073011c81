//! Assignment of vCPUs to domains, as switched by a trial.

use std::collections::BTreeMap;

use crate::plan::{Plan, VcpuPlacement};
use crate::topology::DomainId;

/// A placement. vCPUs without an entry are where they were before huddle started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(BTreeMap<(String, u32), DomainId>);

impl Assignment {
    /// The placement of a plan.
    pub fn of(plan: &Plan) -> Self {
        plan.placement.iter().map(|placed| ((placed.vm.clone(), placed.vcpu), placed.domain)).collect()
    }

    /// The domain of a vCPU.
    pub fn domain(&self, vm: &str, vcpu: u32) -> Option<DomainId> {
        // A map with owned names as keys can only be queried with an owned name.
        self.0.get(&(vm.to_owned(), vcpu)).copied()
    }

    /// The domains of a VM's placed vCPUs.
    pub fn domains_of(&self, vm: &str) -> impl Iterator<Item = DomainId> {
        self.0.range((vm.to_owned(), 0)..=(vm.to_owned(), u32::MAX)).map(|(_, domain)| *domain)
    }

    /// Number of placed vCPUs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it places nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The placed vCPUs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, DomainId)> {
        self.0.iter().map(|((vm, vcpu), domain)| (vm.as_str(), *vcpu, *domain))
    }

    /// The entries of a plan with this placement.
    pub fn entries(&self) -> Vec<VcpuPlacement> {
        self.iter().map(|(vm, vcpu, domain)| VcpuPlacement { vm: vm.to_owned(), vcpu, domain }).collect()
    }

    /// This one, with missing entries from `before`.
    pub fn over(&self, before: &Self) -> Self {
        let mut all = before.0.clone();
        all.extend(self.0.iter().map(|(vcpu, domain)| (vcpu.clone(), *domain)));
        Self(all)
    }

    /// The entries of VMs for which `keep` is true.
    pub fn of_vms(&self, keep: impl Fn(&str) -> bool) -> Self {
        self.iter().filter(|(vm, _, _)| keep(vm)).map(|(vm, vcpu, d)| ((vm.to_owned(), vcpu), d)).collect()
    }

    /// Number of vCPUs in different domains; a vCPU with an entry in only one of the two counts, since its
    /// other place is unknown.
    pub fn moves_to(&self, other: &Self) -> u32 {
        let here = self.0.iter().filter(|(vcpu, domain)| other.0.get(vcpu) != Some(domain)).count();
        let there = other.0.keys().filter(|vcpu| !self.0.contains_key(vcpu)).count();
        u32::try_from(here + there).unwrap_or(u32::MAX)
    }
}

impl FromIterator<((String, u32), DomainId)> for Assignment {
    fn from_iter<T: IntoIterator<Item = ((String, u32), DomainId)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(entries: &[(&str, u32)]) -> Assignment {
        entries.iter().map(|(vm, domain)| (((*vm).to_owned(), 0), DomainId(*domain))).collect()
    }

    #[test]
    fn moves_are_differences_on_either_side() {
        let one = placed(&[("a", 0), ("b", 1), ("c", 0)]);
        assert_eq!(one.moves_to(&one), 0);
        assert_eq!(one.moves_to(&placed(&[("a", 1), ("b", 1), ("d", 0)])), 3);
        assert_eq!(Assignment::default().moves_to(&one), 3);
        assert_eq!(placed(&[("a", 1)]).over(&one), placed(&[("a", 1), ("b", 1), ("c", 0)]));
        assert_eq!(one.of_vms(|vm| vm != "b").len(), 2);
    }
}
