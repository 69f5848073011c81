//! Contention of the VMs of a domain: by how much their working sets exceed its cache.
//!
//! The frames that the VMs of a domain use together are at most the sum of their working sets, minus what
//! neighbours in a tree over them share, for any tree; the least of these bounds is that of a maximum
//! spanning tree (Hunter, "An upper bound for the probability of a union", 1976). It is exact where nothing
//! is shared, and where all share the same frames. Of the frames that two VMs share, those within their
//! working sets count, assuming that working sets are spread evenly over all frames.
//!
//! Local search: as long as the value rises, the best move of one VM out of a domain whose cache is exceeded,
//! or the best exchange of one with one elsewhere. Cost: O(n d) moves and O(n^2) exchanges per step, each
//! with two trees of O(m^2) for m VMs in a domain.

use std::collections::BTreeSet;

use super::PlanInput;
use super::instance::{Bins, Instance};

/// Maximum number of comparisons of the search.
const MAX_WORK: u64 = 200_000_000;

/// Smaller gains are rounding errors.
const EPSILON: f64 = 1e-6;

/// The working sets of the placed VMs, and the caches.
pub(super) struct Contention<'a> {
    input: PlanInput<'a>,
    /// The VM of each item.
    items: Vec<usize>,
    /// Frames in the working set of each item.
    own: Vec<f64>,
    /// The fraction of the item's frames; `None` if their number is unknown.
    parts: Vec<Option<f64>>,
    /// Frames in the cache of each bin; infinite if its size is unknown.
    cache: Vec<f64>,
    /// Shared frames that one frame less of contention is worth.
    weight: f64,
    /// VMs whose working set is unknown and counts as nothing.
    pub(super) unknown: Vec<usize>,
}

impl<'a> Contention<'a> {
    /// `None` if no working sets or cache sizes are known, or contention has no weight.
    pub(super) fn of(input: &PlanInput<'a>, items: &[usize]) -> Option<Self> {
        let weight = input.limits.and_then(|limits| limits.contention).unwrap_or(1.0);
        let sets: Vec<Option<u64>> = items.iter().map(|vm| input.working_set_frames(*vm)).collect();
        let frame_bytes = input.matrix.page_size().bytes() as f64;
        let cache = input
            .topology
            .domains()
            .iter()
            .map(|domain| domain.size_bytes.map_or(f64::INFINITY, |bytes| bytes as f64 / frame_bytes));
        let cache: Vec<f64> = cache.collect();
        // Rates cannot be weighed against frames.
        let has_frames = input.matrix.pairs().all(|(i, j)| input.matrix.shared_frames(i, j).is_some());
        let matters = weight > 0.0 && has_frames && cache.iter().any(|frames| frames.is_finite());
        if !matters || sets.iter().all(Option::is_none) {
            return None;
        }
        let own: Vec<f64> = sets.iter().map(|set| set.unwrap_or(0) as f64).collect();
        let part = |(vm, own): (&usize, &f64)| {
            let used = input.matrix.vms()[*vm].memory?.frames_used;
            (used > 0).then(|| (own / used as f64).min(1.0))
        };
        let parts = items.iter().zip(&own).map(part).collect();
        let unknown = items.iter().zip(&sets).filter(|(_, set)| set.is_none()).map(|(vm, _)| *vm).collect();
        Some(Self { input: *input, items: items.to_vec(), own, parts, cache, weight, unknown })
    }

    /// Frames that the working sets of two items have in common.
    fn common(&self, i: usize, j: usize) -> f64 {
        let shared = self.input.matrix.shared_frames(self.items[i], self.items[j]);
        match (shared, self.parts[i], self.parts[j]) {
            (Some(shared), Some(a), Some(b)) => (shared as f64 * a.min(b)).min(self.own[i]).min(self.own[j]),
            _ => 0.0,
        }
    }

    /// Frames by which the working sets of all bins exceed their caches.
    pub(super) fn exceeding(&self, bins: &Bins) -> f64 {
        let members =
            |bin: usize| -> Vec<usize> { (0..bins.len()).filter(|item| bins[*item] == Some(bin)).collect() };
        (0..self.cache.len()).map(|bin| self.exceeding_in(&members(bin), bin)).sum()
    }

    fn exceeding_in(&self, members: &[usize], bin: usize) -> f64 {
        (self.union(members) - self.cache[bin]).max(0.0)
    }

