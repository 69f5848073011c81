//! The private level: a cache for each vCPU, the same for all placements.
//!
//! What a vCPU finds in its private cache does not depend on the placement, except where an inclusive shared cache took a
//! copy back. Such a copy has a mark for the group whose cache did. For that group it is missing; it keeps its way and its
//! rank until it is replaced or used again, so that one set of ways serves all groups. A real cache fills a way
//! without a valid line first, so that it has room for one line more for a while.

use super::bits;
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
    /// Eight bits of each line, eight lines to a word, by which most are told apart without being looked at.
    tags: Vec<u64>,
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

/// Eight bits of a line by multiplicative hashing (Knuth, "The Art of Computer Programming" 3, 6.4).
fn tag(line: u64) -> u64 {
    line.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56
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
            tags: vec![0; vcpus * sets * ways.div_ceil(8)],
            gone: vec![0; vcpus * sets * ways],
            of_sets: vec![(policy.start(), 0); vcpus * sets],
        }
    }

    /// An access of a vCPU. A copy that is gone for some groups is there again.
    #[inline]
    pub(super) fn access(&mut self, vcpu: usize, set: usize, line: u64) -> Found {
        let set = vcpu * self.sets + set;
        let (first, found) = (set * self.ways, self.find(set, line));
        let (state, filled) = &mut self.of_sets[set];
        if let Some(way) = found {
            self.policy.hit(state, way as u32, *filled == self.full);
            return Found::Hit(std::mem::take(&mut self.gone[first + way]));
        }
        self.policy.before_miss(state);
        let was_full = *filled == self.full;
        let way = if was_full { self.policy.victim(state) } else { self.policy.empty(*filled) };
        *filled |= 1 << way;
        self.policy.fill(state, way, was_full);
        let way = way as usize;
        self.gone[first + way] = 0;
        let tags = &mut self.tags[set * self.ways.div_ceil(8) + way / 8];
        *tags = *tags & !(0xFF << (way % 8 * 8)) | tag(line) << (way % 8 * 8);
        let before = std::mem::replace(&mut self.lines[first + way], line);
        Found::Miss((before != EMPTY).then_some(before))
    }

    /// The way of a line in a set, by its number among all sets.
    #[inline]
    fn find(&self, set: usize, line: u64) -> Option<usize> {
        /// The lowest bit of each tag.
        const ONES: u64 = u64::MAX / 0xFF;
        let words = self.ways.div_ceil(8);
        for (number, tags) in self.tags[set * words..][..words].iter().enumerate() {
            // The highest bit of each tag that is equal, and seldom of another (Hacker's Delight, 2nd edition, 6-1).
            let differs = tags ^ (tag(line) * ONES);
            let equal = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
            let way = |bit: usize| number * 8 + bit / 8;
            let lines = &self.lines[set * self.ways..][..self.ways];
            let is_there = |way: &usize| lines.get(*way) == Some(&line);
            if let Some(way) = bits(equal).map(way).find(is_there) {
                return Some(way);
            }
        }
        None
    }

    /// Whether a vCPU has a line.
    pub(super) fn has(&self, vcpu: usize, set: usize, line: u64) -> bool {
        self.find(vcpu * self.sets + set, line).is_some()
    }

    /// The shared cache of `group`, with the vCPUs `members`, evicted a line.
    pub(super) fn take_back(&mut self, members: &[u16], set: usize, line: u64, group: usize) {
        for vcpu in members {
            let set = usize::from(*vcpu) * self.sets + set;
            if let Some(way) = self.find(set, line) {
                self.gone[set * self.ways + way] |= 1 << group;
            }
        }
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
            + size_of_val(&self.tags[..])
            + size_of_val(&self.gone[..])
            + size_of_val(&self.of_sets[..])
    }

    /// How many lines are gone, over all groups.
    #[cfg(test)]
    pub(super) fn gone(&self) -> usize {
        self.gone.iter().map(|mask| mask.count_ones() as usize).sum()
    }
}
