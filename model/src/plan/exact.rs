//! The best assignment of an [`Instance`], by branch and bound.
//!
//! Items in descending order of their total possible gain are tried in each bin. Bound: the value of placed
//! items, plus for each open item its best gain with placed ones in one bin, plus what the open ones can gain with each
//! other. That is at most, for each open item, half of its best gains with as many open ones as find room beside it,
//! and for each group its gain for each open item but one for each bin that they need. Of empty equal bins only one is
//! tried. The search starts from the result of [`search`](mod@super::search), so that it only has to prove or improve it.

use super::instance::{Bins, Instance};
use super::search::search;
use super::search_state::SearchState;

/// Maximum number of steps of policy `exact`.
pub(super) const EXACT_STEPS: u64 = 3_000_000;

/// Result of the search.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    /// The best assignment found.
    pub bins: Bins,
    /// Upper bound of the value of any assignment.
    pub bound: f64,
    /// Whether the assignment is proven to be optimal.
    pub proven: bool,
}

/// The best assignment with every item placed, if there is one.
pub fn exact(instance: &Instance, current: &Bins) -> Exact {
    exact_within(instance, current, EXACT_STEPS)
}

/// The same within a number of steps.
pub(super) fn exact_within(instance: &Instance, current: &Bins, max_steps: u64) -> Exact {
    let n = instance.sizes.len();
    let first = search(instance, current, 1);
    let degrees = instance.degrees();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| degrees[*b].abs().total_cmp(&degrees[*a].abs()));
    let whole = first.iter().all(Option::is_some);
    let mut solver = Solver {
        instance,
        among_open: among_open(instance, &order),
        order,
        best_value: if whole { instance.value(&first) } else { f64::NEG_INFINITY },
        best: first,
        state: SearchState::new(instance),
        steps: 0,
        max_steps,
    };
    let all = solver.bound(0, 0.0);
    solver.descend(0, 0.0);
    // Nothing is proven for an assignment that leaves a VM out.
    let proven = solver.steps < max_steps && solver.best.iter().all(Option::is_some);
    let bound = if proven { instance.value(&solver.best) } else { all };
    Exact { bins: solver.best, bound, proven }
}

/// For each depth, what the items from there on can gain with each other at most.
fn among_open(instance: &Instance, order: &[usize]) -> Vec<f64> {
    let n = order.len();
    let largest = instance
        .room
        .iter()
        .enumerate()
        .map(|(bin, room)| room + u32::from(instance.stretches.get(bin).is_some_and(|may| *may)))
        .max()
        .unwrap_or(0);
    let mut depth_of = vec![0; n];
    order.iter().enumerate().for_each(|(depth, item)| depth_of[*item] = depth);
    let partners: Vec<Vec<(usize, f64)>> = instance
        .gains
        .iter()
        .map(|gains| {
            let mut gains = gains.clone();
            gains.sort_by(|a, b| b.1.total_cmp(&a.1));
            gains
        })
        .collect();
    let from = |depth: usize| {
        let mut most = 0.0;
        for item in &order[depth..] {
            let mut room = f64::from(largest.saturating_sub(instance.sizes[*item]));
            for (other, gain) in &partners[*item] {
                if *gain <= 0.0 || room <= 0.0 {
                    break;
                }
                if depth_of[*other] >= depth {
                    let size = f64::from(instance.sizes[*other]);
                    most += gain * (room / size).min(1.0) / 2.0;
                    room -= size;
                }
            }
        }
        for group in instance.groups.iter().filter(|group| group.gain > 0.0) {
            let open = || group.items.iter().filter(|item| depth_of[**item] >= depth);
            let size: u32 = open().map(|item| instance.sizes[*item]).sum();
            let bins = size.div_ceil(largest.max(1)).max(1) as usize;
            most += open().count().saturating_sub(bins) as f64 * group.gain;
        }
        most
    };
    (0..=n).map(from).collect()
}

struct Solver<'a> {
    instance: &'a Instance,
    order: Vec<usize>,
    among_open: Vec<f64>,
    best: Bins,
    best_value: f64,
    state: SearchState<'a>,
    steps: u64,
    max_steps: u64,
}

impl Solver<'_> {
    fn bound(&self, depth: usize, value: f64) -> f64 {
        let most = |item: &usize| {
            (0..self.instance.room.len())
                .filter(|bin| self.instance.may(*item, *bin))
                .map(|bin| self.state.gain(*item, bin))
                .fold(f64::NEG_INFINITY, f64::max)
        };
        value + self.order[depth..].iter().map(most).sum::<f64>() + self.among_open[depth]
    }

    fn descend(&mut self, depth: usize, value: f64) {
        self.steps += 1;
        if self.steps >= self.max_steps {
            return;
        }
        let Some(item) = self.order.get(depth).copied() else {
            if value > self.best_value {
                self.best_value = value;
                self.best.clone_from(self.state.bins());
            }
            return;
        };
        if self.bound(depth, value) <= self.best_value + 1e-9 {
            return;
        }
        let mut empty_tried: Vec<usize> = Vec::new();
        let mut choices: Vec<(f64, usize)> = Vec::new();
        for bin in 0..self.instance.room.len() {
            if !self.state.fits(item, bin, None) {
                continue;
            }
            if self.state.load(bin) == 0 {
                if empty_tried.iter().any(|tried| self.instance.are_alike(*tried, bin)) {
                    continue;
                }
                empty_tried.push(bin);
            }
            choices.push((self.state.gain(item, bin), bin));
        }
        choices.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (gain, bin) in choices {
            self.state.put(item, bin);
            self.descend(depth + 1, value + gain);
            self.state.lift(item);
        }
    }
}
