//! Replacement policies as a few bits of state for each set, changed by operations on whole words.

use super::replacement::{Qlru, QlruAging, QlruChoice, Replacement};

/// The most ways of a set.
pub(super) const MAX_WAYS: u32 = 64;

/// The most ways of a set under LRU: an order of all of them is kept in one word, five bits each.
pub(super) const MAX_LRU_WAYS: u32 = 25;

/// A policy for sets of a number of ways.
pub(super) trait Policy: Copy {
    /// State of one set.
    type State: Copy;

    /// Whether a second hit in the same way, at once after the first, changes nothing.
    const REPEATS_DO_NOTHING: bool = true;

    /// The state of a set without lines.
    fn start(self) -> Self::State;

    /// The way that a line takes if not all are `filled`.
    #[inline]
    fn empty(self, filled: u64) -> u32 {
        filled.trailing_ones()
    }

    /// What comes before a line takes a way.
    #[inline]
    fn before_miss(self, _state: &mut Self::State) {}

    /// The way whose line leaves a full set.
    fn victim(self, state: &Self::State) -> u32;

    /// After a hit in `way`, in a set with empty ways or in a full one.
    fn hit(self, state: &mut Self::State, way: u32, is_full: bool);

    /// After a new line took `way`, in a set that had empty ways or was full.
    #[inline]
    fn fill(self, state: &mut Self::State, way: u32, was_full: bool) {
        self.hit(state, way, was_full);
    }
}

/// [`Replacement::Lru`]. State: the ways in order of use in fields of five bits, the last used in the lowest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lru {
    ways: u32,
}

impl Lru {
    /// For at most [`MAX_LRU_WAYS`] ways.
    pub(super) fn new(ways: u32) -> Self {
        Self { ways }
    }
}

impl Policy for Lru {
    type State = u128;

    /// Ways in the order in which they are filled, the first to be in the highest field.
    fn start(self) -> u128 {
        (0..self.ways).fold(0, |order, way| order << 5 | u128::from(way))
    }

    #[inline]
    fn fill(self, order: &mut u128, way: u32, _was_full: bool) {
        if self.victim(order) == way {
            // Without a search: all fields move up, and the highest one becomes the lowest.
            let highest = 5 * (self.ways - 1);
            *order = (*order & ((1 << highest) - 1)) << 5 | u128::from(way);
        } else {
            self.hit(order, way, false);
        }
    }

    #[inline]
    fn victim(self, order: &u128) -> u32 {
        (order >> (5 * (self.ways - 1))) as u32 & 31
    }

    /// Moves the field that holds `way` to the lowest place.
    #[inline]
    fn hit(self, order: &mut u128, way: u32, _is_full: bool) {
        if *order as u32 & 31 == way {
            return;
        }
        // Fields are 0 once `way` is taken from them; the first one gets its highest bit (Hacker's Delight, 2nd edition,
        // 6-1). No shift is by a variable, which takes longest in words of this size.
        let differs = *order ^ REPEATED[way as usize & 31];
        let zero = differs.wrapping_sub(REPEATED[1]) & !differs & (REPEATED[1] << 4);
        let up_to_it = ((zero & zero.wrapping_neg()) << 1).wrapping_sub(1);
        let newer = *order & (up_to_it >> 5);
        *order = *order & !up_to_it | newer << 5 | u128::from(way);
    }
}

/// The number of each way in all fields.
const REPEATED: [u128; 32] = {
    let (mut ones, mut field) = (0, 0);
    while field < MAX_LRU_WAYS {
        ones |= 1 << (5 * field);
        field += 1;
    }
    let (mut repeated, mut way) = ([0; 32], 0);
    while way < 32 {
        repeated[way] = ones * way as u128;
        way += 1;
    }
    repeated
};

/// [`Replacement::TreePlru`]. State: bit `n` is node `n` of the tree, with children `2n` and `2n + 1`; 1 points to the
/// second half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    ways: u32,
}

impl Tree {
    /// For a power of two of ways.
    pub(super) fn new(ways: u32) -> Self {
        Self { ways }
    }
}

impl Policy for Tree {
    type State = u64;

    fn start(self) -> u64 {
        0
    }

    #[inline]
    fn victim(self, points: &u64) -> u32 {
        let mut node = 1;
        while node < self.ways {
            node = 2 * node + (points >> node & 1) as u32;
        }
        node - self.ways
    }

    #[inline]
    fn hit(self, points: &mut u64, way: u32, _is_full: bool) {
        let mut node = self.ways + way;
        while node > 1 {
            let parent = node / 2;
            // Away from the half that was used.
            *points = *points & !(1 << parent) | u64::from(!node & 1) << parent;
            node = parent;
        }
    }
}

/// [`Replacement::Mru`] and [`Replacement::MruN`]. State: whether each way was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mru {
    all: u64,
    /// Whether bits are set while there are empty ways.
    while_filling: bool,
}