    /// Upper bound of the frames that the items use together (Prim's algorithm, for a maximum).
    fn union(&self, members: &[usize]) -> f64 {
        let Some((first, rest)) = members.split_first() else { return 0.0 };
        let mut frames = self.own[*first];
        let mut open: Vec<(usize, f64)> =
            rest.iter().map(|item| (*item, self.common(*first, *item))).collect();
        while let Some(next) = (0..open.len()).max_by(|a, b| open[*a].1.total_cmp(&open[*b].1)) {
            let (item, common) = open.swap_remove(next);
            frames += self.own[item] - common;
            for (other, best) in &mut open {
                *best = best.max(self.common(item, *other));
            }
        }
        frames
    }

    /// A placement with less contention, if that is worth the sharing it costs.
    pub(super) fn relieved(&self, instance: &Instance, bins: &Bins) -> Bins {
        let groups_of = instance.groups_of_items();
        let mut climb = HillClimb { contention: self, instance, groups_of, bins: bins.clone(), work: 0 };
        while climb.step() {}
        climb.bins
    }
}

struct HillClimb<'a> {
    contention: &'a Contention<'a>,
    instance: &'a Instance,
    groups_of: Vec<Vec<u32>>,
    bins: Bins,
    work: u64,
}

impl HillClimb<'_> {
    /// Makes the best change; false if there is none.
    fn step(&mut self) -> bool {
        let d = self.contention.cache.len();
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); d];
        for (item, bin) in self.bins.iter().enumerate() {
            if let Some(bin) = bin {
                members[*bin].push(item);
            }
        }
        let over: Vec<f64> = (0..d).map(|bin| self.contention.exceeding_in(&members[bin], bin)).collect();
        let mut best: Option<(f64, Bins)> = None;
        for from in (0..d).filter(|bin| over[*bin] > 0.0) {
            for item in members[from].clone() {
                for to in (0..d).filter(|to| *to != from) {
                    let others = std::iter::once(None).chain(members[to].iter().copied().map(Some));
                    for other in others {
                        if self.work > MAX_WORK {
                            break;
                        }
                        let mut changed = self.bins.clone();
                        changed[item] = Some(to);
                        if let Some(other) = other {
                            changed[other] = Some(from);
                        }
                        self.work += changed.len() as u64;
                        if !self.instance.holds(&changed) {
                            continue;
                        }
                        let gain = self.gain(&members, &over, &changed, (item, from, to, other));
                        if gain > best.as_ref().map_or(EPSILON, |(best, _)| *best) {
                            best = Some((gain, changed));
                        }
                    }
                }
            }
        }
        let Some((_, bins)) = best else { return false };
        self.bins = bins;
        self.work <= MAX_WORK
    }

    /// The value of a change, in shared frames.
    fn gain(
        &mut self,
        members: &[Vec<usize>],
        over: &[f64],
        changed: &Bins,
        (item, from, to, other): (usize, usize, usize, Option<usize>),
    ) -> f64 {
        let after = |bin: usize, out: Option<usize>, come: Option<usize>| -> Vec<usize> {
            members[bin].iter().copied().filter(|member| Some(*member) != out).chain(come).collect()
        };
        let (left, joined) = (after(from, Some(item), other), after(to, other, Some(item)));
        self.work += (left.len() * left.len() + joined.len() * joined.len()) as u64;
        let contention = self.contention.exceeding_in(&left, from)
            + self.contention.exceeding_in(&joined, to)
            - over[from]
            - over[to];
        let with = |item: usize, bins: &Bins| -> f64 {
            let here = self.instance.gains[item].iter().filter(|(other, _)| bins[*other] == bins[item]);
            here.map(|(_, gain)| gain).sum()
        };
        // Two exchanged items are never in one bin, so no pair counts twice.
        let moved = || std::iter::once(item).chain(other);
        let shared: f64 = moved().map(|item| with(item, changed) - with(item, &self.bins)).sum();
        let groups: BTreeSet<u32> = moved().flat_map(|item| self.groups_of[item].iter().copied()).collect();
        let by_groups = groups.iter().map(|number| {
            let group = &self.instance.groups[*number as usize];
            let saved = |bins: &Bins, bin: usize| {
                let there = group.items.iter().filter(|item| bins[**item] == Some(bin)).count();
                there.saturating_sub(1) as f64
            };
            let after = saved(changed, from) + saved(changed, to);
            (after - saved(&self.bins, from) - saved(&self.bins, to)) * group.gain
        });
        let shared = shared + by_groups.sum::<f64>();
        shared - self.contention.weight * contention
    }
}
