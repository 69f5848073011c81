//! The state of an unfinished plan: the domain of each vCPU, and the load of each domain.

use std::cmp::Reverse;

use super::cookies::Usable;
use super::{PlanInput, VcpuPlacement};
use crate::topology::DomainId;

/// Vectors are indexed by the position of domains; positions of VMs are those of the matrix.
pub(super) struct PlacementState<'a> {
    input: PlanInput<'a>,
    /// Share of each domain without the vCPUs left over by rounding.
    base: Vec<u32>,
    /// Whether the domain may take one of these.
    fractional: Vec<bool>,
    /// Number of these that are not placed yet.
    extra: u32,
    load: Vec<u32>,
    /// CPUs that the VMs in each domain keep busy, and the limit.
    busy: Vec<f64>,
    most_busy: Vec<Option<f64>>,
    /// Domain of each vCPU of each VM; empty until the VM is placed.
    placed: Vec<Vec<usize>>,
    reasons: Vec<String>,
    /// Upper bound of the shared frames within domains, and whether it is proven to be the optimum.
    bound: Option<(u64, bool)>,
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
        Self {
            input: *input,
            reasons,
            fractional,
            extra: u32::try_from(extra).unwrap_or(u32::MAX),
            load: vec![0; base.len()],
            busy: vec![0.0; base.len()],
            most_busy: domains.iter().map(|domain| input.most_busy(domain)).collect(),
            base,
            placed: vec![Vec::new(); input.matrix.len()],
            bound: None,
        }
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
    pub(super) fn shares(&self) -> (Vec<u32>, Vec<bool>, u32) {
        (self.base.clone(), self.fractional.clone(), self.extra)
    }

    pub(super) fn bound(&self) -> Option<(u64, bool)> {
        self.bound
    }

    pub(super) fn bounded(&mut self, frames: u64, is_proven: bool) {
        self.bound = Some((frames, is_proven));
    }

    /// Whether a VM that must not share a cache with this one is in the domain.
    pub(super) fn meets_enemy(&self, vm: usize, domain: usize) -> bool {
        self.input.apart.iter().any(|(a, b)| {
            let other = if *a == vm { *b } else { *a };
            (*a == vm || *b == vm) && self.placed[other].contains(&domain)
        })
    }

    /// vCPUs that still fit in the domain's share.
    pub(super) fn room(&self, domain: usize) -> u32 {
        let extra =
            u32::from(self.fractional[domain] && self.extra > 0 && self.load[domain] <= self.base[domain]);
        (self.base[domain] + extra).saturating_sub(self.load[domain])
    }

    /// Whether all of `vms` may run in the domain and fit into its share together.
    pub(super) fn fits(&self, vms: &[usize], domain: usize) -> bool {
        let need: u32 = vms.iter().map(|vm| self.input.vcpus(*vm)).sum();
        let busy: f64 = vms.iter().map(|vm| self.input.cpus_busy(*vm)).sum();
        need <= self.room(domain)
            && self.bears(domain, busy)
            && vms.iter().all(|vm| {
                self.input.is_allowed(*vm, self.domain_id(domain)) && !self.meets_enemy(*vm, domain)
            })
            && !self.input.apart.iter().any(|(a, b)| vms.contains(a) && vms.contains(b))
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
        self.domains().filter(|domain| self.fits(vms, *domain)).max_by_key(|domain| {
            let here = vms.iter().map(|vm| self.input.current_vcpus(*vm, self.domain_id(*domain)));
            (self.room(*domain), here.sum::<usize>(), Reverse(*domain))
        })
    }

    /// Places the whole VM.
    pub(super) fn put(&mut self, vm: usize, domain: usize) {
        for _ in 0..self.input.vcpus(vm) {
            self.put_vcpu(vm, domain);
        }
    }

    fn put_vcpu(&mut self, vm: usize, domain: usize) {
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
    fn vcpu_busy(&self, vm: usize) -> f64 {
        self.input.cpus_busy(vm) / f64::from(self.input.vcpus(vm).max(1))
    }

    /// Places a VM without a partner: whole if a share has room, else over as few domains as possible, else
    /// beyond a share, with a reason.
    pub(super) fn put_anywhere(&mut self, vm: usize) {
        if let Some(domain) = self.roomiest(&[vm]) {
            self.put(vm, domain);
            return;
        }
        let mut allowed: Vec<usize> =
            self.domains().filter(|domain| self.input.is_allowed(vm, self.domain_id(*domain))).collect();
        let peaceful: Vec<usize> =
            allowed.iter().copied().filter(|domain| !self.meets_enemy(vm, *domain)).collect();
        if !allowed.is_empty() && peaceful.is_empty() {
            let name = self.input.name(vm);
            self.because(format!(
                "{name} cannot be kept apart from every VM that it should: each domain it may run in holds one"
            ));
        } else {
            allowed = peaceful;
        }
        let name = self.input.name(vm);
        if allowed.is_empty() {
            self.because(format!("{name} may run on no CPU of any cache domain: left to the kernel"));
            return;
        }
        let (mut over_share, mut over_load) = (false, false);
        let busy = self.vcpu_busy(vm);
        for _ in 0..self.input.vcpus(vm) {
            let last = self.placed[vm].last().copied();
            let with_room = |domain: &usize| self.room(*domain) > 0 && self.bears(*domain, busy);
            // Stay in the domain of the last vCPU while there is room, so that few domains are used.
            let domain = last.filter(with_room).or_else(|| {
                allowed
                    .iter()
                    .copied()
                    .filter(with_room)
                    .max_by_key(|domain| (self.room(*domain), Reverse(*domain)))
            });
            let domain = domain.unwrap_or_else(|| {
                // The share has priority over the limit of load.
                let with_share = allowed.iter().copied().filter(|domain| self.room(*domain) > 0);
                let with_share: Vec<usize> = with_share.collect();
                over_share |= with_share.is_empty();
                let domain = self.least_loaded(if with_share.is_empty() { &allowed } else { &with_share });
                over_load |= !self.bears(domain, busy);
                domain
            });
            self.put_vcpu(vm, domain);
        }
        let mut domains = self.placed[vm].clone();
        domains.sort_unstable();
        domains.dedup();
        let ids =
            domains.iter().map(|domain| self.domain_id(*domain).to_string()).collect::<Vec<_>>().join(", ");
        if domains.len() > 1 {
            self.because(format!(
                "{name} does not fit into the share of one domain: its vCPUs are spread over domains {ids}"
            ));
        }
        if over_share {
            let limit = |most: Option<f64>, of: &str| most.map(|most| format!("at most {most} per {of}"));
            let limits = self.input.limits;
            let by_cpu = limits.and_then(|limits| limit(limits.vcpus_per_cpu, "CPU"));
            let by_core = limits.and_then(|limits| limit(limits.vcpus_per_core, "core"));
            let limits = by_cpu.into_iter().chain(by_core).collect::<Vec<_>>().join(", ");
            let limits = if limits.is_empty() { limits } else { format!(" ({limits})") };
            self.because(format!(
                "{name} may run nowhere else: domains {ids} hold more vCPUs than their share{limits}"
            ));
        }
        if over_load {
            let most = self.input.limits.and_then(|limits| limits.load_per_cpu).unwrap_or(1.0);
            self.because(format!(
                "{name} may run nowhere else: VMs of domains {ids} use more CPU time than load_per_cpu \
                 ({most}) allows"
            ));
        }
    }

    /// The domain with the fewest vCPUs a CPU.
    fn least_loaded(&self, domains: &[usize]) -> usize {
        let cpus = |domain: usize| self.input.topology.domains()[domain].cpus.len() as u64;
        // a/b < c/d as a*d < c*b, which is exact.
        let better =
            |a: usize, b: usize| u64::from(self.load[b]) * cpus(a) < u64::from(self.load[a]) * cpus(b);
        domains[1..]
            .iter()
            .fold(domains[0], |best, domain| if better(best, *domain) { *domain } else { best })
    }

    /// Share (0 to 1) of the pairs of vCPUs of two VMs that are in one domain.
    pub(super) fn meeting_fraction(&self, i: usize, j: usize) -> f64 {
        let pairs = self.placed[i].len() * self.placed[j].len();
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
