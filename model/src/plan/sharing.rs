//! Policies `sharing` and `exact`: the most shared frames within domains, under the limits of every plan (the
//! share of a domain in vCPUs, where a VM may run, VMs to keep apart). Groups count, not only pairs: each VM
//! adds what it shares with all others in its domain. If working sets and cache sizes are known, `sharing`
//! gives up sharing for less [contention](super::contention); `exact` counts only sharing.
//!
//! VMs that fit into no share, or find no room, are placed after the others as in every policy, and a reason
//! names the limit that could not be kept.

use std::collections::BTreeMap;

use super::contention::Contention;
use super::exact::exact;
use super::instance::{Bins, Instance};
use super::search::search;
use super::{PlacementState, PlanInput};

/// Maximum number of VMs for which the optimum is searched.
const EXACT_VMS: usize = 16;

pub(super) fn place<'a>(input: &PlanInput<'a>, optimum: bool) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let (items, instance) = instance(input, &placed_so_far);
    let current = current(input, &items);
    let small = items.len() <= EXACT_VMS;
    let bins = if optimum && small {
        let found = exact(&instance, &current);
        // The bound assumes that each VM is completely in one domain; with rates it is not in frames.
        let whole = found.bins.iter().all(Option::is_some);
        let frames = input.matrix.pairs().all(|(i, j)| input.matrix.shared_frames(i, j).is_some());
        let (n, value) = (items.len(), instance.value(&found.bins));
        let proof = if found.proven { "which is proven" } else { "the search ended early" };
        placed_so_far.because(match (whole, frames) {
            (false, _) => format!("no placement of all {n} VMs keeps every limit: there is no optimum"),
            (true, true) => {
                format!("the optimum for {n} VMs: {value:.0} shared frames within domains, {proof}")
            }
            (true, false) => format!("the optimum for {n} VMs: rates of {value:.4} within domains, {proof}"),
        });
        if whole && frames {
            placed_so_far.bounded(found.bound.round() as u64, found.proven);
        }
        found.bins
    } else {
        if optimum {
            placed_so_far.because(format!(
                "{} VMs are too many for the optimum (at most {EXACT_VMS}): searched as by policy sharing",
                items.len()
            ));
        }
        relieved(&mut placed_so_far, &items, &instance, search(&instance, &current, 1))
    };
    // Equal bins are named to match the current places, so that equal plans move no VM.
    for (item, bin) in relabelled(&instance, &bins, &current).iter().enumerate() {
        if let Some(bin) = *bin {
            placed_so_far.put(items[item], bin);
        }
    }
    for vm in placed_so_far.unplaced() {
        placed_so_far.put_anywhere(vm);
    }
    let mut groups: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for vm in &items {
        if let Some(domain) = placed_so_far.whole_in(*vm) {
            groups.entry(domain).or_default().push(input.name(*vm));
        }
    }
    for (domain, names) in groups {
        let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let rest = names.len().saturating_sub(8);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        placed_so_far
            .because(format!("together in domain {}: {shown}{more}", placed_so_far.domain_id(domain)));
    }
    placed_so_far
}

/// The same with contention counted, if it is known.
fn relieved(
    placed_so_far: &mut PlacementState<'_>,
    items: &[usize],
    instance: &Instance,
    bins: Bins,
) -> Bins {
    let Some(contention) = Contention::of(placed_so_far.input(), items) else { return bins };
    let (before, shared_before) = (contention.exceeding(&bins), instance.value(&bins));
    let bins = contention.relieved(instance, &bins);
    let (after, shared) = (contention.exceeding(&bins), instance.value(&bins));
    placed_so_far.because(if before <= 0.0 {
        "contention: the working sets fit into the caches of their domains".to_owned()
    } else if after < before {
        format!(
            "contention: working sets exceed the caches of their domains by {after:.0} frames instead of \
             {before:.0}, for {:.0} shared frames within domains less",
            (shared_before - shared).max(0.0)
        )
    } else {
        format!(
            "contention: working sets exceed the caches of their domains by {before:.0} frames; each \
             placement with less would cost more shared frames than it saves"
        )
    });
    if !contention.unknown.is_empty() {
        let names: Vec<&str> = contention.unknown.iter().map(|vm| placed_so_far.input().name(*vm)).collect();
        placed_so_far.because(format!("contention: the working sets of {} are unknown", names.join(", ")));
    }
    bins
}

