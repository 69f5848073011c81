//! The placement problem without names: items with sizes and gains, bins with capacities.
//!
//! Value of an assignment: the sum of the gains of all pairs in one bin, and for each group and bin its gain for each of
//! its items there but one. With pairs only it is the quadratic multiple knapsack problem (or graph partitioning with
//! capacities, counting what is kept instead of what is cut), with groups the same for hypergraphs (the "connectivity
//! minus one" metric); both are NP-hard. [`search`](mod@super::search) finds good solutions fast,
//! [`exact`](mod@super::exact) the optimum of small instances. Gains may be negative: then the search looks for the least.
//!
//! Sums of gains are exact, and so independent of the order of items, if gains are integers.

/// What to place, and where it may go.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// Size of each item, in vCPUs.
    pub sizes: Vec<u32>,
    /// For each item its partners with their gains, in ascending order; symmetric, no item with itself.
    pub gains: Vec<Vec<(usize, f64)>>,
    /// Groups of items.
    pub groups: Vec<ItemGroup>,
    /// Room of each bin.
    pub room: Vec<u32>,
    /// Bins that may exceed their room by one.
    pub stretches: Vec<bool>,
    /// Maximum number of bins that do.
    pub stretched: u32,
    /// Bins that each item may go to; empty for all.
    pub allowed: Vec<Vec<bool>>,
    /// For each item those that it must not share a bin with; may be empty.
    pub apart: Vec<Vec<usize>>,
    /// CPUs that each item keeps busy; empty for none.
    pub busy: Vec<f64>,
    /// CPUs that the items of each bin may keep busy; empty for any number.
    pub busy_room: Vec<f64>,
}

/// Items that gain together.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemGroup {
    /// Two or more items, ascending.
    pub items: Vec<usize>,
    /// Gain of each item in a bin but the first.
    pub gain: f64,
}

/// The bin of each item; `None` if no bin has room for it.
pub type Bins = Vec<Option<usize>>;

impl Instance {
    /// The value of an assignment.
    pub fn value(&self, bins: &Bins) -> f64 {
        let mut twice = 0.0;
        for (item, gains) in self.gains.iter().enumerate() {
            if let Some(bin) = bins[item] {
                let here = gains.iter().filter(|(other, _)| bins[*other] == Some(bin));
                twice += here.map(|(_, gain)| gain).sum::<f64>();
            }
        }
        let mut value = twice / 2.0;
        let mut there = vec![false; self.room.len()];
        for group in &self.groups {
            there.fill(false);
            for bin in group.items.iter().filter_map(|item| bins[*item]) {
                value += if there[bin] { group.gain } else { 0.0 };
                there[bin] = true;
            }
        }
        value
    }

    /// The groups of each item.
    pub(super) fn groups_of_items(&self) -> Vec<Vec<u32>> {
        let mut of = vec![Vec::new(); self.sizes.len()];
        for (number, group) in (0u32..).zip(&self.groups) {
            group.items.iter().for_each(|item| of[*item].push(number));
        }
        of
    }

    /// What each item could gain with all others.
    pub(super) fn degrees(&self) -> Vec<f64> {
        let mut degrees: Vec<f64> =
            self.gains.iter().map(|gains| gains.iter().map(|(_, gain)| gain).sum()).collect();
        for group in &self.groups {
            group.items.iter().for_each(|item| degrees[*item] += group.gain);
        }
        degrees
    }

    pub(super) fn may(&self, item: usize, bin: usize) -> bool {
        self.allowed.get(item).is_none_or(|bins| bins.is_empty() || bins[bin])
    }

    pub(super) fn apart_of(&self, item: usize) -> &[usize] {
        self.apart.get(item).map_or(&[], Vec::as_slice)
    }

    pub(super) fn busy_of(&self, item: usize) -> f64 {
        self.busy.get(item).copied().unwrap_or(0.0)
    }

    /// Whether the items of a bin may keep so many CPUs busy.
    pub(super) fn bears(&self, bin: usize, busy: f64) -> bool {
        self.busy_room.get(bin).is_none_or(|room| busy <= room + 1e-9)
    }

