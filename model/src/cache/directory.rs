//! The shared caches of all groups.
//!
//! # Problem
//! Many groups see overlapping parts of one stream, and each has its own ways, in its own order. To search each of them
//! for each access takes as much work for each placement as for the first.
//!
//! # Approach
//! One directory for each set and all groups: an entry for each line that any group holds, found by a small hash table,
//! with the mask of these groups and the way in each. An access is looked up once. For each group that holds the line a
//! few bits of its policy change ([`Policy`]); one that does not finds its way by a few operations on words, and
//! knows the entry that leaves by its number. Where the same line is used again at once, nothing is done at all, unless
//! the policy counts uses.
//!
//! # Properties
//! Equal to ways and a policy for each group and set, whatever else runs beside it. A set never has more entries than
//! its groups have ways, and one more while a new line waits for its way.

use super::policy::{MAX_WAYS, Policy};
use super::{SharedSets, bits};

/// No entry.
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    line: u64,
    /// Groups that hold it.
    mask: u64,
    /// The next in the same bucket, or the next free one.
    next: u16,
}

/// What a group has of a set.
#[derive(Clone, Copy, Debug)]
struct GroupSet<S> {
    state: S,
    /// Ways with a line.
    filled: u64,
}

/// What a set has besides.
#[derive(Clone, Copy, Debug)]
struct SetState {
    /// The line that was used last, and the groups that had it then.
    last_line: u64,
    last_mask: u64,
    /// The first free entry.
    free: u16,
    /// Entries from here on were never used.
    unused: u16,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Directory<P: Policy> {
    policy: P,
    ways: usize,
    full: u64,
    groups: usize,
    capacity: usize,
    bucket_bits: u32,
    entries: Vec<Entry>,
    /// The way of each entry in each group.
    way_of: Vec<u8>,
    buckets: Vec<u16>,
    of_sets: Vec<SetState>,
    of_groups: Vec<GroupSet<P::State>>,
    /// The entry in each set, group and way.
    holds: Vec<u16>,
}

/// One set.
struct Set<'a, S> {
    entries: &'a mut [Entry],
    way_of: &'a mut [u8],
    buckets: &'a mut [u16],
    state: &'a mut SetState,
    of_groups: &'a mut [GroupSet<S>],
    holds: &'a mut [u16],
    groups: usize,
    bucket_bits: u32,
}

impl<P: Policy> Directory<P> {
    pub(super) fn new(sets: usize, ways: u32, groups: usize, policy: P) -> Self {
        let ways = ways as usize;
        let capacity = groups * ways + 1;
        let bucket_bits = (groups * ways).next_power_of_two().trailing_zeros().max(1);
        Self {
            policy,
            ways,
            full: u64::MAX >> (MAX_WAYS as usize - ways),
            groups,
            capacity,
            bucket_bits,
            entries: vec![Entry { line: 0, mask: 0, next: 0 }; sets * capacity],
            way_of: vec![0; sets * capacity * groups],
            buckets: vec![NONE; sets << bucket_bits],
            of_sets: vec![SetState { last_line: 0, last_mask: 0, free: NONE, unused: 0 }; sets],
            of_groups: vec![GroupSet { state: policy.start(), filled: 0 }; sets * groups],
            holds: vec![0; sets * groups * ways],
        }
    }

    #[inline]
    fn set(&mut self, set: usize) -> Set<'_, P::State> {
        let (capacity, groups, ways) = (self.capacity, self.groups, self.ways);
        Set {
            entries: &mut self.entries[set * capacity..][..capacity],
            way_of: &mut self.way_of[set * capacity * groups..][..capacity * groups],
            buckets: &mut self.buckets[set << self.bucket_bits..][..1 << self.bucket_bits],
            state: &mut self.of_sets[set],
            of_groups: &mut self.of_groups[set * groups..][..groups],
            holds: &mut self.holds[set * groups * ways..][..groups * ways],
            groups,
            bucket_bits: self.bucket_bits,
        }
    }
}

