//! Policies `sharing` and `exact`, the most that caches save, and `opposed`, the least: under the limits of every plan
//! (the share of a domain in vCPUs, where a VM may run, VMs to keep apart).
//!
//! What counts is, in this order: the frames that caches hold less of, each counted once, where the matrix has the groups
//! of VMs that map them; shared frames of pairs, where it has these; rates of pairs. Where working sets and cache sizes
//! are known, `sharing` gives up sharing for less [contention](super::contention); the others count only sharing.
//!
//! Up to [`EXACT_VMS`] VMs the optimum is searched, by `sharing` and `opposed` for a limited number of steps. Beyond it,
//! and where the optimum takes too long, the search decides. `sharing` and `exact` take the placement of policy `paper` if
//! it has more: it can, since it may divide VMs over domains. An optimum is that of placements that keep each VM in one
//! domain. It is only reported as a bound where no policy can have to divide a VM.
//!
//! VMs are numbered by name, and sums are of integers: the order of the matrix plays no part, except for `paper`.
//!
//! VMs that fit into no share, or find no room, are placed after the others as in every policy, and a reason
//! names the limit that could not be kept.

use std::collections::BTreeMap;

use super::contention::Contention;
use super::exact::{EXACT_STEPS, exact_within};
use super::instance::{Bins, Instance, ItemGroup};
use super::placement_state::Bound;
use super::search::{SMALL, search};
use super::{PlacementState, PlanInput, paper};
use crate::page_size::PageSize;

/// Maximum number of VMs for which the optimum is searched.
const EXACT_VMS: usize = 16;

/// Maximum number of steps for the optimum of policies other than `exact`: some milliseconds, since a loop plans often.
const FEW_STEPS: u64 = 100_000;

/// Rates as integers, so that sums do not depend on the order.
const RATE_UNITS: f64 = (1_u64 << 32) as f64;

/// What a placement is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The most, found in a short time.
    Most,
    /// The most, proven.
    Optimum,
    /// The least.
    Least,
}

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// Frames that caches hold less of, by groups of VMs.
    Saved,
    /// Shared frames of pairs.
    Frames,
    /// Rates of pairs, in [`RATE_UNITS`].
    Rates,
}

impl Counts {
    fn of(input: &PlanInput<'_>) -> Self {
        let has_frames = || input.matrix.pairs().all(|(i, j)| input.matrix.shared_frames(i, j).is_some());
        match () {
            () if input.matrix.shared_groups().is_some() => Self::Saved,
            () if has_frames() => Self::Frames,
            () => Self::Rates,
        }
    }

    fn text(self, value: f64, page_size: PageSize) -> String {
        match self {
            Self::Saved => format!("{:.0} KiB of cache saved", value * page_size.bytes() as f64 / 1024.0),
            Self::Frames => format!("{value:.0} shared frames within domains"),
            Self::Rates => format!("rates of {:.4} within domains", value / RATE_UNITS),
        }
    }
}

