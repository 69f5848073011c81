//! Greedy and local search for an [`Instance`].
//!
//! Greedy: items in descending order of their total possible gain (larger ones first among equals), each into
//! the bin where it gains most and fits; ties: the bin with most room. Items that find no room come first in
//! a second attempt. Local search: best move of each item, then best swap of two items, while the value
//! rises. Small instances are repeated from many seeded random orders, and the best result is kept; a large
//! one is searched once, for a limited number of rounds.
//!
//! Cost of one round: O(e + n d) for moves and O(n^2 / d) for swaps, for e pairs with a gain, n items and
//! d bins.

use std::cmp::Reverse;

use super::instance::{Bins, Instance};
use crate::rng::Rng;

/// Up to this many items the search restarts many times.
const SMALL: usize = 48;
const RESTARTS: u64 = 60;

/// Rounds of local search over a large instance.
const ROUNDS: usize = 8;

/// Smaller gains are rounding errors.
const EPSILON: f64 = 1e-9;

/// A good assignment. `current` breaks ties and is also a starting point, so that an equally good one stays.
pub fn search(instance: &Instance, current: &Bins, seed: u64) -> Bins {
    let n = instance.sizes.len();
    let mut order: Vec<usize> = (0..n).collect();
    let whole = |item: usize| instance.gains[item].iter().map(|(_, gain)| gain).sum::<f64>();
    let degrees: Vec<f64> = (0..n).map(whole).collect();
    order.sort_by(|a, b| {
        degrees[*b].total_cmp(&degrees[*a]).then(instance.sizes[*b].cmp(&instance.sizes[*a]))
    });
    let mut best = improved(State::greedy(instance, &order, &vec![None; n]), n);
    let mut consider = |found: Found| {
        let better = (found.placed, found.value) > (best.placed, best.value + EPSILON);
        let more = found.placed > best.placed;
        if more || better && found.placed >= best.placed {
            best = found;
        }
    };
    let mut by_size = order.clone();
    by_size.sort_by_key(|item| Reverse(instance.sizes[*item]));
    consider(improved(State::greedy(instance, &by_size, &vec![None; n]), n));
    if current.iter().any(Option::is_some) {
        consider(improved(State::greedy(instance, &order, current), n));
    }
    if n <= SMALL {
        let mut rng = Rng::new(seed);
        for _ in 0..RESTARTS {
            rng.shuffle(&mut order);
            consider(improved(State::greedy(instance, &order, &vec![None; n]), n));
        }
    }
    best.bins
}

struct Found {
    bins: Bins,
    placed: usize,
    value: f64,
}

fn improved(mut state: State<'_>, n: usize) -> Found {
    let rounds = if n <= SMALL { 100 } else { ROUNDS };
    for _ in 0..rounds {
        let moved = state.moves();
        let swapped = state.swaps();
        if !moved && !swapped {
            break;
        }
    }
    let value = state.instance.value(&state.bins);
    Found { placed: state.bins.iter().flatten().count(), bins: state.bins, value }
}

struct State<'a> {
    instance: &'a Instance,
    bins: Bins,
    load: Vec<u32>,
    busy: Vec<f64>,
    stretched: u32,
    members: Vec<Vec<usize>>,
    /// The gain of each item in each bin: `item * bins + bin`.
    at: Vec<f64>,
}

