//! Policy `opposed`: as little sharing within domains as the shares allow, the causal control of
//! `paper`.
//! Problem: minimise the sum of [`PlanInput::pair_rate`] over pairs in one domain. Approach: VMs in
//! descending order of their strongest rate (ties: order of the matrix) are each placed where they add least
//! (ties: most room, then most of their vCPUs there already, then lowest id); then two VMs of equal size are
//! exchanged, the first improvement found first, until none lowers the sum. The result is a local optimum,
//! which is enough for a control: it must be deterministic and separate the pairs that `paper` joins.
//!
//! Cost: O(n^2 d) for the first part, O(n^3) for a round of exchanges.

use std::cmp::Reverse;

use super::{PlacementState, PlanInput};

/// Smaller improvements are rounding errors.
const MIN_GAIN: f64 = 1e-12;

pub(super) fn place<'a>(input: &PlanInput<'a>) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let n = input.matrix.len();
    let strongest = |vm: usize| {
        (0..n).filter(|other| *other != vm).map(|other| input.pair_rate(vm, other)).fold(0.0, f64::max)
    };
    let mut order = placed_so_far.unplaced();
    order.sort_by(|a, b| {
        Reverse(input.vcpus(*a)).cmp(&Reverse(input.vcpus(*b))).then(strongest(*b).total_cmp(&strongest(*a)))
    });
    for vm in order {
        let best =
            placed_so_far.domains().filter(|domain| placed_so_far.fits(&[vm], *domain)).min_by(|a, b| {
                let key = |domain: usize| {
                    (
                        Reverse(placed_so_far.room(domain)),
                        Reverse(input.current_vcpus(vm, placed_so_far.domain_id(domain))),
                        domain,
                    )
                };
                shared_in(input, &placed_so_far, vm, *a)
                    .total_cmp(&shared_in(input, &placed_so_far, vm, *b))
                    .then_with(|| key(*a).cmp(&key(*b)))
            });
        match best {
            Some(domain) => placed_so_far.put(vm, domain),
            None => placed_so_far.put_anywhere(vm),
        }
    }
    while exchange(input, &mut placed_so_far) {}
    placed_so_far.because("VMs that share least are together: the control for policy paper".into());
    placed_so_far
}

/// Sum of the rates of `vm` with the VMs that are completely in `domain`.
fn shared_in(input: &PlanInput<'_>, placed_so_far: &PlacementState<'_>, vm: usize, domain: usize) -> f64 {
    (0..input.matrix.len())
        .filter(|other| *other != vm && placed_so_far.whole_in(*other) == Some(domain))
        .map(|other| input.pair_rate(vm, other))
        .sum()
}

/// Makes the first exchange of two VMs that lowers the sum; false if there is none.
fn exchange(input: &PlanInput<'_>, placed_so_far: &mut PlacementState<'_>) -> bool {
    for (i, j) in input.matrix.pairs() {
        let (Some(from), Some(to)) = (placed_so_far.whole_in(i), placed_so_far.whole_in(j)) else { continue };
        let may_swap = from != to
            && input.vcpus(i) == input.vcpus(j)
            && input.is_allowed(i, placed_so_far.domain_id(to))
            && input.is_allowed(j, placed_so_far.domain_id(from));
        if !may_swap {
            continue;
        }
        let now = shared_in(input, placed_so_far, i, from) + shared_in(input, placed_so_far, j, to);
        // The two never share a domain, so their own rate counts on neither side.
        let then = shared_in(input, placed_so_far, i, to) + shared_in(input, placed_so_far, j, from)
            - 2.0 * input.pair_rate(i, j);
        if now - then > MIN_GAIN {
            placed_so_far.lift(i);
            placed_so_far.lift(j);
            let bears =
                placed_so_far.bears(to, input.cpus_busy(i)) && placed_so_far.bears(from, input.cpus_busy(j));
            if !bears || placed_so_far.meets_enemy(i, to) || placed_so_far.meets_enemy(j, from) {
                placed_so_far.put(i, from);
                placed_so_far.put(j, to);
                continue;
            }
            placed_so_far.put(i, to);
            placed_so_far.put(j, from);
            return true;
        }
    }
    false
}
