//! Policies to compare with: `spread`, `random` and `load`. None of them looks at what is shared.

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

/// Leaves every VM where it is as long as that keeps to the shares, and moves the rest to where most room
/// is: the least that evens the load.
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
    board
}