pub(super) fn place<'a>(input: &PlanInput<'a>, goal: Goal) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let counts = Counts::of(input);
    let (items, instance) = instance(input, &placed_so_far, counts, goal);
    let current = current(input, &items);
    let n = items.len();
    let steps = if goal == Goal::Optimum { EXACT_STEPS } else { FEW_STEPS };
    let found = (n <= EXACT_VMS).then(|| exact_within(&instance, &current, steps));
    let bins = match &found {
        Some(found) => found.bins.clone(),
        None => search(&instance, &current, 1),
    };
    let is_whole = bins.iter().all(Option::is_some);
    let is_proven = found.as_ref().is_some_and(|found| found.proven) && is_whole;
    let contention = Contention::of(input, &items).filter(|_| goal == Goal::Most);
    let has_contention = contention.is_some();
    if goal == Goal::Optimum && found.is_none() {
        placed_so_far.because(format!(
            "{n} VMs are too many for the optimum (at most {EXACT_VMS}): searched as by policy sharing"
        ));
    } else if goal != Goal::Least && !has_contention && n > 1 {
        let value = counts.text(instance.value(&bins), input.matrix.page_size());
        let holds = !placed_so_far.may_divide_vms();
        let is_exact = input.matrix.shared_groups().is_none_or(|groups| groups.is_complete());
        match (is_whole, is_proven) {
            (false, _) if goal == Goal::Optimum => placed_so_far
                .because(format!("no placement of all {n} VMs keeps every limit: there is no optimum")),
            (true, true) if holds && is_exact => {
                placed_so_far.because(format!("the optimum for {n} VMs: {value}, which is proven"));
            }
            (true, true) if holds => placed_so_far.because(format!(
                "the most for {n} VMs by this count: {value}; some frames are known by pairs only"
            )),
            (true, true) => placed_so_far.because(format!(
                "the most for {n} VMs that each stay in one domain: {value}; a placement that divides VMs over domains \
                 may have more"
            )),
            (true, false) if goal == Goal::Optimum => {
                placed_so_far.because(format!("the most found for {n} VMs: {value}; the search ended early"));
            }
            _ => {}
        }
        let bound = found.as_ref().filter(|_| is_whole && holds).map(|found| found.bound.round() as u64);
        let is_exact = input.matrix.shared_groups().is_none_or(|groups| groups.is_complete());
        match (counts, bound.filter(|_| goal == Goal::Optimum || is_proven)) {
            (Counts::Saved, Some(frames)) if is_exact => {
                placed_so_far.bounded(Bound::Saved { frames, is_proven });
            }
            (Counts::Frames, Some(frames)) => placed_so_far.bounded(Bound::Shared { frames, is_proven }),
            _ => {}
        }
    }
    let bins = match contention {
        Some(contention) => relieved(&mut placed_so_far, &contention, &instance, bins),
        None => bins,
    };
    put(&mut placed_so_far, &items, &instance, &bins, &current);
    if goal != Goal::Least && !has_contention {
        placed_so_far = not_below_paper(placed_so_far, counts);
        disagreement(&mut placed_so_far, counts, &items, &instance);
    }
    if goal == Goal::Least {
        placed_so_far.because("VMs that share least are together: the control for policy paper".into());
    } else {
        together(&mut placed_so_far, &items);
    }
    placed_so_far
}

/// Places the VMs of each bin, and the others anywhere.
fn put(
    placed_so_far: &mut PlacementState<'_>,
    items: &[usize],
    instance: &Instance,
    bins: &Bins,
    current: &Bins,
) {
    let is_whole = bins.iter().all(Option::is_some);
    // Equal bins are named to match the current places, so that equal plans move no VM.
    for (item, bin) in relabelled(instance, bins, current).iter().enumerate() {
        // Where some VMs found no bin, those that did must leave them a domain without a VM to be kept apart from.
        if let Some(bin) = bin.filter(|bin| is_whole || placed_so_far.fits(&[items[item]], *bin)) {
            placed_so_far.put(items[item], bin);
        }
    }
    for vm in items {
        if placed_so_far.is_unplaced(*vm) {
            placed_so_far.put_anywhere(*vm);
        }
    }
}

/// The placement of policy `paper` instead, if it breaks fewer limits, or has more.
fn not_below_paper<'a>(mut placed_so_far: PlacementState<'a>, counts: Counts) -> PlacementState<'a> {
    let input = *placed_so_far.input();
    let paper = paper::place(&input);
    let (mine, theirs) = (value(&placed_so_far, counts), value(&paper, counts));
    let (broken, breaks) = (placed_so_far.broken_limits(), paper.broken_limits());
    if breaks > broken || breaks == broken && theirs <= mine * (1.0 + 1e-12) {
        return placed_so_far;
    }
    placed_so_far.because(format!(
        "the placement of policy paper is taken: it has {}, and the search found {}",
        counts.text(theirs, input.matrix.page_size()),
        counts.text(mine, input.matrix.page_size())
    ));
    placed_so_far.take_places_of(&paper);
    placed_so_far
}

/// The value of a placement in which VMs may be divided.
fn value(placed: &PlacementState<'_>, counts: Counts) -> f64 {
    let input = placed.input();
    if counts == Counts::Saved {
        return input.matrix.saved_frames(&placed.presence()).map_or(0.0, |saved| saved.frames);
    }
    let within = |(i, j)| match placed.meeting_fraction(i, j) {
        meeting if meeting > 0.0 => meeting * gain(input, counts, i, j),
        _ => 0.0,
    };
    input.matrix.pairs().map(within).sum()
}