    /// Whether an assignment keeps every limit.
    pub fn holds(&self, bins: &Bins) -> bool {
        let mut load = vec![0; self.room.len()];
        let mut busy = vec![0.0; self.room.len()];
        for (item, bin) in bins.iter().enumerate() {
            let Some(bin) = *bin else { continue };
            load[bin] += self.sizes[item];
            busy[bin] += self.busy_of(item);
            if !self.may(item, bin) || self.apart_of(item).iter().any(|other| bins[*other] == Some(bin)) {
                return false;
            }
        }
        self.loads_fit(&load) && busy.iter().enumerate().all(|(bin, busy)| self.bears(bin, *busy))
    }

    pub(super) fn loads_fit(&self, load: &[u32]) -> bool {
        let mut stretched = 0;
        for (bin, load) in load.iter().enumerate() {
            let room = self.room[bin];
            if *load > room {
                stretched += 1;
                if *load > room + 1 || !self.stretches.get(bin).is_some_and(|may| *may) {
                    return false;
                }
            }
        }
        stretched <= self.stretched
    }

    /// Whether two bins are the same for every item.
    pub(super) fn are_alike(&self, a: usize, b: usize) -> bool {
        self.room[a] == self.room[b]
            && self.stretches.get(a) == self.stretches.get(b)
            && self.busy_room.get(a) == self.busy_room.get(b)
            && (0..self.sizes.len()).all(|item| self.may(item, a) == self.may(item, b))
    }

    /// An assignment of every item that keeps every limit, if the search finds one within so many steps; whether it
    /// is then known that there is none.
    pub(super) fn feasible(&self, max_steps: u64) -> Feasible {
        let n = self.sizes.len();
        let mut order: Vec<usize> = (0..n).collect();
        let bins_of = |item: usize| (0..self.room.len()).filter(|bin| self.may(item, *bin)).count();
        // Those that are hardest to place first.
        order.sort_by_key(|item| {
            (bins_of(*item), std::cmp::Reverse((self.sizes[*item], self.apart_of(*item).len())))
        });
        let mut packing = Packing {
            instance: self,
            order,
            bins: vec![None; n],
            load: vec![0; self.room.len()],
            busy: vec![0.0; self.room.len()],
            steps: 0,
            max_steps,
            alike: (0..self.room.len())
                .map(|bin| (0..bin).find(|before| self.are_alike(*before, bin)).unwrap_or(bin))
                .collect(),
        };
        if packing.descend(0) {
            Feasible::By(packing.bins)
        } else if packing.steps < max_steps {
            Feasible::No
        } else {
            Feasible::Unknown
        }
    }
}

/// Whether all items can be placed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Feasible {
    /// In this way.
    By(Bins),
    /// They cannot.
    No,
    /// The search was too long.
    Unknown,
}

/// A search with backtracking.
struct Packing<'a> {
    instance: &'a Instance,
    order: Vec<usize>,
    bins: Bins,
    load: Vec<u32>,
    busy: Vec<f64>,
    steps: u64,
    max_steps: u64,
    /// The first bin that is the same as each for every item.
    alike: Vec<usize>,
}

impl Packing<'_> {
    fn descend(&mut self, depth: usize) -> bool {
        let Some(item) = self.order.get(depth).copied() else { return true };
        let mut bins: Vec<usize> = Vec::with_capacity(self.load.len());
        for bin in 0..self.load.len() {
            let apart = self.instance.apart_of(item);
            let is_free =
                self.instance.may(item, bin) && apart.iter().all(|other| self.bins[*other] != Some(bin));
            let is_new = self.load[bin] > 0
                || bins.iter().all(|other| self.load[*other] > 0 || self.alike[*other] != self.alike[bin]);
            if is_free && is_new {
                bins.push(bin);
            }
        }
        // The fullest first, so that room for large items stays.
        bins.sort_by_key(|bin| i64::from(self.instance.room[*bin]) - i64::from(self.load[*bin]));
        for bin in bins {
            self.steps += 1;
            if self.steps >= self.max_steps {
                return false;
            }
            let busy = self.busy[bin];
            self.load[bin] += self.instance.sizes[item];
            self.busy[bin] += self.instance.busy_of(item);
            self.bins[item] = Some(bin);
            let fits = self.instance.bears(bin, self.busy[bin]) && self.instance.loads_fit(&self.load);
            if fits && self.descend(depth + 1) {
                return true;
            }
            self.bins[item] = None;
            self.load[bin] -= self.instance.sizes[item];
            self.busy[bin] = busy;
        }
        false
    }
}
