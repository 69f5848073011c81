//! Policy `paper`: the greedy of Ito and Kono, section 3.2, "decide the processor to assign in
//! descending order of the pairs' sharing rate".
//!
//! Approach: pairs with a rate above 0 in descending [`PlanInput::pair_rate`]; pairs of equal rate in
//! the order of the matrix (lowest first VM, then lowest second). For each pair
//! - neither placed: both go to the domain with the most room in its share that holds both (ties:
//!   where more of their vCPUs are now, then the lowest id); where none holds both they wait for a
//!   later pair;
//! - one placed: the other joins it if its share has room, else it waits for a later pair;
//! - both placed: nothing to decide.
//!
//! Remaining VMs (an odd one, one that shares nothing, one without room) then go where there is most room,
//! larger VMs first.
//!
//! Cost: O(n^2 log n + n^2 d) for n VMs and d domains.

use std::cmp::Reverse;

use super::{PlacementState, PlanInput};

pub(super) fn place<'a>(input: &PlanInput<'a>) -> PlacementState<'a> {
    let mut placed_so_far = PlacementState::new(input);
    let can_be_placed = |vm: usize| input.vcpus(vm) > 0;
    let mut pairs: Vec<(f64, usize, usize)> = input
        .matrix
        .pairs()
        .map(|(i, j)| (input.pair_rate(i, j), i, j))
        .filter(|(rate, i, j)| *rate > 0.0 && can_be_placed(*i) && can_be_placed(*j))
        .collect();
    // A stable sort keeps the order of the matrix for equal rates.
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));

    for (_, i, j) in pairs {
        let joined = match (placed_so_far.whole_in(i), placed_so_far.whole_in(j)) {
            (None, None) => placed_so_far.roomiest(&[i, j]).map(|domain| (vec![i, j], domain)),
            (Some(domain), None) if placed_so_far.fits(&[j], domain) => Some((vec![j], domain)),
            (None, Some(domain)) if placed_so_far.fits(&[i], domain) => Some((vec![i], domain)),
            _ => None,
        };
        if let Some((vms, domain)) = joined {
            for vm in vms {
                placed_so_far.put(vm, domain);
            }
            placed_so_far.because(format!(
                "{} and {} share {:.2} %: together in domain {}",
                input.name(i),
                input.name(j),
                input.pair_rate(i, j) * 100.0,
                placed_so_far.domain_id(domain),
            ));
        }
    }
    let mut left = placed_so_far.unplaced();
    left.sort_by_key(|vm| Reverse(input.vcpus(*vm)));
    for vm in left {
        let has_room = placed_so_far.roomiest(&[vm]).is_some();
        placed_so_far.put_anywhere(vm);
        if let Some(domain) = placed_so_far.whole_in(vm).filter(|_| has_room) {
            placed_so_far.because(format!(
                "{} found no partner with room: domain {} has most room",
                input.name(vm),
                placed_so_far.domain_id(domain)
            ));
        }
    }
    placed_so_far
}