impl<'a> State<'a> {
    fn greedy(instance: &'a Instance, order: &[usize], fixed: &Bins) -> Self {
        let (n, d) = (instance.sizes.len(), instance.room.len());
        let mut state = Self {
            instance,
            bins: vec![None; n],
            load: vec![0; d],
            busy: vec![0.0; d],
            stretched: 0,
            members: vec![Vec::new(); d],
            at: vec![0.0; n * d],
        };
        for item in order {
            if let Some(bin) = fixed[*item].filter(|bin| state.fits(*item, *bin, None)) {
                state.put(*item, bin);
            }
        }
        for item in order {
            if state.bins[*item].is_some() {
                continue;
            }
            let fitting = (0..d).filter(|bin| state.fits(*item, *bin, None));
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

    fn gain(&self, item: usize, bin: usize) -> f64 {
        self.at[item * self.load.len() + bin]
    }

    fn left(&self, bin: usize) -> i64 {
        i64::from(self.instance.room[bin]) - i64::from(self.load[bin])
    }

    /// Whether an item fits into a bin after `without` is removed from it.
    fn fits(&self, item: usize, bin: usize, without: Option<usize>) -> bool {
        if !self.instance.may(item, bin) || !self.bears(item, bin, without) {
            return false;
        }
        let out = without.map_or(0, |other| self.instance.sizes[other]);
        let was = self.load[bin];
        let load = was - out + self.instance.sizes[item];
        let room = self.instance.room[bin];
        let fits = load <= room || {
            let free = self.stretched < self.instance.stretched || was > room;
            load == room + 1 && free && self.instance.stretches.get(bin).is_some_and(|may| *may)
        };
        let apart = self.instance.apart_of(item);
        fits && apart.iter().all(|other| self.bins[*other] != Some(bin) || Some(*other) == without)
    }

    fn bears(&self, item: usize, bin: usize, without: Option<usize>) -> bool {
        let out = without.map_or(0.0, |other| self.instance.busy_of(other));
        self.instance.bears(bin, self.busy[bin] - out + self.instance.busy_of(item))
    }

    fn put(&mut self, item: usize, bin: usize) {
        self.account(bin, |load, size| load + size, item);
        self.busy[bin] += self.instance.busy_of(item);
        self.bins[item] = Some(bin);
        self.members[bin].push(item);
        let d = self.load.len();
        for (other, gain) in &self.instance.gains[item] {
            self.at[other * d + bin] += gain;
        }
    }

    fn lift(&mut self, item: usize) {
        let Some(bin) = self.bins[item].take() else { return };
        self.account(bin, |load, size| load - size, item);
        self.busy[bin] -= self.instance.busy_of(item);
        self.members[bin].retain(|member| *member != item);
        let d = self.load.len();
        for (other, gain) in &self.instance.gains[item] {
            self.at[other * d + bin] -= gain;
        }
    }

    fn account(&mut self, bin: usize, change: impl Fn(u32, u32) -> u32, item: usize) {
        let room = self.instance.room[bin];
        self.stretched -= u32::from(self.load[bin] > room);
        self.load[bin] = change(self.load[bin], self.instance.sizes[item]);
        self.stretched += u32::from(self.load[bin] > room);
    }

    fn moves(&mut self) -> bool {
        let mut any = false;
        for item in 0..self.bins.len() {
            let Some(from) = self.bins[item] else { continue };
            let here = self.gain(item, from);
            let better = (0..self.load.len())
                .filter(|bin| *bin != from && self.gain(item, *bin) > here + EPSILON)
                .filter(|bin| self.fits(item, *bin, None))
                .max_by(|a, b| self.gain(item, *a).total_cmp(&self.gain(item, *b)).then(b.cmp(a)));
            if let Some(bin) = better {
                self.lift(item);
                self.put(item, bin);
                any = true;
            }
        }
        any
    }

    fn swaps(&mut self) -> bool {
        let mut any = false;
        for item in 0..self.bins.len() {
            let Some(from) = self.bins[item] else { continue };
            let here = self.gain(item, from);
            let mut best: Option<(f64, usize, usize)> = None;
            for to in (0..self.load.len()).filter(|to| *to != from) {
                let to_gain = self.gain(item, to) - here;
                for other in &self.members[to] {
                    let gross = to_gain + self.gain(*other, from) - self.gain(*other, to);
                    // The gain of the two with each other is subtracted twice: each was counted where the
                    // other was.
                    if gross <= best.map_or(EPSILON, |(gain, ..)| gain) {
                        continue;
                    }
                    let net = gross - 2.0 * self.between(item, *other);
                    if net > best.map_or(EPSILON, |(gain, ..)| gain) && self.may_swap(item, *other, from, to)
                    {
                        best = Some((net, *other, to));
                    }
                }
            }
            if let Some((_, other, to)) = best {
                self.lift(item);
                self.lift(other);
                self.put(item, to);
                self.put(other, from);
                any = true;
            }
        }
        any
    }

    fn between(&self, a: usize, b: usize) -> f64 {
        // Gains are in ascending order of the other item.
        let gains = &self.instance.gains[a];
        gains.binary_search_by_key(&b, |(other, _)| *other).map_or(0.0, |at| gains[at].1)
    }

    fn may_swap(&self, item: usize, other: usize, from: usize, to: usize) -> bool {
        if self.instance.sizes[item] == self.instance.sizes[other] {
            // Loads do not change.
            let free = |item: usize, bin: usize, without: usize| {
                let apart = self.instance.apart_of(item);
                self.instance.may(item, bin)
                    && self.bears(item, bin, Some(without))
                    && apart.iter().all(|third| *third == without || self.bins[*third] != Some(bin))
            };
            return free(item, to, other) && free(other, from, item);
        }
        self.fits(item, to, Some(other)) && self.fits(other, from, Some(item)) && {
            let mut load = self.load.clone();
            let (a, b) = (self.instance.sizes[item], self.instance.sizes[other]);
            load[from] = load[from] - a + b;
            load[to] = load[to] - b + a;
            self.instance.loads_fit(&load)
        }
    }
}
