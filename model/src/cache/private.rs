//! The private level: a cache for each vCPU, the same for all placements.
//!
//! What a vCPU finds in its private cache does not depend on the placement, except where an inclusive shared cache took a
//! copy back. Such a copy has a mark for the group whose cache did. For that group it is missing; it keeps its way and its
//! rank until it is replaced or used again, so that one set of ways serves all groups. A real cache fills a way
//! without a valid line first, so that it has room for one line more for a while.

use super::model::PrivateLevel;
use super::policy::{AnyPolicy, MAX_WAYS, Policy};

/// No line: lines have 47 bits at most.
const EMPTY: u64 = u64::MAX;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct PrivateCaches {
    policy: AnyPolicy,
    ways: usize,
    full: u64,
    /// Kept sets of one cache.
    sets: usize,
    lines: Vec<u64>,
    /// For each line the groups whose cache took it back.
    gone: Vec<u64>,
    /// State of the policy, and ways with a line.
    of_sets: Vec<(u128, u64)>,
}

/// What an access found in the private cache of its vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The line, and groups for which it is gone: 0 if it is there in all placements.
    Hit(u64),
    /// Nothing. The line is there now, and this one left.
    Miss(Option<u64>),
}

impl PrivateCaches {
    /// Caches of `vcpus` vCPUs, of each of which `sets` sets are kept.
    pub(super) fn new(level: PrivateLevel, vcpus: usize, sets: usize) -> Self {
        let policy = AnyPolicy::new(level.replacement, level.ways);
        let ways = level.ways as usize;
        Self {
            policy,
            ways,
            full: u64::MAX >> (MAX_WAYS as usize - ways),
            sets,
            lines: vec![EMPTY; vcpus * sets * ways],
            gone: vec![0; vcpus * sets * ways],
            of_sets: vec![(policy.start(), 0); vcpus * sets],
        }
    }

    /// An access of a vCPU. A copy that is gone for some groups is there again.
    #[inline]
    pub(super) fn access(&mut self, vcpu: usize, set: usize, line: u64) -> Found {
        let set = vcpu * self.sets + set;
        let first = set * self.ways;
        let lines = &mut self.lines[first..][..self.ways];
        let (state, filled) = &mut self.of_sets[set];
        if let Some(way) = lines.iter().position(|there| *there == line) {
            self.policy.hit(state, way as u32, *filled == self.full);
            return Found::Hit(std::mem::take(&mut self.gone[first + way]));
        }
        self.policy.before_miss(state);
        let was_full = *filled == self.full;
        let way = if was_full { self.policy.victim(state) } else { self.policy.empty(*filled) };
        *filled |= 1 << way;
        self.policy.fill(state, way, was_full);
        self.gone[first + way as usize] = 0;
        let before = std::mem::replace(&mut lines[way as usize], line);
        Found::Miss((before != EMPTY).then_some(before))
    }

    /// Whether a vCPU has a line.
    pub(super) fn has(&self, vcpu: usize, set: usize, line: u64) -> bool {
        let first = (vcpu * self.sets + set) * self.ways;
        self.lines[first..][..self.ways].contains(&line)
    }

    /// The shared cache of `group`, with the vCPUs `members`, evicted a line.
    pub(super) fn take_back(&mut self, members: &[u16], set: usize, line: u64, group: usize) {
        for vcpu in members {
            let first = (usize::from(*vcpu) * self.sets + set) * self.ways;
            if let Some(way) = self.lines[first..][..self.ways].iter().position(|there| *there == line) {
                self.gone[first + way] |= 1 << group;
            }
        }
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.gone[..]) + size_of_val(&self.of_sets[..])
    }

    /// How many lines are gone, over all groups.
    #[cfg(test)]
    pub(super) fn gone(&self) -> usize {
        self.gone.iter().map(|mask| mask.count_ones() as usize).sum()
    }
}
