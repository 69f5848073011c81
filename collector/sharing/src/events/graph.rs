//! Which VMs are on which frame, and the counts of the matrix, updated with each change.
//!
//! The counts are those of [`huddle_model::matrix`]. A page that is added to or removed from a frame of `k`
//! VMs changes at most `k` counts, so the cost of updates depends on the changes, not on the size.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use smallvec::SmallVec;

/// Number of pages of a VM on a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapper {
    vm: u32,
    pages: u32,
}

/// A frame that more than one page may be on.
#[derive(Clone, Debug, Default)]
struct Frame {
    mappers: SmallVec<[Mapper; 2]>,
    zero: bool,
}

impl Frame {
    fn pages(&self) -> u64 {
        self.mappers.iter().map(|mapper| u64::from(mapper.pages)).sum()
    }
}

/// Pages and frames of one VM, among those in [`FrameGraph`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameCounts {
    /// Frames that are not zero-filled.
    pub(super) used: u64,
    /// Pages on zero-filled frames.
    pub(super) zero_pages: u64,
    /// Pages that share their frame with another page of the VM.
    pub(super) self_shared: u64,
}

/// The graph of frames and VMs.
#[derive(Clone, Debug)]
pub(super) struct FrameGraph {
    vms: usize,
    frames: HashMap<u64, Frame, BuildHasherDefault<FrameHasher>>,
    counts: Vec<FrameCounts>,
    /// `[i * vms + j]` for `i < j`.
    shared: Vec<u64>,
}

impl FrameGraph {
    /// A graph without frames of `vms` VMs.
    pub(super) fn new(vms: usize) -> Self {
        let (counts, shared) = (vec![FrameCounts::default(); vms], vec![0; vms * vms]);
        Self { vms, frames: HashMap::default(), counts, shared }
    }

    /// Adds a page of `vm` to `frame`; returns whether the frame is new.
    pub(super) fn attach(&mut self, frame: u64, vm: u32) -> bool {
        let (counts, shared, vms) = (&mut self.counts, &mut self.shared, self.vms);
        let found = self.frames.entry(frame).or_default();
        let new = found.mappers.is_empty();
        if found.zero {
            count_zero(found, counts, false);
        }
        let place = found.mappers.iter().position(|mapper| mapper.vm == vm);
        let pages = place.map_or(0, |place| found.mappers[place].pages);
        if !found.zero {
            counts[vm as usize].self_shared += [0, 2, 1][pages.min(2) as usize];
            if place.is_none() {
                counts[vm as usize].used += 1;
                found.mappers.iter().for_each(|other| shared[pair(vms, vm, other.vm)] += 1);
            }
        }
        match place {
            Some(place) => found.mappers[place].pages += 1,
            None => found.mappers.push(Mapper { vm, pages: 1 }),
        }
        if found.zero {
            count_zero(found, counts, true);
        }
        new
    }

    /// Removes a page of `vm` from `frame`.
    pub(super) fn detach(&mut self, frame: u64, vm: u32) {
        let (counts, shared, vms) = (&mut self.counts, &mut self.shared, self.vms);
        let Entry::Occupied(mut entry) = self.frames.entry(frame) else { return };
        let found = entry.get_mut();
        let Some(place) = found.mappers.iter().position(|mapper| mapper.vm == vm) else { return };
        if found.zero {
            count_zero(found, counts, false);
        }
        found.mappers[place].pages -= 1;
        let left = found.mappers[place].pages;
        if left == 0 {
            found.mappers.swap_remove(place);
        }
        if found.zero {
            count_zero(found, counts, true);
        } else {
            counts[vm as usize].self_shared -= [0, 2, 1][left.min(2) as usize];
            if left == 0 {
                counts[vm as usize].used -= 1;
                found.mappers.iter().for_each(|other| shared[pair(vms, vm, other.vm)] -= 1);
            }
        }
        if found.mappers.is_empty() {
            entry.remove();
        }
    }

    /// Marks the content of `frame` as zero.
    pub(super) fn set_zero(&mut self, frame: u64) {
        let (counts, shared, vms) = (&mut self.counts, &mut self.shared, self.vms);
        let Some(found) = self.frames.get_mut(&frame).filter(|found| !found.zero) else { return };
        for (at, mapper) in found.mappers.iter().enumerate() {
            let count = &mut counts[mapper.vm as usize];
            count.used -= 1;
            count.self_shared -= if mapper.pages > 1 { u64::from(mapper.pages) } else { 0 };
            found.mappers[..at].iter().for_each(|other| shared[pair(vms, mapper.vm, other.vm)] -= 1);
        }
        found.zero = true;
        count_zero(found, counts, true);
    }

