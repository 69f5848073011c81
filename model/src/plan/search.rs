//! Greedy and local search for an [`Instance`].
//!
//! Greedy: items in descending order of their total possible gain (larger ones first among equals), each into
//! the bin where it gains most and fits; ties: the bin with most room. Local search: best move of each item, then best
//! swap of two items, while the value rises. Small instances are repeated from many seeded random orders, and the best
//! result is kept; a large one is searched from few starts, for a limited number of rounds.
//!
//! Cost of one round: O(e + n d) for moves and O(n^2) for swaps, for e pairs with a gain and members of groups, n items
//! and d bins.

use std::cmp::Reverse;

use super::instance::{Bins, Feasible, Instance};
use super::search_state::SearchState;
use crate::rng::Rng;

/// Up to this many items the search restarts many times.
pub(super) const SMALL: usize = 48;
const RESTARTS: u64 = 60;

/// Rounds of local search over a large instance.
const ROUNDS: usize = 8;

/// Smaller gains are rounding errors.
const EPSILON: f64 = 1e-9;

/// Maximum number of steps for a start that places all items, where no greedy order does.
const PACKING_STEPS: u64 = 200_000;

/// A good assignment. `current` breaks ties and is also a starting point, so that an equally good one stays.
pub fn search(instance: &Instance, current: &Bins, seed: u64) -> Bins {
    let n = instance.sizes.len();
    let mut order: Vec<usize> = (0..n).collect();
    let degrees = instance.degrees();
    order.sort_by(|a, b| {
        degrees[*b].abs().total_cmp(&degrees[*a].abs()).then(instance.sizes[*b].cmp(&instance.sizes[*a]))
    });
    let nothing = vec![None; n];
    let mut best = improved(greedy(instance, &order, &nothing), n);
    let consider = |best: &mut Found, state: SearchState<'_>| {
        let found = improved(state, n);
        if found.placed > best.placed || found.placed == best.placed && found.value > best.value + EPSILON {
            *best = found;
        }
    };
    let mut by_size = order.clone();
    by_size.sort_by_key(|item| Reverse(instance.sizes[*item]));
    if by_size != order {
        consider(&mut best, greedy(instance, &by_size, &nothing));
    }
    if current.iter().any(Option::is_some) {
        consider(&mut best, greedy(instance, &order, current));
    }
    if n <= SMALL {
        let mut rng = Rng::new(seed);
        let mut shuffled = order.clone();
        for _ in 0..RESTARTS {
            rng.shuffle(&mut shuffled);
            consider(&mut best, greedy(instance, &shuffled, &nothing));
        }
    }
    if best.placed < n
        && let Feasible::By(bins) = instance.feasible(PACKING_STEPS)
    {
        consider(&mut best, greedy(instance, &order, &bins));
    }
    best.bins
}

struct Found {
    bins: Bins,
    placed: usize,
    value: f64,
}

fn improved(mut state: SearchState<'_>, n: usize) -> Found {
    let rounds = if n <= SMALL { 100 } else { ROUNDS };
    for _ in 0..rounds {
        let moved = moves(&mut state);
        let swapped = swaps(&mut state);
        if !moved && !swapped {
            break;
        }
    }
    let value = state.instance().value(state.bins());
    let bins = state.into_bins();
    Found { placed: bins.iter().flatten().count(), bins, value }
}

fn greedy<'a>(instance: &'a Instance, order: &[usize], fixed: &Bins) -> SearchState<'a> {
    let mut state = SearchState::new(instance);
    for item in order {
        if let Some(bin) = fixed[*item].filter(|bin| state.fits(*item, *bin, None)) {
            state.put(*item, bin);
        }
    }
    for item in order {
        if state.bins()[*item].is_some() {
            continue;
        }
        let fitting = (0..instance.room.len()).filter(|bin| state.fits(*item, *bin, None));
        let best = fitting.max_by(|a, b| {
            let (gain_a, gain_b) = (state.gain(*item, *a), state.gain(*item, *b));
            gain_a.total_cmp(&gain_b).then(state.left(*a).cmp(&state.left(*b))).then(b.cmp(a))
        });
        if let Some(bin) = best {
            state.put(*item, bin);
        }
    }
    state
}

fn moves(state: &mut SearchState<'_>) -> bool {
    let d = state.instance().room.len();
    let mut any = false;
    for item in 0..state.bins().len() {
        let Some(from) = state.bins()[item] else { continue };
        let here = state.gain(item, from);
        let better = (0..d)
            .filter(|bin| *bin != from && state.gain(item, *bin) > here + EPSILON)
            .filter(|bin| state.fits(item, *bin, None))
            .max_by(|a, b| state.gain(item, *a).total_cmp(&state.gain(item, *b)).then(b.cmp(a)));
        if let Some(bin) = better {
            state.lift(item);
            state.put(item, bin);
            any = true;
        }
    }
    any
}

fn swaps(state: &mut SearchState<'_>) -> bool {
    let d = state.instance().room.len();
    let mut any = false;
    for item in 0..state.bins().len() {
        let Some(from) = state.bins()[item] else { continue };
        let (here, beyond) = (state.gain(item, from), state.beyond(item));
        let mut best: Option<(f64, usize, usize)> = None;
        for to in (0..d).filter(|to| *to != from) {
            let to_gain = state.gain(item, to) - here;
            for other in state.members(to) {
                let gross = to_gain + state.gain(*other, from) - state.gain(*other, to);
                let least = best.map_or(EPSILON, |(gain, ..)| gain);
                // What the two gain with each other was counted where the other was. It is only looked up where it can
                // matter.
                if gross + beyond <= least {
                    continue;
                }
                let net = gross - state.between(item, *other, from, to);
                if net > least && state.may_swap(item, *other, from, to) {
                    best = Some((net, *other, to));
                }
            }
        }
        if let Some((_, other, to)) = best {
            state.lift(item);
            state.lift(other);
            state.put(item, to);
            state.put(other, from);
            any = true;
        }
    }
    any
}
