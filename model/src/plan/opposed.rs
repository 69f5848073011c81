//! Policy `opposed`: as little sharing within domains as the shares allow, the causal control of
//! `paper`.
//!
//! Problem: minimise the sum of [`PlanInput::pair_rate`] over pairs in one domain. Approach: VMs in
//! descending order of their strongest rate (ties: order of the matrix) each go where they add least
//! (ties: most room, then most of their vCPUs there already, then lowest id); then exchanges of two
//! VMs of equal size, first found first, until none lowers the sum. A local optimum: the exact one is
//! not needed of a control, only that it is deterministic and separates what `paper` joins.
//!
//! Cost: O(n^2 d) for the first part, O(n^3) for a round of exchanges.

use std::cmp::Reverse;

use super::{Board, PlanInput};

/// Improvements smaller than this are rounding.
const LEAST_GAIN: f64 = 1e-12;

pub(super) fn place<'a>(input: &PlanInput<'a>) -> Board<'a> {
    let mut board = Board::new(input);
    let n = input.matrix.len();
    let strongest = |vm: usize| {
        (0..n).filter(|other| *other != vm).map(|other| input.pair_rate(vm, other)).fold(0.0, f64::max)
    };
    let mut order = board.unplaced();
    order.sort_by(|a, b| {
        Reverse(input.vcpus(*a)).cmp(&Reverse(input.vcpus(*b))).then(strongest(*b).total_cmp(&strongest(*a)))
    });
    for vm in order {
        let best = board.domains().filter(|domain| board.fits(&[vm], *domain)).min_by(|a, b| {
            let key = |domain: usize| {
                (
                    Reverse(board.room(domain)),
                    Reverse(input.current_vcpus(vm, board.domain_id(domain))),
                    domain,
                )
            };
            shared_in(input, &board, vm, *a)
                .total_cmp(&shared_in(input, &board, vm, *b))
                .then_with(|| key(*a).cmp(&key(*b)))
        });
        match best {
            Some(domain) => board.put(vm, domain),
            None => board.put_anywhere(vm),
        }
    }
    while exchange(input, &mut board) {}
    board.because("VMs that share least are together: the control for policy paper".into());
    board
}

/// Sum of the rates of `vm` with the VMs that are whole in `domain`.
fn shared_in(input: &PlanInput<'_>, board: &Board<'_>, vm: usize, domain: usize) -> f64 {
    (0..input.matrix.len())
        .filter(|other| *other != vm && board.whole_in(*other) == Some(domain))
        .map(|other| input.pair_rate(vm, other))
        .sum()
}

/// Makes the first exchange of two VMs that lowers the sum; false when there is none.
fn exchange(input: &PlanInput<'_>, board: &mut Board<'_>) -> bool {
    for (i, j) in input.matrix.pairs() {
        let (Some(from), Some(to)) = (board.whole_in(i), board.whole_in(j)) else { continue };
        let may_swap = from != to
            && input.vcpus(i) == input.vcpus(j)
            && input.is_allowed(i, board.domain_id(to))
            && input.is_allowed(j, board.domain_id(from));
        if !may_swap {
            continue;
        }
        let now = shared_in(input, board, i, from) + shared_in(input, board, j, to);
        // Each leaves the other's domain, so the pair itself counts on neither side.
        let then =
            shared_in(input, board, i, to) + shared_in(input, board, j, from) - 2.0 * input.pair_rate(i, j);
        if now - then > LEAST_GAIN {
            board.lift(i);
            board.lift(j);
            let bears = board.bears(to, input.cpus_busy(i)) && board.bears(from, input.cpus_busy(j));
            if !bears || board.meets_enemy(i, to) || board.meets_enemy(j, from) {
                board.put(i, from);
                board.put(j, to);
                continue;
            }
            board.put(i, to);
            board.put(j, from);
            return true;
        }
    }
    false
}
