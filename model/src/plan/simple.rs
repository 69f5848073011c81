//! Policies that ignore sharing: `spread` and `random`, for comparison, and `load`.

use std::cmp::Reverse;

use super::{PlacementState, PlanInput};
use crate::rng::Rng;

/// The seed of policy `random`: equal input gives an equal plan.
const SEED: u64 = 1;

/// Larger VMs first, each to the domain with most room.
pub(super) fn spread<'a>(input: &PlanInput<'a>) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let mut left = placed_so_far.unplaced();
    left.sort_by_key(|vm| Reverse(input.vcpus(*vm)));
    for vm in left {
        placed_so_far.put_anywhere(vm);
    }
    placed_so_far
}

/// VMs in a random order, each to any domain with room for it.
pub(super) fn random<'a>(input: &PlanInput<'a>) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let mut rng = Rng::new(SEED);
    let mut left = placed_so_far.unplaced();
    rng.shuffle(&mut left);
    for vm in left {
        let fitting: Vec<usize> =
            placed_so_far.domains().filter(|domain| placed_so_far.fits(&[vm], *domain)).collect();
        match fitting.get(rng.below(fitting.len())) {
            Some(domain) => placed_so_far.put(vm, *domain),
            None => placed_so_far.put_anywhere(vm),
        }
    }
    placed_so_far
}

/// A move must reduce the difference of two domains by so many busy CPUs, per CPU of a domain: else noise
/// would move VMs back and forth.
const MIN_EVENING: f64 = 0.05;

/// Leaves every VM where it is as long as that keeps the shares, and moves the rest to where there is most
/// room. If the CPU load of all VMs is known, then moves one VM after another from a busier domain to a less
/// busy one, the largest improvement first, as long as that is worth a move.
pub(super) fn load<'a>(input: &PlanInput<'a>) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let mut left = placed_so_far.unplaced();
    left.sort_by_key(|vm| Reverse(input.vcpus(*vm)));
    for vm in left {
        let whole = |domain: &usize| {
            input.current_vcpus(vm, placed_so_far.domain_id(*domain)) == input.vcpus(vm) as usize
        };
        if let Some(domain) =
            placed_so_far.domains().find(whole).filter(|domain| placed_so_far.fits(&[vm], *domain))
        {
            placed_so_far.put(vm, domain);
        }
    }
    for vm in placed_so_far.unplaced() {
        placed_so_far.put_anywhere(vm);
        if let Some(domain) = placed_so_far.whole_in(vm) {
            let id = placed_so_far.domain_id(domain);
            placed_so_far.because(format!("{} moves to domain {id}, which has most room", input.name(vm)));
        }
    }
    if (0..input.matrix.len()).all(|vm| input.vms.get(vm).is_some_and(|vm| vm.cpus_busy.is_some())) {
        even(input, &mut placed_so_far);
    }
    placed_so_far
}

/// One change: a VM moves to another domain, optionally in exchange for one with as many vCPUs.
type Change = (usize, usize, Option<usize>);

fn even(input: &PlanInput<'_>, placed_so_far: &mut PlacementState<'_>) {
    let cpus = |domain: usize| input.topology.domains()[domain].cpus.len() as f64;
    // Every change reduces the difference of two domains, so none repeats; the limit is for rounding errors.
    for _ in 0..4 * input.matrix.len() {
        let mut best: Option<(f64, Change)> = None;
        for vm in 0..input.matrix.len() {
            let Some(from) = placed_so_far.whole_in(vm) else { continue };
            for to in placed_so_far.domains().filter(|to| *to != from) {
                let partners =
                    (0..input.matrix.len()).filter(|other| placed_so_far.whole_in(*other) == Some(to));
                for other in std::iter::once(None).chain(partners.map(Some)) {
                    let moved = input.cpus_busy(vm) - other.map_or(0.0, |other| input.cpus_busy(other));
                    let before = placed_so_far.busy(from) / cpus(from) - placed_so_far.busy(to) / cpus(to);
                    let after = (placed_so_far.busy(from) - moved) / cpus(from)
                        - (placed_so_far.busy(to) + moved) / cpus(to);
                    let evened = before - after.abs();
                    if evened > best.map_or(MIN_EVENING, |(evened, _)| evened)
                        && may(input, placed_so_far, (vm, to, other), from, moved)
                    {
                        best = Some((evened, (vm, to, other)));
                    }
                }
            }
        }
        let Some((_, (vm, to, other))) = best else { return };
        let from = placed_so_far.whole_in(vm).unwrap_or(to);
        placed_so_far.lift(vm);
        if let Some(other) = other {
            placed_so_far.lift(other);
            placed_so_far.put(other, from);
        }
        placed_so_far.put(vm, to);
        let partner =
            other.map_or_else(String::new, |other| format!(" in exchange with {}", input.name(other)));
        placed_so_far.because(format!(
            "{} moves from domain {} to {}{partner}: they now have {:.2} and {:.2} CPUs busy",
            input.name(vm),
            placed_so_far.domain_id(from),
            placed_so_far.domain_id(to),
            placed_so_far.busy(from),
            placed_so_far.busy(to)
        ));
    }
}

/// Whether a change that moves so many busy CPUs keeps every limit.
fn may(
    input: &PlanInput<'_>,
    placed_so_far: &PlacementState<'_>,
    (vm, to, other): Change,
    from: usize,
    moved: f64,
) -> bool {
    let Some(other) = other else { return placed_so_far.fits(&[vm], to) };
    input.vcpus(vm) == input.vcpus(other)
        && [(vm, to), (other, from)].into_iter().all(|(vm, domain)| {
            input.is_allowed(vm, placed_so_far.domain_id(domain)) && !placed_so_far.meets_enemy(vm, domain)
        })
        && placed_so_far.bears(to, moved)
        && placed_so_far.bears(from, -moved)
}
