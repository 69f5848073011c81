//! Limits of single vCPUs: those that their owner bound are not placed, each is placed where its cpuset allows it, and
//! no two with a real-time policy have one CPU.
//!
//! Policies place VMs, with the domains that all vCPUs of a VM may use. What single vCPUs may is put right afterwards.

use std::collections::{BTreeMap, BTreeSet};

use super::{PlanInput, PlanVm, VcpuPlacement};
use crate::binding::without_own_cpu;
use crate::cpuset::CpuSet;
use crate::topology::{DomainId, Topology};
use crate::vm::{Vcpu, Vm};

/// What single vCPUs of a VM may and shall not do, by their position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VcpuRules {
    /// Those that their owner bound.
    pub bound: BTreeSet<usize>,
    /// Sentences about these.
    pub notes: Vec<String>,
    /// Domains of those that may not run in all domains of their VM.
    pub allowed: BTreeMap<usize, BTreeSet<DomainId>>,
    /// CPUs of those with a real-time policy.
    pub real_time: BTreeMap<usize, CpuSet>,
}

impl VcpuRules {
    /// Those of a VM found on a host, and the domains that all of its vCPUs may run in: of those that are not bound; of
    /// all where all are; those that any may run in where there is none for all.
    pub(super) fn of(vm: &Vm, topology: &Topology) -> (Self, BTreeSet<DomainId>) {
        let domains_of = |cpus: &CpuSet| -> BTreeSet<DomainId> {
            let domains = topology.domains().iter().filter(|domain| !domain.cpus.is_disjoint(cpus));
            domains.map(|domain| domain.id).collect()
        };
        let mut domains: Vec<BTreeSet<DomainId>> = Vec::with_capacity(vm.vcpus.len());
        for (position, vcpu) in vm.vcpus.iter().enumerate() {
            // Most VMs have vCPUs that are all alike.
            let like =
                position.checked_sub(1).filter(|before| cpus_of(vm, &vm.vcpus[*before]) == cpus_of(vm, vcpu));
            domains
                .push(like.map_or_else(|| domains_of(cpus_of(vm, vcpu)), |before| domains[before].clone()));
        }
        let is_bound = |position: &usize| vm.vcpus[*position].limits.binding.is_some();
        let (bound, free): (BTreeSet<usize>, Vec<usize>) = {
            let (bound, free): (Vec<_>, Vec<_>) = (0..vm.vcpus.len()).partition(is_bound);
            (bound.into_iter().collect(), free)
        };
        let deciding: Vec<usize> =
            if free.is_empty() { bound.iter().copied().collect() } else { free.clone() };
        let common = deciding.iter().map(|at| domains[*at].clone()).reduce(|all, more| &all & &more);
        let allowed = match common {
            None => domains_of(&vm.allowed_cpus),
            Some(common) if !common.is_empty() => common,
            Some(_) => deciding.iter().flat_map(|at| domains[*at].iter().copied()).collect(),
        };
        let narrower = free.iter().filter(|at| !allowed.is_subset(&domains[**at]));
        let rules = Self {
            notes: vm.binding_notes(),
            allowed: narrower.map(|at| (*at, domains[*at].clone())).collect(),
            real_time: free
                .iter()
                .filter(|at| vm.vcpus[**at].limits.real_time.is_some())
                .map(|at| (*at, cpus_of(vm, &vm.vcpus[*at]).clone()))
                .collect(),
            bound,
        };
        (rules, allowed)
    }
}

/// CPUs that a vCPU runs on, wherever it is placed.
fn cpus_of<'a>(vm: &'a Vm, vcpu: &'a Vcpu) -> &'a CpuSet {
    match &vcpu.limits.binding {
        Some(binding) => &binding.cpus,
        None => vm.allowed_cpus_of(vcpu),
    }
}

impl PlanInput<'_> {
    /// The placement with the rules for single vCPUs, and the sentences to say about it.
    pub(super) fn with_vcpu_rules(&self, placement: Vec<VcpuPlacement>) -> (Vec<VcpuPlacement>, Vec<String>) {
        let rules_of =
            |vm: usize| self.vms.get(vm).map(|vm| &vm.rules).filter(|rules| **rules != VcpuRules::default());
        if !(0..self.matrix.len()).any(|vm| rules_of(vm).is_some()) {
            return (placement, Vec::new());
        }
        let of_name: BTreeMap<&str, usize> =
            self.matrix.vms().iter().enumerate().map(|(at, vm)| (vm.name.as_str(), at)).collect();
        let mut notes: Vec<String> =
            (0..self.matrix.len()).filter_map(rules_of).flat_map(|rules| rules.notes.clone()).collect();
        let mut kept = Vec::new();
        let places = placement.clone();
        // A domain without a VM to be kept apart from, if there is one.
        let without_enemy = |vm: &str, allowed: &BTreeSet<DomainId>| {
            let is_enemy = |other: &str| {
                let names = |(a, b): &(usize, usize)| (self.name(*a), self.name(*b));
                self.apart.iter().map(names).any(|pair| pair == (vm, other) || pair == (other, vm))
            };
            let is_free = |domain: &&DomainId| {
                places.iter().all(|there| there.domain != **domain || !is_enemy(&there.vm))
            };
            allowed.iter().find(is_free).or_else(|| allowed.first()).copied()
        };
        let mut real_time: Vec<(usize, CpuSet)> = Vec::new();
        for mut placed in placement {
            let at = of_name.get(placed.vm.as_str()).map(|vm| (*vm, self.position(*vm, placed.vcpu)));
            let rules = at.and_then(|(vm, position)| Some((rules_of(vm)?, position)));
            if let Some((rules, position)) = rules {
                if rules.bound.contains(&position) {
                    continue;
                }
                let (vm, vcpu) = (placed.vm.clone(), placed.vcpu);
                match rules.allowed.get(&position) {
                    Some(allowed) if !allowed.contains(&placed.domain) => match without_enemy(&vm, allowed) {
                        Some(domain) => {
                            placed.domain = domain;
                            notes.push(format!(
                                "{vm}: vCPU {vcpu} goes to domain {domain}, which its cpuset allows"
                            ));
                        }
                        None => {
                            notes.push(format!(
                                "{vm}: vCPU {vcpu} may run on no CPU of any cache domain: left to the kernel"
                            ));
                            continue;
                        }
                    },
                    _ => {}
                }
                if let Some(cpus) = rules.real_time.get(&position) {
                    let domain = self.topology.domains().iter().find(|domain| domain.id == placed.domain);
                    let cpus = domain.map(|domain| domain.cpus.intersection(cpus)).unwrap_or_default();
                    real_time.push((kept.len(), cpus));
                }
            }
            kept.push(placed);
        }
        let cpus: Vec<CpuSet> = real_time.iter().map(|(_, cpus)| cpus.clone()).collect();
        let mut left: Vec<usize> = without_own_cpu(&cpus).into_iter().map(|at| real_time[at].0).collect();
        while let Some(at) = left.pop() {
            let placed = kept.remove(at);
            notes.push(format!(
                "{}: vCPU {} has a real-time policy, and domain {} has no CPU that no other such vCPU needs: left to \
                 the kernel",
                placed.vm, placed.vcpu, placed.domain
            ));
        }
        (kept, notes)
    }

    /// The position of a VM's vCPU, by its number.
    pub(super) fn position(&self, vm: usize, number: u32) -> usize {
        let known = self.vms.get(vm).map(|vm: &PlanVm| vm.vcpus.as_slice()).unwrap_or_default();
        known.iter().position(|known| *known == number).unwrap_or(number as usize)
    }
}
