//! The state of an unfinished plan: the domain of each vCPU, and the load of each domain.

use std::cmp::Reverse;

use super::anywhere::{DIVIDED, NO_CPU, NOT_APART, NOWHERE_ELSE};
use super::apart::LookAhead;
use super::cookies::Usable;
use super::instance::Instance;
use super::{PlanInput, VcpuPlacement};
use crate::topology::DomainId;

/// What no placement under the same limits has more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Shared frames of pairs within domains.
    Shared {
        /// Their number.
        frames: u64,
        /// Whether it is that of the optimum.
        is_proven: bool,
    },
    /// Frames that caches hold less of, by groups.
    Saved {
        /// Their number.
        frames: u64,
        /// Whether it is that of the optimum.
        is_proven: bool,
    },
}

/// Vectors are indexed by the position of domains; positions of VMs are those of the matrix.
#[derive(Clone)]
pub(super) struct PlacementState<'a> {
    pub(super) input: PlanInput<'a>,
    /// Share of each domain without the vCPUs left over by rounding.
    pub(super) base: Vec<u32>,
    /// Whether the domain may take one of these.
    fractional: Vec<bool>,
    /// Number of these that are not placed yet.
    extra: u32,
    pub(super) load: Vec<u32>,
    /// CPUs that the VMs in each domain keep busy, and the limit.
    busy: Vec<f64>,
    pub(super) most_busy: Vec<Option<f64>>,
    /// Domain of each vCPU of each VM; empty until the VM is placed.
    pub(super) placed: Vec<Vec<usize>>,
    /// VMs that each VM is to be kept apart from.
    enemies: Vec<Vec<usize>>,
    look_ahead: LookAhead,
    /// Whether each VM can be kept apart, with all that it is linked to by pairs to be kept apart.
    can_be_apart: Vec<bool>,
    reasons: Vec<String>,
    /// VMs for which a limit could not be kept.
    pub(super) broken_limits: usize,
    bound: Option<Bound>,
}

impl<'a> PlacementState<'a> {
    pub(super) fn new(input: &PlanInput<'a>) -> Self {
        let domains = input.topology.domains();
        let mut sizes: Vec<u32> = input.matrix.vms().iter().map(|vm| vm.vcpus).collect();
        let vcpus: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        let cpus: u64 = domains.iter().map(|domain| domain.cpus.len() as u64).sum();
        sizes.sort_unstable_by_key(|size| Reverse(*size));
        let largest_pair: u64 = sizes.iter().take(2).map(|size| u64::from(*size)).sum();
        let usable = Usable::of(input);
        let base: Vec<u32> = domains
            .iter()
            .map(|domain| {
                let own = domain.cpus.len() as u64;
                let together = usable.map_or(own, |usable| usable.cpus(input, domain));
                let share = (vcpus * own / cpus).max(together.min(largest_pair));
                u32::try_from(share.min(input.most_vcpus(domain))).unwrap_or(u32::MAX)
            })
            .collect();
        let fractional = domains
            .iter()
            .zip(&base)
            .map(|(domain, base)| {
                let base = u64::from(*base);
                (vcpus * domain.cpus.len() as u64).div_ceil(cpus) > base && base < input.most_vcpus(domain)
            })
            .collect();
        let extra = vcpus.saturating_sub(base.iter().map(|base| u64::from(*base)).sum());
        let unknown = input.matrix.vms().iter().filter(|vm| vm.vcpus == 0);
        let mut reasons: Vec<String> = unknown
            .map(|vm| format!("{}: no vCPU thread is known, so it cannot be placed", vm.name))
            .collect();
        reasons.extend(usable.map(Usable::reason));
        if input.limits.is_some_and(|limits| limits.load_per_cpu.is_some()) {
            let unknown = (0..input.matrix.len()).filter(|vm| {
                input.vcpus(*vm) > 0 && input.vms.get(*vm).is_none_or(|vm| vm.cpus_busy.is_none())
            });
            reasons.extend(unknown.map(|vm| {
                format!("{}: its CPU load is unknown, so all its vCPUs count as busy", input.name(vm))
            }));
        }
        let mut enemies = vec![Vec::new(); input.matrix.len()];
        for (a, b) in input.apart.iter().filter(|(a, b)| a != b) {
            enemies[*a].push(*b);
            enemies[*b].push(*a);
        }
        let mut state = Self {
            input: *input,
            enemies,
            look_ahead: LookAhead::Nothing,
            can_be_apart: vec![false; input.matrix.len()],
            broken_limits: 0,
            reasons,
            fractional,
            extra: u32::try_from(extra).unwrap_or(u32::MAX),
            load: vec![0; base.len()],
            busy: vec![0.0; base.len()],
            most_busy: domains.iter().map(|domain| input.most_busy(domain)).collect(),
            base,
            placed: vec![Vec::new(); input.matrix.len()],
            bound: None,
        };
        state.can_be_apart = state.can_be_apart();
        state.look_ahead = state.look_ahead();
        state
    }

    /// What can be kept, of VMs to be kept apart.
    pub(super) fn looks_ahead(&self) -> LookAhead {
        self.look_ahead
    }