    /// The frames.
    pub(super) fn frames(&self) -> impl Iterator<Item = u64> + '_ {
        self.frames.keys().copied()
    }

    /// Pages on `frame`, of all VMs.
    pub(super) fn pages_on(&self, frame: u64) -> u64 {
        self.frames.get(&frame).map_or(0, Frame::pages)
    }

    /// The counts of each VM.
    pub(super) fn counts(&self) -> &[FrameCounts] {
        &self.counts
    }

    /// Frames that are not zero-filled that both VMs map.
    pub(super) fn shared(&self, i: usize, j: usize) -> u64 {
        if i == j { 0 } else { self.shared[pair(self.vms, i as u32, j as u32)] }
    }
}

/// A zero-filled frame with a single page counts as used, as in the scan, which does not read those.
fn count_zero(frame: &Frame, counts: &mut [FrameCounts], add: bool) {
    let single = frame.pages() == 1;
    for mapper in &frame.mappers {
        let count = &mut counts[mapper.vm as usize];
        let (sum, by) =
            if single { (&mut count.used, 1) } else { (&mut count.zero_pages, u64::from(mapper.pages)) };
        *sum = if add { *sum + by } else { *sum - by };
    }
}

#[inline]
fn pair(vms: usize, i: u32, j: u32) -> usize {
    i.min(j) as usize * vms + i.max(j) as usize
}

/// Frame numbers need spreading, not protection from attackers: one multiplication (Knuth, The Art
/// of Computer Programming 3, 6.4).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameHasher(u64);

impl Hasher for FrameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table uses the lowest and the highest bits; multiplication fills the highest.
        self.0 = spread ^ spread >> 32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The counts from scratch, by the definitions: pages by frame and VM.
    fn naive(vms: usize, pages: &[(u64, u32)], zero: &[u64]) -> (Vec<FrameCounts>, Vec<Vec<u64>>) {
        let mut on: BTreeMap<u64, BTreeMap<u32, u64>> = BTreeMap::new();
        for (frame, vm) in pages {
            *on.entry(*frame).or_default().entry(*vm).or_default() += 1;
        }
        let (mut counts, mut shared) = (vec![FrameCounts::default(); vms], vec![vec![0; vms]; vms]);
        for (frame, mappers) in &on {
            let zero = zero.contains(frame) && mappers.values().sum::<u64>() > 1;
            for (vm, pages) in mappers {
                let count = &mut counts[*vm as usize];
                if zero {
                    count.zero_pages += pages;
                    continue;
                }
                count.used += 1;
                count.self_shared += if *pages > 1 { *pages } else { 0 };
                mappers.keys().filter(|j| *j != vm).for_each(|j| shared[*vm as usize][*j as usize] += 1);
            }
        }
        (counts, shared)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn counts_kept_by_changes_are_the_counts_from_scratch(
            steps in proptest::collection::vec((0u8..8, 0u64..6, 0u32..4, any::<prop::sample::Index>()), 0..150)
        ) {
            let mut graph = FrameGraph::new(4);
            let (mut pages, mut zero): (Vec<(u64, u32)>, Vec<u64>) = Default::default();
            for (kind, frame, vm, which) in steps {
                match kind {
                    0..4 => {
                        prop_assert_eq!(graph.attach(frame, vm), pages.iter().all(|page| page.0 != frame));
                        pages.push((frame, vm));
                    }
                    4..7 if !pages.is_empty() => {
                        let (frame, vm) = pages.swap_remove(which.index(pages.len()));
                        graph.detach(frame, vm);
                        // A frame without pages is removed, with its content.
                        if pages.iter().all(|page| page.0 != frame) {
                            zero.retain(|zero| *zero != frame);
                        }
                    }
                    7 if pages.iter().any(|page| page.0 == frame) => {
                        graph.set_zero(frame);
                        zero.push(frame);
                    }
                    _ => {}
                }
                let (counts, shared) = naive(4, &pages, &zero);
                prop_assert_eq!(graph.counts(), &counts[..]);
                for (i, row) in shared.iter().enumerate() {
                    for (j, expected) in row.iter().enumerate() {
                        prop_assert_eq!(graph.shared(i, j), *expected);
                    }
                }
            }
        }
    }

    #[test]
    fn missing_pages_cannot_be_removed() {
        let mut graph = FrameGraph::new(2);
        graph.attach(5, 0);
        graph.detach(5, 1);
        graph.detach(6, 0);
        graph.set_zero(6);
        assert_eq!((graph.counts()[0].used, graph.pages_on(5), graph.pages_on(6)), (1, 1, 0));
    }
}
