//! The best assignment of an [`Instance`], by branch and bound.
//!
//! Items in descending order of their total possible gain are tried in each bin. Bound: the value of placed
//! items, plus for each open item its best gain with placed ones in one allowed bin, plus half of its
//! possible gain with other open ones. Of empty equal bins only one is tried. The search starts from the
//! result of [`search`](mod@super::search), so that it only has to prove or improve it.

use super::instance::{Bins, Instance};
use super::search::search;

/// Maximum number of steps of the proof.
const MAX_STEPS: u64 = 3_000_000;

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
    let n = instance.sizes.len();
    let first = search(instance, current, 1);
    let mut order: Vec<usize> = (0..n).collect();
    let degree = |item: usize| instance.gains[item].iter().map(|(_, gain)| gain).sum::<f64>();
    order.sort_by(|a, b| degree(*b).total_cmp(&degree(*a)));
    let whole = first.iter().all(Option::is_some);
    let mut solver = Solver {
        instance,
        order,
        best_value: if whole { instance.value(&first) } else { f64::NEG_INFINITY },
        best: first,
        bins: vec![None; n],
        load: vec![0; instance.room.len()],
        busy: vec![0.0; instance.room.len()],
        steps: 0,
    };
    let all = solver.bound(0, 0.0);
    solver.descend(0, 0.0);
    // Nothing is proven for an assignment that leaves a VM out.
    let proven = solver.steps < MAX_STEPS && solver.best.iter().all(Option::is_some);
    let bound = if proven { instance.value(&solver.best) } else { all };
    Exact { bins: solver.best, bound, proven }
}

struct Solver<'a> {
    instance: &'a Instance,
    order: Vec<usize>,
    best: Bins,
    best_value: f64,
    bins: Bins,
    load: Vec<u32>,
    busy: Vec<f64>,
    steps: u64,
}

impl Solver<'_> {
    fn bound(&self, depth: usize, value: f64) -> f64 {
        let d = self.load.len();
        let mut bound = value;
        let mut with_bins = vec![0.0; d];
        for item in &self.order[depth..] {
            with_bins.fill(0.0);
            let mut open = 0.0;
            for (other, gain) in &self.instance.gains[*item] {
                match self.bins[*other] {
                    Some(bin) => with_bins[bin] += gain,
                    None => open += gain,
                }
            }
            bound += with_bins.iter().copied().fold(0.0, f64::max) + open / 2.0;
        }
        bound
    }

    fn descend(&mut self, depth: usize, value: f64) {
        self.steps += 1;
        if self.steps >= MAX_STEPS {
            return;
        }
        let Some(item) = self.order.get(depth).copied() else {
            if value > self.best_value {
                self.best_value = value;
                self.best.clone_from(&self.bins);
            }
            return;
        };
        if self.bound(depth, value) <= self.best_value + 1e-9 {
            return;
        }
        let mut empty_tried: Vec<usize> = Vec::new();
        let mut choices: Vec<(f64, usize)> = Vec::new();
        for bin in 0..self.load.len() {
            let apart = self.instance.apart_of(item);
            if !self.instance.may(item, bin) || apart.iter().any(|other| self.bins[*other] == Some(bin)) {
                continue;
            }
            if self.load[bin] == 0 {
                if empty_tried.iter().any(|tried| self.alike(*tried, bin)) {
                    continue;
                }
                empty_tried.push(bin);
            }
            let gains = self.instance.gains[item].iter();
            let gain = gains.filter(|(other, _)| self.bins[*other] == Some(bin)).map(|(_, gain)| gain).sum();
            choices.push((gain, bin));
        }
        choices.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (gain, bin) in choices {
            let busy = self.busy[bin];
            self.load[bin] += self.instance.sizes[item];
            self.busy[bin] += self.instance.busy_of(item);
            if self.instance.loads_fit(&self.load) && self.instance.bears(bin, self.busy[bin]) {
                self.bins[item] = Some(bin);
                self.descend(depth + 1, value + gain);
                self.bins[item] = None;
            }
            self.load[bin] -= self.instance.sizes[item];
            self.busy[bin] = busy;
        }
    }

    fn alike(&self, a: usize, b: usize) -> bool {
        let instance = self.instance;
        instance.room[a] == instance.room[b]
            && instance.stretches.get(a) == instance.stretches.get(b)
            && instance.busy_room.get(a) == instance.busy_room.get(b)
            && (0..instance.sizes.len()).all(|item| instance.may(item, a) == instance.may(item, b))
    }
}