/// Says where counting by pairs would lead elsewhere.
fn disagreement(
    placed_so_far: &mut PlacementState<'_>,
    counts: Counts,
    items: &[usize],
    instance: &Instance,
) {
    if counts != Counts::Saved || items.len() > SMALL {
        return;
    }
    let input = *placed_so_far.input();
    let gains = pair_gains(items, |i, j| gain(&input, Counts::Frames, i, j));
    let by_pairs = Instance { gains, groups: Vec::new(), ..instance.clone() };
    let other = search(&by_pairs, &vec![None; items.len()], 1);
    let (mine, my_pairs) = (value(placed_so_far, counts), value(placed_so_far, Counts::Frames));
    let (theirs, their_pairs) = (instance.value(&other), by_pairs.value(&other));
    if other.iter().all(Option::is_some) && their_pairs > my_pairs && theirs < mine {
        let frame_kib = input.matrix.page_size().bytes() as f64 / 1024.0;
        placed_so_far.because(format!(
            "pairs and groups disagree: a placement with {their_pairs:.0} shared frames of pairs within domains instead \
             of {my_pairs:.0} would save {:.0} KiB of cache instead of {:.0}, since frames of several VMs are in many pairs",
            theirs * frame_kib,
            mine * frame_kib
        ));
    }
}

fn together(placed_so_far: &mut PlacementState<'_>, items: &[usize]) {
    let input = *placed_so_far.input();
    let mut groups: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for vm in items {
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
}

/// The same with contention counted.
fn relieved(
    placed_so_far: &mut PlacementState<'_>,
    contention: &Contention<'_>,
    instance: &Instance,
    bins: Bins,
) -> Bins {
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

/// What a pair has if it is together.
fn gain(input: &PlanInput<'_>, counts: Counts, i: usize, j: usize) -> f64 {
    match (counts, input.matrix.shared_frames(i, j)) {
        (Counts::Saved | Counts::Frames, Some(frames)) => frames as f64,
        _ => (input.pair_rate(i, j) * RATE_UNITS).round(),
    }
}

/// The gains of pairs of items.
fn pair_gains(items: &[usize], gain: impl Fn(usize, usize) -> f64) -> Vec<Vec<(usize, f64)>> {
    let gains = items.iter().map(|i| {
        let others = items.iter().enumerate().filter(|(_, j)| *j != i);
        others.map(|(at, j)| (at, gain(*i, *j))).filter(|(_, gain)| *gain != 0.0).collect()
    });
    gains.collect()
}

/// The problem, and the VM of each of its items.
fn instance(
    input: &PlanInput<'_>,
    placed_so_far: &PlacementState<'_>,
    counts: Counts,
    goal: Goal,
) -> (Vec<usize>, Instance) {
    let mut items: Vec<usize> = (0..input.matrix.len()).filter(|vm| input.vcpus(*vm) > 0).collect();
    items.sort_by_key(|vm| input.name(*vm));
    let sign = if goal == Goal::Least { -1.0 } else { 1.0 };
    let by_pairs = (counts == Counts::Saved).then(|| input.matrix.frames_by_pairs()).flatten();
    let is_in_groups = |i: usize, j: usize| by_pairs.as_ref().map(|frames| frames[i][j] as f64);
    let gains = match input.matrix.shared_groups() {
        Some(groups) if groups.is_complete() => vec![Vec::new(); items.len()],
        _ => {
            pair_gains(&items, |i, j| sign * is_in_groups(i, j).unwrap_or_else(|| gain(input, counts, i, j)))
        }
    };
    let mut instance = placed_so_far.instance(&items);
    let mut item_of = vec![None; input.matrix.len()];
    items.iter().enumerate().for_each(|(item, vm)| item_of[*vm] = Some(item));
    let groups = input.matrix.shared_groups().map(|groups| groups.groups()).into_iter().flatten();
    let groups = groups.map(|group| {
        let mut items: Vec<usize> =
            group.vms.iter().filter_map(|vm| item_of.get(*vm as usize).copied().flatten()).collect();
        items.sort_unstable();
        ItemGroup { items, gain: sign * group.frames as f64 }
    });
    instance.groups = groups.filter(|group| group.items.len() > 1).collect();
    instance.gains = gains;
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
