//! The user's limits that a placement breaks.

use std::collections::BTreeMap;

use super::{PlanInput, VcpuPlacement};
use crate::topology::DomainId;

/// Limits that a placement breaks, one clause each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// VMs that are not kept apart: they share a cache, or one of them is placed by the kernel.
    pub apart: Vec<String>,
    /// Of vCPUs, CPU time and NUMA nodes.
    pub others: Vec<String>,
}

impl Broken {
    /// Whether the other breaks fewer limits; those of VMs to be kept apart count first.
    pub fn is_worse_than(&self, other: &Self) -> bool {
        (self.apart.len(), self.others.len()) > (other.apart.len(), other.others.len())
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<&str> = self.apart.iter().chain(&self.others).map(String::as_str).collect();
        f.write_str(&all.join("; "))
    }
}

impl PlanInput<'_> {
    /// The limits that a placement breaks; vCPUs without an entry are in an unknown place.
    pub fn broken(&self, placement: &[VcpuPlacement]) -> Broken {
        let position: BTreeMap<&str, usize> =
            self.matrix.vms().iter().enumerate().map(|(at, vm)| (vm.name.as_str(), at)).collect();
        let mut at: Vec<BTreeMap<DomainId, u32>> = vec![BTreeMap::new(); self.matrix.len()];
        for placed in placement {
            if let Some(vm) = position.get(placed.vm.as_str()) {
                *at[*vm].entry(placed.domain).or_insert(0) += 1;
            }
        }
        // Those that their owner bound are in no placement, and are where they are.
        for (vm, at) in at.iter_mut().enumerate() {
            let Some(found) = self.vms.get(vm) else { continue };
            for domain in found.rules.bound.iter().filter_map(|position| *found.current.get(*position)?) {
                *at.entry(domain).or_insert(0) += 1;
            }
        }
        let mut broken = Broken::default();
        let is_free = |vm: usize| at[vm].values().sum::<u32>() < self.vcpus(vm);
        for (a, b) in self.apart {
            if is_free(*a) || is_free(*b) || at[*a].keys().any(|domain| at[*b].contains_key(domain)) {
                broken.apart.push(format!("{} and {} are to be kept apart", self.name(*a), self.name(*b)));
            }
        }
        for domain in self.topology.domains() {
            let here = |vm: usize| at[vm].get(&domain.id).copied().unwrap_or(0);
            let vcpus: u64 = (0..at.len()).map(|vm| u64::from(here(vm))).sum();
            if vcpus > self.most_vcpus(domain) {
                broken.others.push(format!("domain {} has too many vCPUs", domain.id));
            }
            let part = |vm: usize| f64::from(here(vm)) / f64::from(self.vcpus(vm).max(1));
            let busy: f64 = (0..at.len()).map(|vm| self.cpus_busy(vm) * part(vm)).sum();
            if self.most_busy(domain).is_some_and(|most| busy > most + 1e-9) {
                broken.others.push(format!("domain {} is too busy", domain.id));
            }
        }
        if let Some((near, _)) = super::nodes::narrowed(self) {
            for (vm, domains) in at.iter().enumerate() {
                let may = near[vm].allowed.as_ref();
                if may.is_some_and(|may| domains.keys().any(|domain| !may.contains(domain))) {
                    broken.others.push(format!("{} is far from its memory", self.name(vm)));
                }
            }
        }
        broken
    }
}
