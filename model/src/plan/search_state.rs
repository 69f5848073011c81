//! An assignment of items to bins that is being changed, with what each item gains in each bin.

use super::instance::{Bins, Instance};

/// Up to this many items the gains of pairs are also kept as a square, for reading them in any order.
const MAX_SQUARE: usize = 4096;

pub(super) struct SearchState<'a> {
    instance: &'a Instance,
    bins: Bins,
    load: Vec<u32>,
    busy: Vec<f64>,
    stretched: u32,
    members: Vec<Vec<usize>>,
    /// The gain of each item with the others in each bin: `item * bins + bin`.
    at: Vec<f64>,
    groups_of: Vec<Vec<u32>>,
    /// Items of each group in each bin, and the sum of their numbers: `group * bins + bin`. The sum is the number of
    /// the only one.
    there: Vec<(u32, usize)>,
    /// `item * items + other`; empty for many items with few gains.
    square: Vec<f64>,
    /// What a swap of each item can at most have beyond the gains of the two in their new bins: with negative gains
    /// these count what the two have with each other.
    beyond: Vec<f64>,
}

impl<'a> SearchState<'a> {
    /// Of no item.
    pub(super) fn new(instance: &'a Instance) -> Self {
        let (n, d) = (instance.sizes.len(), instance.room.len());
        let edges: usize = instance.gains.iter().map(Vec::len).sum();
        let mut square = Vec::new();
        if n <= MAX_SQUARE && edges > n * n / 8 {
            square = vec![0.0; n * n];
            for (item, gains) in instance.gains.iter().enumerate() {
                gains.iter().for_each(|(other, gain)| square[item * n + other] = *gain);
            }
        }
        let groups_of = instance.groups_of_items();
        let beyond = instance.gains.iter().zip(&groups_of).map(|(gains, groups)| {
            let pairs = gains.iter().map(|(_, gain)| -gain).fold(0.0, f64::max);
            let groups = groups.iter().map(|group| (-instance.groups[*group as usize].gain).max(0.0));
            2.0 * (pairs + groups.sum::<f64>())
        });
        let beyond = beyond.collect();
        Self {
            instance,
            bins: vec![None; n],
            load: vec![0; d],
            busy: vec![0.0; d],
            stretched: 0,
            members: vec![Vec::new(); d],
            at: vec![0.0; n * d],
            groups_of,
            there: vec![(0, 0); instance.groups.len() * d],
            square,
            beyond,
        }
    }

    pub(super) fn instance(&self) -> &'a Instance {
        self.instance
    }

    pub(super) fn bins(&self) -> &Bins {
        &self.bins
    }

    pub(super) fn into_bins(self) -> Bins {
        self.bins
    }

    pub(super) fn members(&self, bin: usize) -> &[usize] {
        &self.members[bin]
    }

    pub(super) fn load(&self, bin: usize) -> u32 {
        self.load[bin]
    }

    /// What a swap of an item can at most have beyond the gains of the two in their new bins.
    pub(super) fn beyond(&self, item: usize) -> f64 {
        self.beyond[item]
    }

    /// What an item gains in a bin, with the others there.
    #[inline]
    pub(super) fn gain(&self, item: usize, bin: usize) -> f64 {
        self.at[item * self.load.len() + bin]
    }

    /// Room that is left in a bin.
    pub(super) fn left(&self, bin: usize) -> i64 {
        i64::from(self.instance.room[bin]) - i64::from(self.load[bin])
    }

    /// Whether an item fits into a bin after `without` is removed from it.
    pub(super) fn fits(&self, item: usize, bin: usize, without: Option<usize>) -> bool {
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

    pub(super) fn put(&mut self, item: usize, bin: usize) {
        self.account(bin, |load, size| load + size, item);
        self.busy[bin] += self.instance.busy_of(item);
        self.bins[item] = Some(bin);
        self.members[bin].push(item);
        let (instance, d) = (self.instance, self.load.len());
        for (other, gain) in &instance.gains[item] {
            self.at[other * d + bin] += gain;
        }
        for number in &self.groups_of[item] {
            let group = &instance.groups[*number as usize];
            let (count, sum) = &mut self.there[*number as usize * d + bin];
            gain_of_group(&mut self.at, d, bin, item, (*count, *sum), &group.items, group.gain);
            *count += 1;
            *sum += item;
        }
    }

    pub(super) fn lift(&mut self, item: usize) {
        let Some(bin) = self.bins[item].take() else { return };
        self.account(bin, |load, size| load - size, item);
        self.busy[bin] -= self.instance.busy_of(item);
        self.members[bin].retain(|member| *member != item);
        let (instance, d) = (self.instance, self.load.len());
        for (other, gain) in &instance.gains[item] {
            self.at[other * d + bin] -= gain;
        }
        for number in &self.groups_of[item] {
            let group = &instance.groups[*number as usize];
            let (count, sum) = &mut self.there[*number as usize * d + bin];
            *count -= 1;
            *sum -= item;
            gain_of_group(&mut self.at, d, bin, item, (*count, *sum), &group.items, -group.gain);
        }
    }

    fn account(&mut self, bin: usize, change: impl Fn(u32, u32) -> u32, item: usize) {
        let room = self.instance.room[bin];
        self.stretched -= u32::from(self.load[bin] > room);
        self.load[bin] = change(self.load[bin], self.instance.sizes[item]);
        self.stretched += u32::from(self.load[bin] > room);
    }

    /// What is counted too much if the gains of two items, each in the bin of the other, are added up.
    pub(super) fn between(&self, item: usize, other: usize, from: usize, to: usize) -> f64 {
        let pair = if self.square.is_empty() {
            // Gains are in ascending order of the other item.
            let gains = &self.instance.gains[item];
            gains.binary_search_by_key(&other, |(other, _)| *other).map_or(0.0, |at| gains[at].1)
        } else {
            self.square[item * self.bins.len() + other]
        };
        let mut sum = 2.0 * pair;
        let (mine, theirs) = (&self.groups_of[item], &self.groups_of[other]);
        let (mut a, mut b, d) = (0, 0, self.load.len());
        while a < mine.len() && b < theirs.len() {
            match mine[a].cmp(&theirs[b]) {
                std::cmp::Ordering::Less => a += 1,
                std::cmp::Ordering::Greater => b += 1,
                std::cmp::Ordering::Equal => {
                    let number = mine[a] as usize;
                    let alone = |bin: usize| u32::from(self.there[number * d + bin].0 == 1);
                    sum += f64::from(alone(from) + alone(to)) * self.instance.groups[number].gain;
                    (a, b) = (a + 1, b + 1);
                }
            }
        }
        sum
    }

    pub(super) fn may_swap(&self, item: usize, other: usize, from: usize, to: usize) -> bool {
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

/// Changes what the items of a group gain in a bin, where so many of them (with this sum of numbers) are without `item`,
/// when `item` comes (or goes, for the negative gain).
fn gain_of_group(
    at: &mut [f64],
    bins: usize,
    bin: usize,
    item: usize,
    (count, sum): (u32, usize),
    items: &[usize],
    gain: f64,
) {
    match count {
        // All others gain by the first one.
        0 => items.iter().filter(|other| **other != item).for_each(|other| at[other * bins + bin] += gain),
        // The one that was alone gains by the second.
        1 => at[sum * bins + bin] += gain,
        _ => {}
    }
}