impl Mru {
    pub(super) fn new(ways: u32, while_filling: bool) -> Self {
        Self { all: u64::MAX >> (MAX_WAYS - ways), while_filling }
    }
}

impl Policy for Mru {
    type State = u64;

    fn start(self) -> u64 {
        0
    }

    #[inline]
    fn victim(self, used: &u64) -> u32 {
        // Never all: the last bit to be set clears the others.
        used.trailing_ones()
    }

    #[inline]
    fn hit(self, used: &mut u64, way: u32, is_full: bool) {
        if is_full || self.while_filling {
            *used |= 1 << way;
            if *used == self.all {
                // A single way is always the next to leave.
                *used = if self.all == 1 { 0 } else { 1 << way };
            }
        }
    }
}

/// [`Replacement::Qlru`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    all: u64,
    of: Qlru,
}

impl Ages {
    pub(super) fn new(ways: u32, of: Qlru) -> Self {
        Self { all: u64::MAX >> (MAX_WAYS - ways), of }
    }
}

/// The age of a way: bit `way` of `low` and of `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AgeBits {
    low: u64,
    high: u64,
}

impl Policy for Ages {
    type State = AgeBits;

    const REPEATS_DO_NOTHING: bool = false;

    fn start(self) -> AgeBits {
        AgeBits { low: self.all, high: self.all }
    }

    #[inline]
    fn empty(self, filled: u64) -> u32 {
        match self.of.choice {
            QlruChoice::R0 | QlruChoice::R1 => filled.trailing_ones(),
            QlruChoice::R2 => (self.all & !filled).ilog2(),
        }
    }

    #[inline]
    fn before_miss(self, ages: &mut AgeBits) {
        if self.of.only_on_miss {
            ages.age(self.of.aging, self.all, self.all);
        }
    }

    #[inline]
    fn victim(self, ages: &AgeBits) -> u32 {
        let oldest = ages.low & ages.high;
        if oldest == 0 { 0 } else { oldest.trailing_zeros() }
    }

    #[inline]
    fn hit(self, ages: &mut AgeBits, way: u32, _is_full: bool) {
        self.set(ages, way, self.of.after_hit(ages.of(way)));
    }

    #[inline]
    fn fill(self, ages: &mut AgeBits, way: u32, _was_full: bool) {
        self.set(ages, way, self.of.insert);
    }
}

impl Ages {
    #[inline]
    fn set(self, ages: &mut AgeBits, way: u32, age: u8) {
        ages.set(way, age);
        if !self.of.only_on_miss {
            ages.age(self.of.aging, self.all, self.all & !(1 << way));
        }
    }
}

impl AgeBits {
    #[inline]
    fn of(&self, way: u32) -> u8 {
        (self.low >> way & 1) as u8 | ((self.high >> way & 1) as u8) << 1
    }

    #[inline]
    fn set(&mut self, way: u32, age: u8) {
        self.low = self.low & !(1 << way) | u64::from(age & 1) << way;
        self.high = self.high & !(1 << way) | u64::from(age >> 1) << way;
    }

    /// Ages the ways of `all`; `others` are those without the way just used.
    #[inline]
    fn age(&mut self, aging: QlruAging, all: u64, others: u64) {
        let aged = match aging {
            QlruAging::U0 | QlruAging::U2 => all,
            QlruAging::U1 | QlruAging::U3 => others,
        };
        let by_one = matches!(aging, QlruAging::U2 | QlruAging::U3);
        // By one: only if none of all has age 3.
        let oldest_of = if by_one { all } else { aged };
        if self.low & self.high & oldest_of != 0 {
            return;
        }
        if by_one || self.high & aged != 0 {
            // To ages below 3.
            self.high ^= self.low & aged;
            self.low ^= aged;
        } else if self.low & aged != 0 {
            // By two.
            self.high ^= aged;
        } else {
            self.low |= aged;
            self.high |= aged;
        }
    }
}

/// A policy that only the model knows.
#[derive(Clone, Copy, Debug)]
pub(super) enum AnyPolicy {
    Lru(Lru),
    Tree(Tree),
    Mru(Mru),
    Ages(Ages),
}

impl AnyPolicy {
    /// For sets of `ways` ways, as far as the policy allows.
    pub(super) fn new(replacement: Replacement, ways: u32) -> Self {
        match replacement {
            Replacement::Lru => Self::Lru(Lru::new(ways)),
            Replacement::TreePlru => Self::Tree(Tree::new(ways)),
            Replacement::Mru => Self::Mru(Mru::new(ways, true)),
            Replacement::MruN => Self::Mru(Mru::new(ways, false)),
            Replacement::Qlru(of) => Self::Ages(Ages::new(ways, of)),
        }
    }
}

impl AgeBits {
    fn unpacked(packed: u128) -> Self {
        Self { low: packed as u64, high: (packed >> 64) as u64 }
    }