impl<S> Set<'_, S> {
    fn bucket(&self, line: u64) -> usize {
        // Multiplicative hashing (Knuth, "The Art of Computer Programming" 3, 6.4).
        (line.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - self.bucket_bits)) as usize
    }

    fn entry(&mut self, at: u16) -> &mut Entry {
        &mut self.entries[usize::from(at)]
    }

    fn find(&mut self, line: u64) -> u16 {
        let mut at = self.buckets[self.bucket(line)];
        while at != NONE {
            let entry = self.entry(at);
            if entry.line == line {
                break;
            }
            at = entry.next;
        }
        at
    }

    /// A new entry that no group holds yet.
    fn add(&mut self, line: u64) -> u16 {
        let free = self.state.free;
        let at = if free == NONE {
            self.state.unused += 1;
            self.state.unused - 1
        } else {
            self.state.free = self.entry(free).next;
            free
        };
        let bucket = self.bucket(line);
        *self.entry(at) = Entry { line, mask: 0, next: self.buckets[bucket] };
        self.buckets[bucket] = at;
        at
    }

    /// Takes a group from an entry, and the entry away if it was the last. Returns its line.
    fn release(&mut self, at: u16, group: usize) -> u64 {
        let entry = self.entry(at);
        entry.mask &= !(1 << group);
        let Entry { line, mask, next } = *entry;
        if mask == 0 {
            let bucket = self.bucket(line);
            if self.buckets[bucket] == at {
                self.buckets[bucket] = next;
            } else {
                let mut before = self.buckets[bucket];
                while before != NONE && self.entry(before).next != at {
                    before = self.entry(before).next;
                }
                if before != NONE {
                    self.entry(before).next = next;
                }
            }
            self.entry(at).next = self.state.free;
            self.state.free = at;
        }
        line
    }

    fn way_of(&mut self, at: u16, group: usize) -> &mut u8 {
        &mut self.way_of[usize::from(at) * self.groups + group]
    }
}

impl<P: Policy> SharedSets for Directory<P> {
    fn access(&mut self, set: usize, line: u64, wanted: u64, mut evicted: impl FnMut(usize, u64)) -> u64 {
        let (policy, full, ways) = (self.policy, self.full, self.ways);
        let mut set = self.set(set);
        let SetState { last_line, last_mask, .. } = *set.state;
        if P::REPEATS_DO_NOTHING && last_line == line && wanted & !last_mask == 0 {
            return 0;
        }
        let mut at = set.find(line);
        let had = if at == NONE { 0 } else { set.entry(at).mask & wanted };
        (set.state.last_line, set.state.last_mask) = (line, had);
        for group in bits(had) {
            let way = u32::from(*set.way_of(at, group));
            let of_group = &mut set.of_groups[group];
            policy.hit(&mut of_group.state, way, of_group.filled == full);
        }
        let missed = wanted & !had;
        if missed == 0 {
            return 0;
        }
        if at == NONE {
            at = set.add(line);
        }
        for group in bits(missed) {
            let of_group = &mut set.of_groups[group];
            policy.before_miss(&mut of_group.state);
            let was_full = of_group.filled == full;
            let way = if was_full { policy.victim(&of_group.state) } else { policy.empty(of_group.filled) };
            of_group.filled |= 1 << way;
            policy.fill(&mut of_group.state, way, was_full);
            let place = group * ways + way as usize;
            let before = std::mem::replace(&mut set.holds[place], at);
            if was_full {
                evicted(group, set.release(before, group));
            }
            *set.way_of(at, group) = way as u8;
        }
        set.entry(at).mask |= missed;
        missed
    }

    fn take(&mut self, set: usize, line: u64, wanted: u64) -> u64 {
        let mut set = self.set(set);
        set.state.last_mask = 0;
        let at = set.find(line);
        if at == NONE {
            return 0;
        }
        let had = set.entry(at).mask & wanted;
        for group in bits(had) {
            let way = *set.way_of(at, group);
            set.of_groups[group].filled &= !(1 << way);
            set.release(at, group);
        }
        had
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.entries[..])
            + size_of_val(&self.way_of[..])
            + size_of_val(&self.buckets[..])
            + size_of_val(&self.of_sets[..])
            + size_of_val(&self.of_groups[..])
            + size_of_val(&self.holds[..])
    }
}