/// The problem, and the VM of each of its items.
fn instance(input: &PlanInput<'_>, placed_so_far: &PlacementState<'_>) -> (Vec<usize>, Instance) {
    let items: Vec<usize> = (0..input.matrix.len()).filter(|vm| input.vcpus(*vm) > 0).collect();
    let gain = |i: usize, j: usize| match input.matrix.shared_frames(i, j) {
        Some(frames) => frames as f64,
        None => input.pair_rate(i, j),
    };
    let position: BTreeMap<usize, usize> = items.iter().enumerate().map(|(item, vm)| (*vm, item)).collect();
    let gains = items.iter().map(|i| {
        let others = items.iter().enumerate().filter(|(_, j)| *j != i);
        others.map(|(at, j)| (at, gain(*i, *j))).filter(|(_, gain)| *gain > 0.0).collect()
    });
    let (room, stretches, stretched) = placed_so_far.shares();
    let domains: Vec<_> = placed_so_far.domains().map(|domain| placed_so_far.domain_id(domain)).collect();
    let allowed = items.iter().map(|vm| domains.iter().map(|d| input.is_allowed(*vm, *d)).collect());
    let mut apart = vec![Vec::new(); items.len()];
    for (a, b) in input.apart {
        if let (Some(a), Some(b)) = (position.get(a), position.get(b)) {
            apart[*a].push(*b);
            apart[*b].push(*a);
        }
    }
    let instance = Instance {
        sizes: items.iter().map(|vm| input.vcpus(*vm)).collect(),
        gains: gains.collect(),
        room,
        stretches,
        stretched,
        allowed: allowed.collect(),
        apart,
        busy: items.iter().map(|vm| input.cpus_busy(*vm)).collect(),
        busy_room: placed_so_far.most_busy(),
    };
    (items, instance)
}

/// The bin of each item whose vCPUs are currently all in one.
fn current(input: &PlanInput<'_>, items: &[usize]) -> Bins {
    let domains = input.topology.domains();
    let all_there = |vm: usize| {
        domains.iter().position(|domain| input.current_vcpus(vm, domain.id) == input.vcpus(vm) as usize)
    };
    items.iter().map(|vm| all_there(*vm)).collect()
}

/// The same groups in the bins that hold most of their members now, if every limit still holds.
fn relabelled(instance: &Instance, bins: &Bins, current: &Bins) -> Bins {
    let d = instance.room.len();
    let mut stay = vec![vec![0u32; d]; d];
    for (bin, now) in bins.iter().zip(current) {
        if let (Some(bin), Some(now)) = (bin, now) {
            stay[*bin][*now] += 1;
        }
    }
    let mut wishes: Vec<(u32, usize, usize)> =
        (0..d).flat_map(|from| (0..d).map(move |to| (from, to))).map(|(f, t)| (stay[f][t], f, t)).collect();
    wishes.sort_by_key(|(count, from, to)| (std::cmp::Reverse(*count), *from, *to));
    let mut name: Vec<Option<usize>> = vec![None; d];
    let mut used = vec![false; d];
    for (_, from, to) in wishes {
        if name[from].is_none() && !used[to] {
            name[from] = Some(to);
            used[to] = true;
        }
    }
    let renamed: Bins = bins.iter().map(|bin| bin.and_then(|bin| name[bin])).collect();
    if instance.holds(&renamed) { renamed } else { bins.clone() }
}
