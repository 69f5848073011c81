//! Assignment of vCPUs to cache domains: what a trial switches, and what is in force.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, VcpuPlacement};
use crate::topology::{DomainId, Topology};

/// A placement. vCPUs without an entry are where they were before huddle started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<VcpuPlacement>", into = "Vec<VcpuPlacement>")]
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

    /// The same placement with the names of equal domains exchanged so that all its mirror images are equal: domains
    /// with as many CPUs, as large a cache and the same NUMA nodes are named in the order in which the vCPUs, sorted
    /// by name, use them.
    pub fn unmirrored(&self, topology: &Topology) -> Self {
        let kind = |id: DomainId| {
            let domain = topology.domain(id)?;
            Some((domain.cpus.len(), domain.size_bytes, &domain.nodes))
        };
        let mut names: BTreeMap<DomainId, DomainId> = BTreeMap::new();
        let mut taken: BTreeSet<DomainId> = BTreeSet::new();
        for domain in self.0.values() {
            if names.contains_key(domain) {
                continue;
            }
            let alike =
                topology.domains().iter().map(|other| other.id).filter(|other| kind(*other) == kind(*domain));
            let free = alike.filter(|other| !taken.contains(other)).min().unwrap_or(*domain);
            taken.insert(free);
            names.insert(*domain, free);
        }
        Self(self.0.iter().map(|(vcpu, domain)| (vcpu.clone(), names[domain])).collect())
    }

    /// Number of vCPUs in different domains; a vCPU with an entry in only one of the two counts, since its
    /// other place is unknown.
    pub fn moves_to(&self, other: &Self) -> u32 {
        let here = self.0.iter().filter(|(vcpu, domain)| other.0.get(vcpu) != Some(domain)).count();
        let there = other.0.keys().filter(|vcpu| !self.0.contains_key(vcpu)).count();
        u32::try_from(here + there).unwrap_or(u32::MAX)
    }
}

impl From<Vec<VcpuPlacement>> for Assignment {
    fn from(entries: Vec<VcpuPlacement>) -> Self {
        entries.into_iter().map(|placed| ((placed.vm, placed.vcpu), placed.domain)).collect()
    }
}

impl From<Assignment> for Vec<VcpuPlacement> {
    fn from(placement: Assignment) -> Self {
        placement.entries()
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
    use crate::topology::CacheDomain;

    fn placed(entries: &[(&str, u32)]) -> Assignment {
        entries.iter().map(|(vm, domain)| (((*vm).to_owned(), 0), DomainId(*domain))).collect()
    }

    #[test]
    fn mirror_images_are_one_placement() {
        let domain = |id: u32, cpus: u32, nodes: &[u32]| CacheDomain {
            id: DomainId(id),
            cpus: (id * 8..id * 8 + cpus).collect(),
            size_bytes: Some(1 << 25),
            nodes: nodes.iter().copied().collect(),
        };
        let topology = |domains: Vec<CacheDomain>| Topology::new(Some(3), domains).unwrap();
        let one = placed(&[("a", 0), ("b", 0), ("c", 1)]);
        let other = placed(&[("a", 1), ("b", 1), ("c", 0)]);
        let is_one = |domains| {
            let topology = topology(domains);
            one.unmirrored(&topology) == other.unmirrored(&topology)
        };
        assert!(is_one(vec![domain(0, 4, &[0]), domain(1, 4, &[0])]));
        assert!(!is_one(vec![domain(0, 4, &[0]), domain(1, 6, &[0])]), "another size");
        assert!(!is_one(vec![domain(0, 4, &[0]), domain(1, 4, &[1])]), "other memory");
        let equal = topology(vec![domain(0, 4, &[0]), domain(1, 4, &[0])]);
        assert_ne!(one.unmirrored(&equal), placed(&[("a", 0), ("b", 1), ("c", 1)]).unmirrored(&equal));
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