    /// Whether the VM can be kept apart from others, and they from each other.
    pub(super) fn can_be_kept_apart(&self, vm: usize) -> bool {
        self.can_be_apart[vm]
    }

    /// The same places, without reasons.
    pub(super) fn clone_places(&self) -> Self {
        Self { reasons: Vec::new(), ..self.clone() }
    }

    /// Takes the places of all VMs, and what was said about those that are divided or break a limit.
    pub(super) fn take_places_of(&mut self, other: &Self) {
        self.load.clone_from(&other.load);
        self.busy.clone_from(&other.busy);
        self.placed.clone_from(&other.placed);
        self.extra = other.extra;
        self.broken_limits = other.broken_limits;
        let is_about_limits = |reason: &&String| {
            !self.reasons.contains(reason)
                && [DIVIDED, NOT_APART, NOWHERE_ELSE, NO_CPU].iter().any(|what| reason.contains(what))
        };
        let more: Vec<String> = other.reasons.iter().filter(is_about_limits).cloned().collect();
        self.reasons.extend(more);
    }

    /// Number of VMs for which a limit could not be kept.
    pub(super) fn broken_limits(&self) -> usize {
        self.broken_limits
    }

    pub(super) fn is_unplaced(&self, vm: usize) -> bool {
        self.placed[vm].is_empty() && self.input.vcpus(vm) > 0
    }

