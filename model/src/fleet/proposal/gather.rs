//! A placement that brings together what shares, host by host.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Fleet;
use super::placement::Placement;

/// Fills one host after the other, each around the VM that has most in common with VMs that are not placed yet, always
/// with the VM that adds most. `None` if some VM finds no room in the end: hosts that are nearly full cannot be filled
/// in any order.
///
/// A greedy choice: the sum of what hosts save grows with each VM that joins, so the first choices matter most; what
/// they get wrong is left to [`improve`].
pub(super) fn gather(fleet: &Fleet) -> Option<Placement<'_>> {
    let mut gathering = Gathering {
        fleet,
        placement: Placement::empty(fleet),
        waiting: vec![true; fleet.vms.len()],
        seeds: seeds(fleet),
    };
    for (vm, facts) in fleet.vms.iter().enumerate().filter(|(_, facts)| !facts.is_movable) {
        gathering.placement.add(vm, facts.host);
        gathering.waiting[vm] = false;
    }
    let mut hosts: Vec<usize> = (0..fleet.hosts.len()).collect();
    for seed in gathering.seeds.clone() {
        if hosts.is_empty() {
            break;
        }
        // Where no host has room for it, it goes wherever something is left.
        if gathering.waiting[seed]
            && let Some(position) = gathering.home(&hosts, seed)
        {
            gathering.fill(hosts.swap_remove(position), seed);
        }
    }
    let mut placement = gathering.placement;
    let mut left: Vec<usize> = (0..fleet.vms.len()).filter(|vm| placement.host_of(*vm).is_none()).collect();
    // The large ones first, since they find room in the fewest places.
    left.sort_by_key(|vm| Reverse((fleet.vms[*vm].memory_bytes, fleet.vms[*vm].vcpus)));
    for vm in left {
        let today = fleet.vms[vm].host;
        let fitting = (0..fleet.hosts.len()).filter(|host| placement.fits(vm, *host));
        let best = fitting.max_by_key(|host| (placement.gain(vm, *host), *host == today))?;
        placement.add(vm, best);
    }
    Some(placement)
}

/// Where each VM would be without its host, until no single move and no exchange of two VMs brings more together.
pub(super) fn improve(fleet: &Fleet, placement: &mut Placement<'_>) {
    const ROUNDS: usize = 8;
    for _ in 0..ROUNDS {
        let before = placement.saved();
        for vm in (0..fleet.vms.len()).filter(|vm| fleet.vms[*vm].is_movable) {
            better_home(fleet, placement, vm);
        }
        if placement.saved() == before {
            break;
        }
    }
}

/// Moves one VM to where it has more in common, in exchange for another one if there is no room.
fn better_home(fleet: &Fleet, placement: &mut Placement<'_>, vm: usize) {
    /// Hosts that are looked at, those with the most in common.
    const HOSTS: usize = 4;
    let Some(home) = placement.host_of(vm) else { return };
    let here = placement.gain(vm, home);
    let mut better: Vec<(u64, usize)> = (neighbours(fleet, placement, vm).into_iter())
        .filter(|host| *host != home)
        .map(|host| (placement.gain(vm, host), host))
        .filter(|(gain, _)| *gain > here)
        .collect();
    better.sort_by_key(|(gain, host)| (Reverse(*gain), *host));
    for (_, host) in better.into_iter().take(HOSTS) {
        let before = placement.saved();
        if placement.fits(vm, host) {
            placement.shift(vm, host);
            return;
        }
        let mut others: Vec<(u64, usize)> = (placement.vms_of(host).iter())
            .filter(|other| fleet.vms[**other].is_movable)
            .map(|other| (placement.gain(*other, host), *other))
            .collect();
        others.sort_unstable();
        for (_, other) in others.into_iter().take(HOSTS) {
            placement.remove(vm);
            placement.remove(other);
            if placement.fits(vm, host) && placement.fits(other, home) {
                placement.add(vm, host);
                if placement.fits(other, home) {
                    placement.add(other, home);
                    if placement.saved() > before {
                        return;
                    }
                    placement.remove(other);
                }
                placement.remove(vm);
            }
            placement.add(vm, home);
            placement.add(other, host);
        }
    }
}

