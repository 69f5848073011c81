//! Placing VMs that no decision of a policy placed.

use std::cmp::Reverse;

use super::PlacementState;

/// Beginnings of reasons, after the name of a VM.
pub(super) const DIVIDED: &str = "does not fit into the share of one domain";
pub(super) const NOT_APART: &str = "cannot be kept apart from every VM";
pub(super) const NOWHERE_ELSE: &str = "may run nowhere else";
pub(super) const NO_CPU: &str = "may run on no CPU";

impl PlacementState<'_> {
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
        let name = self.input.name(vm);
        if allowed.is_empty() {
            self.because(format!("{name} {NO_CPU} of any cache domain: left to the kernel"));
            self.broken_limits += 1;
            return;
        }
        if peaceful.is_empty() {
            self.because(format!("{name} {NOT_APART} that it should: each domain it may run in holds one"));
            self.broken_limits += 1;
        } else {
            allowed = peaceful;
        }
        let all = allowed;
        let (mut over_share, mut over_load) = (false, false);
        let busy = self.vcpu_busy(vm);
        for _ in 0..self.input.vcpus(vm) {
            let last = self.placed[vm].last().copied();
            // A domain that others need to be kept apart only if there is no choice. Those it is in already are taken.
            let is_free =
                |domain: &usize| self.placed[vm].contains(domain) || self.leaves_others_apart(&[vm], *domain);
            let free: Vec<usize> = all.iter().copied().filter(is_free).collect();
            let allowed = if free.is_empty() { &all } else { &free };
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
                let domain = self.least_loaded(if with_share.is_empty() { allowed } else { &with_share });
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
            self.because(format!("{name} {DIVIDED}: its vCPUs are spread over domains {ids}"));
        }
        self.broken_limits += usize::from(over_share || over_load);
        if over_share {
            let limit = |most: Option<f64>, of: &str| most.map(|most| format!("at most {most} per {of}"));
            let limits = self.input.limits;
            let by_cpu = limits.and_then(|limits| limit(limits.vcpus_per_cpu, "CPU"));
            let by_core = limits.and_then(|limits| limit(limits.vcpus_per_core, "core"));
            let limits = by_cpu.into_iter().chain(by_core).collect::<Vec<_>>().join(", ");
            let limits = if limits.is_empty() { limits } else { format!(" ({limits})") };
            self.because(format!(
                "{name} {NOWHERE_ELSE}: domains {ids} hold more vCPUs than their share{limits}"
            ));
        }
        if over_load {
            let most = self.input.limits.and_then(|limits| limits.load_per_cpu).unwrap_or(1.0);
            self.because(format!(
                "{name} {NOWHERE_ELSE}: VMs of domains {ids} use more CPU time than load_per_cpu \
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

    /// Whether a policy may have to divide a VM over domains, because the others leave no domain with room for all of
    /// it. That is certain not to be if all VMs have one vCPU, or if no way to fill the domains with whole VMs leaves too
    /// little room everywhere.
    pub(super) fn may_divide_vms(&self) -> bool {
        let sizes: Vec<u32> = self.input.matrix.vms().iter().map(|vm| vm.vcpus).collect();
        if sizes.iter().all(|size| *size <= 1) {
            return false;
        }
        let is_limited = self.most_busy.iter().any(Option::is_some)
            || !self.input.apart.is_empty()
            || (0..sizes.len())
                .any(|vm| !self.domains().all(|domain| self.input.is_allowed(vm, self.domain_id(domain))));
        let all: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        // Loads that some VMs have together.
        let most = self.base.iter().copied().max().unwrap_or(0) as usize + 1;
        let mut sums = vec![false; most + 1];
        sums[0] = true;
        for size in sizes.iter().map(|size| *size as usize) {
            for sum in (size..sums.len()).rev() {
                sums[sum] |= sums[sum - size];
            }
        }
        let divides = |size: u32| {
            // The least load of each domain with too little room.
            let least = self.base.iter().map(|base| {
                let least = (base + 1).saturating_sub(size) as usize;
                (least..sums.len()).find(|load| sums[*load]).unwrap_or(least) as u64
            });
            size > 1 && least.sum::<u64>() <= all - u64::from(size)
        };
        is_limited || sizes.into_iter().any(divides)
    }
}
