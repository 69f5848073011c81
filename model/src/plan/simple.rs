//! Policies that do not look at what is shared: `spread` and `random`, to compare with, and `load`.

use std::cmp::Reverse;

use super::{Board, PlanInput};
use crate::rng::Rng;

/// The seed of policy `random`: equal input gives an equal plan.
const SEED: u64 = 1;

/// Larger VMs first, each to the domain with most room.
pub(super) fn spread<'a>(input: &PlanInput<'a>) -> Board<'a> {
    let mut board = Board::new(input);
    let mut left = board.unplaced();
    left.sort_by_key(|vm| Reverse(input.vcpus(*vm)));
    for vm in left {
        board.put_anywhere(vm);
    }
    board
}

/// VMs in a random order, each to any domain with room for it.
pub(super) fn random<'a>(input: &PlanInput<'a>) -> Board<'a> {
    let mut board = Board::new(input);
    let mut rng = Rng::new(SEED);
    let mut left = board.unplaced();
    rng.shuffle(&mut left);
    for vm in left {
        let fitting: Vec<usize> = board.domains().filter(|domain| board.fits(&[vm], *domain)).collect();
        match fitting.get(rng.below(fitting.len())) {
            Some(domain) => board.put(vm, *domain),
            None => board.put_anywhere(vm),
        }
    }
    board
}

/// A move has to lessen the distance between two domains by so many CPUs that are busy, for each CPU of a
/// domain: else noise would move VMs to and fro.
const LEAST_EVENING: f64 = 0.05;

/// Leaves every VM where it is as long as that keeps to the shares, and moves the rest to where most room
/// is. Where it is known how busy all VMs keep their CPUs, then moves one VM after another from a busier
/// domain to a less busy one, the one that evens the two most first, as long as that is worth a move.
pub(super) fn load<'a>(input: &PlanInput<'a>) -> Board<'a> {
    let mut board = Board::new(input);
    let mut left = board.unplaced();
    left.sort_by_key(|vm| Reverse(input.vcpus(*vm)));
    for vm in left {
        let whole =
            |domain: &usize| input.current_vcpus(vm, board.domain_id(*domain)) == input.vcpus(vm) as usize;
        if let Some(domain) = board.domains().find(whole).filter(|domain| board.fits(&[vm], *domain)) {
            board.put(vm, domain);
        }
    }
    for vm in board.unplaced() {
        board.put_anywhere(vm);
        if let Some(domain) = board.whole_in(vm) {
            let id = board.domain_id(domain);
            board.because(format!("{} moves to domain {id}, where most room is", input.name(vm)));
        }
    }
    if (0..input.matrix.len()).all(|vm| input.vms.get(vm).is_some_and(|vm| vm.cpus_busy.is_some())) {
        even(input, &mut board);
    }
    board
}

/// One change: a VM to another domain, and in exchange one of as many vCPUs from there, or none.
type Change = (usize, usize, Option<usize>);

fn even(input: &PlanInput<'_>, board: &mut Board<'_>) {
    let cpus = |domain: usize| input.topology.domains()[domain].cpus.len() as f64;
    // Every change brings two domains nearer to each other, so none comes twice; the limit is for rounding.
    for _ in 0..4 * input.matrix.len() {
        let mut best: Option<(f64, Change)> = None;
        for vm in 0..input.matrix.len() {
            let Some(from) = board.whole_in(vm) else { continue };
            for to in board.domains().filter(|to| *to != from) {
                let partners = (0..input.matrix.len()).filter(|other| board.whole_in(*other) == Some(to));
                for other in std::iter::once(None).chain(partners.map(Some)) {
                    let moved = input.cpus_busy(vm) - other.map_or(0.0, |other| input.cpus_busy(other));
                    let before = board.busy(from) / cpus(from) - board.busy(to) / cpus(to);
                    let after = (board.busy(from) - moved) / cpus(from) - (board.busy(to) + moved) / cpus(to);
                    let evened = before - after.abs();
                    if evened > best.map_or(LEAST_EVENING, |(evened, _)| evened)
                        && may(input, board, (vm, to, other), from, moved)
                    {
                        best = Some((evened, (vm, to, other)));
                    }
                }
            }
        }
        let Some((_, (vm, to, other))) = best else { return };
        let from = board.whole_in(vm).unwrap_or(to);
        board.lift(vm);
        if let Some(other) = other {
            board.lift(other);
            board.put(other, from);
        }
        board.put(vm, to);
        let partner =
            other.map_or_else(String::new, |other| format!(" in exchange with {}", input.name(other)));
        board.because(format!(
            "{} moves from domain {} to {}{partner}: they now have {:.2} and {:.2} CPUs busy",
            input.name(vm),
            board.domain_id(from),
            board.domain_id(to),
            board.busy(from),
            board.busy(to)
        ));
    }
}

/// Whether a change that moves so many busy CPUs keeps to every limit.
fn may(input: &PlanInput<'_>, board: &Board<'_>, (vm, to, other): Change, from: usize, moved: f64) -> bool {
    let Some(other) = other else { return board.fits(&[vm], to) };
    input.vcpus(vm) == input.vcpus(other)
        && [(vm, to), (other, from)].into_iter().all(|(vm, domain)| {
            input.is_allowed(vm, board.domain_id(domain)) && !board.meets_enemy(vm, domain)
        })
        && board.bears(to, moved)
        && board.bears(from, -moved)
}