    /// VMs that this one is to be kept apart from.
    pub(super) fn enemies(&self, vm: usize) -> impl Iterator<Item = usize> + '_ {
        self.enemies[vm].iter().copied()
    }

    /// Whether it is to be kept apart from a VM that can be placed.
    pub(super) fn is_kept_apart(&self, vm: usize) -> bool {
        self.enemies(vm).any(|other| self.input.vcpus(other) > 0)
    }

    /// The problem of placing these VMs after those that are placed, without gains.
    pub(super) fn instance(&self, vms: &[usize]) -> Instance {
        let mut item_of = vec![None; self.placed.len()];
        vms.iter().enumerate().for_each(|(item, vm)| item_of[*vm] = Some(item));
        let allowed = vms.iter().map(|vm| {
            let may = |domain: usize| {
                self.input.is_allowed(*vm, self.domain_id(domain)) && !self.meets_enemy(*vm, domain)
            };
            self.domains().map(may).collect()
        });
        Instance {
            sizes: vms.iter().map(|vm| self.input.vcpus(*vm)).collect(),
            gains: vec![Vec::new(); vms.len()],
            groups: Vec::new(),
            room: self.domains().map(|domain| self.base[domain].saturating_sub(self.load[domain])).collect(),
            stretches: self
                .domains()
                .map(|domain| self.fractional[domain] && self.load[domain] <= self.base[domain])
                .collect(),
            stretched: self.extra,
            allowed: allowed.collect(),
            apart: vms
                .iter()
                .map(|vm| self.enemies(*vm).filter_map(|other| item_of[other]).collect())
                .collect(),
            busy: vms.iter().map(|vm| self.input.cpus_busy(*vm)).collect(),
            busy_room: self.most_busy().iter().zip(&self.busy).map(|(most, busy)| most - busy).collect(),
        }
    }

    /// The part of each VM's vCPUs that is in each domain.
    pub(super) fn presence(&self) -> Vec<Vec<f64>> {
        let of = |placed: &Vec<usize>| {
            let mut parts = vec![0.0; self.base.len()];
            placed.iter().for_each(|domain| parts[*domain] += 1.0);
            parts.iter_mut().for_each(|part| *part /= placed.len().max(1) as f64);
            parts
        };
        self.placed.iter().map(of).collect()
    }

    pub(super) fn input(&self) -> &PlanInput<'a> {
        &self.input
    }

    /// VMs that are not placed yet, in the order of the matrix.
    pub(super) fn unplaced(&self) -> Vec<usize> {
        (0..self.placed.len()).filter(|vm| self.placed[*vm].is_empty() && self.input.vcpus(*vm) > 0).collect()
    }

    /// The domain of a VM that is completely in one.
    pub(super) fn whole_in(&self, vm: usize) -> Option<usize> {
        let first = *self.placed[vm].first()?;
        self.placed[vm].iter().all(|domain| *domain == first).then_some(first)
    }

    pub(super) fn domain_id(&self, domain: usize) -> DomainId {
        self.input.topology.domains()[domain].id
    }

    pub(super) fn domains(&self) -> std::ops::Range<usize> {
        0..self.base.len()
    }

    pub(super) fn because(&mut self, reason: String) {
        self.reasons.push(reason);
    }

    /// The share of each domain, whether it may take one of the vCPUs left over by rounding, and the number
    /// of these.
    #[cfg(test)]
    pub(super) fn shares(&self) -> (Vec<u32>, Vec<bool>, u32) {
        (self.base.clone(), self.fractional.clone(), self.extra)
    }

    pub(super) fn bound(&self) -> Option<Bound> {
        self.bound
    }

    pub(super) fn bounded(&mut self, bound: Bound) {
        self.bound = Some(bound);
    }

    /// Whether a VM that must not share a cache with this one is in the domain.
    pub(super) fn meets_enemy(&self, vm: usize, domain: usize) -> bool {
        self.enemies[vm].iter().any(|other| self.placed[*other].contains(&domain))
    }

    /// vCPUs that still fit in the domain's share.
    pub(super) fn room(&self, domain: usize) -> u32 {
        let extra =
            u32::from(self.fractional[domain] && self.extra > 0 && self.load[domain] <= self.base[domain]);
        (self.base[domain] + extra).saturating_sub(self.load[domain])
    }

    /// Whether all of `vms` may run in the domain and fit into its share together, and the others can still be placed
    /// as far as they could before.
    pub(super) fn fits(&self, vms: &[usize], domain: usize) -> bool {
        self.have_room(vms, domain) && self.leaves_a_way(vms, domain)
    }

    fn have_room(&self, vms: &[usize], domain: usize) -> bool {
        let need: u32 = vms.iter().map(|vm| self.input.vcpus(*vm)).sum();
        let busy: f64 = vms.iter().map(|vm| self.input.cpus_busy(*vm)).sum();
        need <= self.room(domain)
            && self.bears(domain, busy)
            && vms.iter().all(|vm| {
                self.input.is_allowed(*vm, self.domain_id(domain)) && !self.meets_enemy(*vm, domain)
            })
            && !vms.iter().any(|vm| self.enemies(*vm).any(|other| vms.contains(&other)))
    }

    /// Whether VMs that keep so many CPUs busy may be added to the domain.
    pub(super) fn bears(&self, domain: usize, busy: f64) -> bool {
        self.most_busy[domain].is_none_or(|most| self.busy[domain] + busy <= most + 1e-9)
    }

    /// How many CPUs the VMs of a domain keep busy.
    pub(super) fn busy(&self, domain: usize) -> f64 {
        self.busy[domain]
    }

    /// How many CPUs the VMs of each domain may keep busy; empty for any number.
    pub(super) fn most_busy(&self) -> Vec<f64> {
        self.most_busy.iter().copied().collect::<Option<_>>().unwrap_or_default()
    }

    /// The domain for `vms` together: most room, then most of their vCPUs there already, then lowest id.
    pub(super) fn roomiest(&self, vms: &[usize]) -> Option<usize> {
        let mut domains: Vec<usize> = self.domains().filter(|domain| self.have_room(vms, *domain)).collect();
        domains.sort_by_cached_key(|domain| {
            let here = vms.iter().map(|vm| self.input.current_vcpus(*vm, self.domain_id(*domain)));
            (Reverse(self.room(*domain)), Reverse(here.sum::<usize>()), *domain)
        });
        domains.into_iter().find(|domain| self.leaves_a_way(vms, *domain))
    }

    /// Places the whole VM.
    pub(super) fn put(&mut self, vm: usize, domain: usize) {
        for _ in 0..self.input.vcpus(vm) {
            self.put_vcpu(vm, domain);
        }
    }

    pub(super) fn put_vcpu(&mut self, vm: usize, domain: usize) {
        self.load[domain] += 1;
        self.busy[domain] += self.vcpu_busy(vm);
        if self.load[domain] == self.base[domain] + 1 && self.fractional[domain] {
            self.extra = self.extra.saturating_sub(1);
        }
        self.placed[vm].push(domain);
    }

    /// Removes the whole VM.
    pub(super) fn lift(&mut self, vm: usize) {
        for domain in std::mem::take(&mut self.placed[vm]) {
            if self.load[domain] == self.base[domain] + 1 && self.fractional[domain] {
                self.extra += 1;
            }
            self.load[domain] -= 1;
            self.busy[domain] -= self.vcpu_busy(vm);
        }
    }

    /// CPUs that one vCPU of a VM keeps busy, on average over its vCPUs.
    pub(super) fn vcpu_busy(&self, vm: usize) -> f64 {
        self.input.cpus_busy(vm) / f64::from(self.input.vcpus(vm).max(1))
    }

    /// Share (0 to 1) of the pairs of vCPUs of two VMs that are in one domain.
    pub(super) fn meeting_fraction(&self, i: usize, j: usize) -> f64 {
        let (a, b) = (&self.placed[i], &self.placed[j]);
        if let ([a], [b]) = (a.as_slice(), b.as_slice()) {
            return f64::from(u8::from(a == b));
        }
        let pairs = a.len() * b.len();
        if pairs == 0 {
            return 0.0;
        }
        let meeting: usize =
            self.placed[i].iter().map(|a| self.placed[j].iter().filter(|b| a == *b).count()).sum();
        meeting as f64 / pairs as f64
    }

    pub(super) fn placement(&self) -> Vec<VcpuPlacement> {
        let mut placement = Vec::new();
        for (vm, domains) in self.placed.iter().enumerate() {
            for (position, domain) in domains.iter().enumerate() {
                placement.push(VcpuPlacement {
                    vm: self.input.name(vm).to_owned(),
                    vcpu: self.input.number(vm, position),
                    domain: self.domain_id(*domain),
                });
            }
        }
        placement
    }

    pub(super) fn into_reasons(self) -> Vec<String> {
        self.reasons
    }
}
