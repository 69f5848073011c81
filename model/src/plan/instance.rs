//! The placement problem without names: items with sizes and pairwise gains, bins with capacities.
//!
//! Value of an assignment: the sum of the gains of all pairs in one bin. It is the quadratic multiple
//! knapsack problem (or graph partitioning with capacities, counting what is kept instead of what is cut),
//! which is NP-hard: [`local_search`](mod@super::search) finds good solutions fast,
//! [`exact`](mod@super::exact) the optimum of small instances.

/// What to place, and where it may go.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    /// Size of each item, in vCPUs.
    pub sizes: Vec<u32>,
    /// For each item its partners with their gains; symmetric, no item with itself.
    pub gains: Vec<Vec<(usize, f64)>>,
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
        twice / 2.0
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
}