    fn packed(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

/// Changes a state that is kept in one word.
#[inline]
fn in_word(word: &mut u128, change: impl FnOnce(&mut u64)) {
    let mut state = *word as u64;
    change(&mut state);
    *word = u128::from(state);
}

#[inline]
fn in_ages(word: &mut u128, change: impl FnOnce(&mut AgeBits)) {
    let mut ages = AgeBits::unpacked(*word);
    change(&mut ages);
    *word = ages.packed();
}

impl Policy for AnyPolicy {
    type State = u128;

    const REPEATS_DO_NOTHING: bool = false;

    fn start(self) -> u128 {
        match self {
            Self::Lru(policy) => policy.start(),
            Self::Tree(policy) => policy.start().into(),
            Self::Mru(policy) => policy.start().into(),
            Self::Ages(policy) => policy.start().packed(),
        }
    }

    #[inline]
    fn empty(self, filled: u64) -> u32 {
        match self {
            Self::Ages(policy) => policy.empty(filled),
            _ => filled.trailing_ones(),
        }
    }

    #[inline]
    fn before_miss(self, state: &mut u128) {
        if let Self::Ages(policy) = self {
            in_ages(state, |ages| policy.before_miss(ages));
        }
    }

    #[inline]
    fn victim(self, state: &u128) -> u32 {
        match self {
            Self::Lru(policy) => policy.victim(state),
            Self::Tree(policy) => policy.victim(&(*state as u64)),
            Self::Mru(policy) => policy.victim(&(*state as u64)),
            Self::Ages(policy) => policy.victim(&AgeBits::unpacked(*state)),
        }
    }

    #[inline]
    fn hit(self, state: &mut u128, way: u32, is_full: bool) {
        match self {
            Self::Lru(policy) => policy.hit(state, way, is_full),
            Self::Tree(policy) => in_word(state, |state| policy.hit(state, way, is_full)),
            Self::Mru(policy) => in_word(state, |state| policy.hit(state, way, is_full)),
            Self::Ages(policy) => in_ages(state, |ages| policy.hit(ages, way, is_full)),
        }
    }

    #[inline]
    fn fill(self, state: &mut u128, way: u32, was_full: bool) {
        match self {
            Self::Lru(policy) => policy.fill(state, way, was_full),
            Self::Ages(policy) => in_ages(state, |ages| policy.fill(ages, way, was_full)),
            _ => self.hit(state, way, was_full),
        }
    }
}

#[cfg(test)]
pub(in crate::cache) mod tests {
    use super::super::bits;
    use super::super::tests::reference::{Line, Set};
    use super::*;
    use proptest::prelude::*;

    pub(in crate::cache) const NAMES: [&str; 10] = [
        "lru",
        "tree_plru",
        "mru",
        "mru_n",
        "qlru_h11_m1_r0_u0",
        "qlru_h00_m1_r2_u1",
        "qlru_h00_m1_r0_u1",
        "qlru_h11_m1_r1_u2",
        "qlru_h21_m3_r1_u3_umo",
        "qlru_h00_m2_r0_u0_umo",
    ];

    proptest! {
        /// A set by words of bits, and one by lists as the policies are described.
        #[test]
        fn bits_do_what_lists_do(
            name in prop::sample::select(&NAMES[..]),
            ways in prop::sample::select(&[1u32, 2, 4, 8, 16][..]),
            lines in prop::collection::vec(0..24u64, 1..400),
        ) {
            let replacement: Replacement = name.parse().unwrap();
            let policy = AnyPolicy::new(replacement, ways);
            let mut by_lists = Set::new(name, ways as usize);
            let (mut state, mut filled, mut held) = (policy.start(), 0u64, vec![None; ways as usize]);
            for line in lines {
                let full = u64::MAX >> (MAX_WAYS - ways);
                let is_full = filled == full;
                let found = held.iter().position(|there| *there == Some(line));
                if let Some(way) = found {
                    policy.hit(&mut state, way as u32, is_full);
                } else {
                    policy.before_miss(&mut state);
                    let way = if is_full { policy.victim(&state) } else { policy.empty(filled) };
                    prop_assert!(way < ways, "{way} of {ways}");
                    filled |= 1 << way;
                    held[way as usize] = Some(line);
                    policy.fill(&mut state, way, is_full);
                }
                prop_assert_eq!(by_lists.access(Line(line)).is_hit, found.is_some());
                let mut expected: Vec<u64> = by_lists.lines().map(|line| line.0).collect();
                let mut found: Vec<u64> = held.iter().flatten().copied().collect();
                expected.sort_unstable();
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn an_order_of_the_most_ways_is_kept() {
        let policy = Lru::new(MAX_LRU_WAYS);
        let mut state = policy.start();
        (0..MAX_LRU_WAYS).for_each(|way| policy.fill(&mut state, way, false));
        for way in 0..MAX_LRU_WAYS {
            assert_eq!(policy.victim(&state), way);
            policy.hit(&mut state, way, true);
        }
        assert_eq!(bits(0b1010).collect::<Vec<_>>(), [1, 3]);
    }
}
