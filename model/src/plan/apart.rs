//! Looking ahead, so that VMs are kept apart wherever they can be.
//!
//! A policy places VMs one by one, and may take the only domain that is left to a VM that has to be kept apart from
//! another. So before VMs are placed in a domain it is checked that the others can still be placed: at first all of them
//! within every limit (shares, load, domains that they may run in), if that is possible and the VMs are few. Otherwise
//! only the VMs to be kept apart, each in a domain that it may run in and that holds none of the others, whatever the
//! shares: keeping apart has priority over them. (A VM that is divided over domains needs at least one such domain, so
//! nothing is possible with divided VMs that is not possible with whole ones.)
//!
//! Both are searches with backtracking ([`Instance::feasible`]), within a number of steps: list colouring and bin
//! packing are NP-hard. A check that takes longer counts as passed.

use std::collections::BTreeSet;

use super::PlacementState;
use super::instance::{Feasible, Instance};

/// Up to this many VMs each decision is checked with all limits.
const MAX_VMS: usize = 64;

/// Maximum number of steps of the first check, and of each further one.
const FIRST_STEPS: u64 = 200_000;
const STEPS: u64 = 20_000;

/// What can be kept, of VMs to be kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookAhead {
    /// There are none.
    Nothing,
    /// VMs, apart from each other, of those that can be.
    Apart,
    /// All VMs can be placed within every limit.
    AllLimits,
}

impl PlacementState<'_> {
    /// Whether each VM can be kept apart, with all that it is linked to by pairs to be kept apart; before any VM is
    /// placed.
    pub(super) fn can_be_apart(&self) -> Vec<bool> {
        let mut can = vec![false; self.placed.len()];
        let mut seen = vec![false; can.len()];
        for first in self.placeable() {
            if seen[first] || !self.is_kept_apart(first) {
                continue;
            }
            seen[first] = true;
            let mut linked = vec![first];
            let mut next = 0;
            while let Some(vm) = linked.get(next).copied() {
                next += 1;
                for other in self.enemies(vm) {
                    if self.has_domain(other) && !std::mem::replace(&mut seen[other], true) {
                        linked.push(other);
                    }
                }
            }
            if self.in_any_share(&linked, &[]).feasible(FIRST_STEPS) != Feasible::No {
                linked.iter().for_each(|vm| can[*vm] = true);
            }
        }
        can
    }

    /// What can be kept, before any VM is placed.
    pub(super) fn look_ahead(&self) -> LookAhead {
        let placeable = self.placeable();
        if !placeable.iter().any(|vm| self.is_kept_apart(*vm)) {
            return LookAhead::Nothing;
        }
        if placeable.len() <= MAX_VMS
            && let Feasible::By(_) = self.instance(&placeable).feasible(FIRST_STEPS)
        {
            return LookAhead::AllLimits;
        }
        LookAhead::Apart
    }

    /// VMs that are not placed yet and may run somewhere.
    fn placeable(&self) -> Vec<usize> {
        self.unplaced().into_iter().filter(|vm| self.has_domain(*vm)).collect()
    }

    fn has_domain(&self, vm: usize) -> bool {
        self.input.vcpus(vm) > 0
            && self.domains().any(|domain| self.input.is_allowed(vm, self.domain_id(domain)))
    }

    /// Whether the other VMs can still be placed after these are placed in the domain.
    pub(super) fn leaves_a_way(&self, vms: &[usize], domain: usize) -> bool {
        match self.looks_ahead() {
            LookAhead::Nothing => true,
            LookAhead::Apart => self.leaves_others_apart(vms, domain),
            LookAhead::AllLimits => {
                let mut after = self.clone_places();
                vms.iter().for_each(|vm| after.put(*vm, domain));
                after.instance(&after.placeable()).feasible(STEPS) != Feasible::No
            }
        }
    }

    /// Whether VMs to be kept apart can still be, after these have vCPUs in the domain.
    pub(super) fn leaves_others_apart(&self, vms: &[usize], domain: usize) -> bool {
        if self.looks_ahead() == LookAhead::Nothing {
            return true;
        }
        // Those that may be affected, directly or by each other.
        let mut affected: BTreeSet<usize> = BTreeSet::new();
        let mut open: Vec<usize> = vms.to_vec();
        while let Some(vm) = open.pop() {
            for other in self.enemies(vm) {
                let is_open = self.is_unplaced(other) && self.can_be_kept_apart(other);
                if is_open && !vms.contains(&other) && affected.insert(other) {
                    open.push(other);
                }
            }
        }
        if affected.is_empty() {
            return true;
        }
        let affected: Vec<usize> = affected.into_iter().collect();
        let taken: Vec<(usize, usize)> = vms.iter().map(|vm| (*vm, domain)).collect();
        self.in_any_share(&affected, &taken).feasible(STEPS) != Feasible::No
    }

    /// The problem of placing these VMs without shares, with others in these domains as well.
    fn in_any_share(&self, vms: &[usize], taken: &[(usize, usize)]) -> Instance {
        let mut instance = self.instance(vms);
        for (item, vm) in vms.iter().enumerate() {
            for (other, domain) in
                taken.iter().filter(|(other, _)| self.enemies(*vm).any(|enemy| enemy == *other))
            {
                debug_assert_ne!(other, vm, "a VM is not kept apart from itself");
                instance.allowed[item][*domain] = false;
            }
        }
        let all: u32 = instance.sizes.iter().sum();
        instance.room.fill(all);
        instance.busy_room.clear();
        instance
    }
}