/// Hosts with VMs that hold something that this one holds, except what nearly every host has.
fn neighbours(fleet: &Fleet, placement: &Placement<'_>, vm: usize) -> Vec<usize> {
    let mut hosts: Vec<usize> = Vec::new();
    for number in fleet.contents.of_vm(vm) {
        let holders = &fleet.contents.all()[*number as usize].holders;
        if holders.len() <= fleet.common_holders() {
            hosts.extend(holders.iter().filter_map(|other| placement.host_of(*other as usize)));
        }
    }
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// VMs that share something, those first that have most in common with others.
fn seeds(fleet: &Fleet) -> Vec<usize> {
    /// More holders than fit on a host do not make a better seed.
    const MOST_HOLDERS: u64 = 32;
    let common = |vm: usize| -> u64 {
        let of = |number: &u32| {
            let holders = fleet.contents.all()[*number as usize].holders.len() as u64;
            fleet.contents.kept(*number) * (holders - 1).min(MOST_HOLDERS)
        };
        fleet.contents.of_vm(vm).iter().map(of).sum()
    };
    let all = (0..fleet.vms.len()).map(|vm| (Reverse(common(vm)), vm));
    let mut seeds: Vec<_> = all.filter(|(common, _)| common.0 > 0).collect();
    seeds.sort_unstable();
    seeds.into_iter().map(|(_, vm)| vm).collect()
}

/// Hosts that are filled one after the other.
struct Gathering<'a> {
    fleet: &'a Fleet,
    placement: Placement<'a>,
    /// VMs that are not placed yet.
    waiting: Vec<bool>,
    seeds: Vec<usize>,
}

impl Gathering<'_> {
    /// Contents of a VM by number: those of few VMs, by which VMs of a group are found, or those of very many.
    fn contents_of(&self, vm: usize, is_common: bool) -> impl Iterator<Item = u32> {
        let (contents, limit) = (&self.fleet.contents, self.fleet.common_holders());
        let of = move |number: &u32| (contents.all()[*number as usize].holders.len() > limit) == is_common;
        contents.of_vm(vm).iter().copied().filter(of)
    }

    fn waiting_holders(&self, number: u32) -> impl Iterator<Item = usize> {
        let holders = self.fleet.contents.all()[number as usize].holders.iter();
        holders.map(|vm| *vm as usize).filter(|vm| self.waiting[*vm])
    }

    /// The position, in `hosts`, of the one where the VM has room and most of what it shares is today.
    fn home(&self, hosts: &[usize], vm: usize) -> Option<usize> {
        let mut there: BTreeMap<usize, u64> = BTreeMap::new();
        for number in self.contents_of(vm, false) {
            for other in self.waiting_holders(number) {
                *there.entry(self.fleet.vms[other].host).or_default() += self.fleet.contents.kept(number);
            }
        }
        let fitting = (0..hosts.len()).filter(|position| self.placement.fits(vm, hosts[*position]));
        fitting.max_by_key(|position| {
            let host = hosts[*position];
            let there = there.get(&host).copied().unwrap_or(0);
            (self.placement.gain(vm, host), self.fleet.hosts[host].memory_bytes, there, Reverse(host))
        })
    }

    /// Adds to a host, always the VM that adds most, until nothing that fits has anything in common with it.
    fn fill(&mut self, host: usize, seed: usize) {
        // VMs that share contents of few VMs with the host, and how much of those.
        let mut near: BTreeMap<usize, u64> = BTreeMap::new();
        let mut common: BTreeSet<u32> = BTreeSet::new();
        let mut joined = self.placement.vms_of(host).to_vec();
        let mut next = Some(seed);
        let mut counted: BTreeSet<u32> = BTreeSet::new();
        while let Some(vm) = next {
            self.placement.add(vm, host);
            self.waiting[vm] = false;
            joined.push(vm);
            for vm in joined.drain(..) {
                common.extend(self.contents_of(vm, true));
                for number in self.contents_of(vm, false).filter(|number| counted.insert(*number)) {
                    let kept = self.fleet.contents.kept(number);
                    self.waiting_holders(number).for_each(|vm| *near.entry(vm).or_default() += kept);
                }
            }
            near.retain(|vm, _| self.waiting[*vm] && self.placement.fits(*vm, host));
            let gain = |vm: usize, of_few: u64| -> u64 {
                let of_many = self.contents_of(vm, true).filter(|number| common.contains(number));
                of_few + of_many.map(|number| self.fleet.contents.kept(number)).sum::<u64>()
            };
            let best = near
                .iter()
                .map(|(vm, of_few)| (gain(*vm, *of_few), self.fleet.vms[*vm].host == host, Reverse(*vm)));
            next = best.max().map(|(_, _, vm)| vm.0).or_else(|| self.of_the_same_kind(host, &common));
        }
    }

    /// A VM for a host on which no group goes on: one that has common contents that the host has, too.
    fn of_the_same_kind(&self, host: usize, common: &BTreeSet<u32>) -> Option<usize> {
        /// Contents that are tried, those that are most; and VMs of each.
        const TRIES: usize = 16;
        let mut most: Vec<_> =
            common.iter().map(|number| (Reverse(self.fleet.contents.kept(*number)), *number)).collect();
        most.sort_unstable();
        most.into_iter().take(TRIES).find_map(|(_, number)| {
            self.waiting_holders(number).take(TRIES).find(|vm| self.placement.fits(*vm, host))
        })
    }
}
