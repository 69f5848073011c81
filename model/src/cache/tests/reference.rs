//! Caches as textbooks describe them: one list for each set, one machine for each placement, nothing shared.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::{Access, AccessKind, CacheModel, Counts, Inclusion};

/// A line by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cache) struct Line(pub(in crate::cache) u64);

/// What an access to a set did.
pub(in crate::cache) struct Accessed {
    pub(in crate::cache) is_hit: bool,
    pub(in crate::cache) evicted: Option<Line>,
}

/// One set under a policy.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Set {
    ways: Vec<Option<Line>>,
    policy: Policy,
}

#[derive(Clone, Debug)]
enum Policy {
    /// Lines by use, the last used first.
    Lru(Vec<Line>),
    Tree(Tree),
    /// Which were used, and whether bits are set while filling.
    Mru(Vec<bool>, bool),
    Qlru {
        ages: Vec<u8>,
        hit: Vec<u8>,
        insert: u8,
        choice: u8,
        aging: u8,
        only_on_miss: bool,
    },
}

#[derive(Clone, Debug)]
enum Tree {
    Leaf(usize),
    Node { points_right: bool, halves: Box<[Tree; 2]> },
}

impl Tree {
    fn over(ways: std::ops::Range<usize>) -> Self {
        if ways.len() == 1 {
            return Self::Leaf(ways.start);
        }
        let middle = ways.start + ways.len() / 2;
        let halves = Box::new([Self::over(ways.start..middle), Self::over(middle..ways.end)]);
        Self::Node { points_right: false, halves }
    }

    fn victim(&self) -> usize {
        match self {
            Self::Leaf(way) => *way,
            Self::Node { points_right, halves } => halves[usize::from(*points_right)].victim(),
        }
    }

    /// Makes all nodes above `used` point away from it; whether it is below.
    fn point_away(&mut self, used: usize) -> bool {
        match self {
            Self::Leaf(way) => *way == used,
            Self::Node { points_right, halves } => {
                let is_left = halves[0].point_away(used);
                let is_right = halves[1].point_away(used);
                if is_left || is_right {
                    *points_right = is_left;
                }
                is_left || is_right
            }
        }
    }
}

impl Policy {
    fn new(name: &str, ways: usize) -> Self {
        match name {
            "lru" => Self::Lru(Vec::new()),
            "tree_plru" => Self::Tree(Tree::over(0..ways)),
            "mru" => Self::Mru(vec![false; ways], true),
            "mru_n" => Self::Mru(vec![false; ways], false),
            _ => {
                let digits: Vec<u8> =
                    name.chars().filter(char::is_ascii_digit).map(|digit| digit as u8 - b'0').collect();
                let [three, two, insert, choice, aging] = digits[..] else { panic!("{name}") };
                let hit = vec![0, 0, two, three];
                let only_on_miss = name.ends_with("_umo");
                Self::Qlru { ages: vec![3; ways], hit, insert, choice, aging, only_on_miss }
            }
        }
    }
}

/// Ages as the paper's table has it; `used` is not a way before a miss.
fn age(ages: &mut [u8], aging: u8, used: usize) {
    let spares_used = aging == 1 || aging == 3;
    let counts: Vec<bool> = (0..ages.len()).map(|way| !(spares_used && way == used)).collect();
    let add = if aging < 2 {
        let oldest = ages.iter().zip(&counts).filter(|(_, counts)| **counts).map(|(age, _)| *age).max();
        3 - oldest.unwrap_or(3)
    } else {
        u8::from(!ages.contains(&3))
    };
    ages.iter_mut().zip(counts).filter(|(_, counts)| *counts).for_each(|(age, _)| *age += add);
}

impl Set {
    pub(in crate::cache) fn new(name: &str, ways: usize) -> Self {
        Self { ways: vec![None; ways], policy: Policy::new(name, ways) }
    }

    pub(in crate::cache) fn lines(&self) -> impl Iterator<Item = Line> {
        self.ways.iter().flatten().copied()
    }

    pub(in crate::cache) fn has(&self, line: Line) -> bool {
        self.ways.contains(&Some(line))
    }

    pub(in crate::cache) fn remove(&mut self, line: Line) -> bool {
        let way = self.ways.iter().position(|there| *there == Some(line));
        if let Some(way) = way {
            self.ways[way] = None;
            if let Policy::Lru(order) = &mut self.policy {
                order.retain(|other| *other != line);
            }
        }
        way.is_some()
    }

    pub(in crate::cache) fn access(&mut self, line: Line) -> Accessed {
        let is_full = !self.ways.contains(&None);
        let found = self.ways.iter().position(|there| *there == Some(line));
        if let (None, Policy::Qlru { ages, aging, only_on_miss: true, .. }) = (found, &mut self.policy) {
            age(ages, *aging, usize::MAX);
        }
        let way = found.unwrap_or_else(|| self.place(is_full));
        let evicted = if found.is_none() { self.ways[way].replace(line) } else { None };
        match &mut self.policy {
            Policy::Lru(order) => {
                order.retain(|other| *other != line && Some(*other) != evicted);
                order.insert(0, line);
            }
            Policy::Tree(tree) => {
                tree.point_away(way);
            }
            Policy::Mru(used, while_filling) => {
                used[way] |= is_full || *while_filling;
                if used.iter().all(|used| *used) {
                    let alone = used.len() == 1;
                    used.iter_mut().enumerate().for_each(|(other, used)| *used = other == way && !alone);
                }
            }
            Policy::Qlru { ages, hit, insert, aging, only_on_miss, .. } => {
                ages[way] = if found.is_some() { hit[usize::from(ages[way])] } else { *insert };
                if !*only_on_miss {
                    age(ages, *aging, way);
                }
            }
        }
        Accessed { is_hit: found.is_some(), evicted }
    }

    /// The way for a new line.
    fn place(&self, is_full: bool) -> usize {
        if !is_full {
            let mut empty = (0..self.ways.len()).filter(|way| self.ways[*way].is_none());
            let takes_last = matches!(self.policy, Policy::Qlru { choice: 2, .. });
            return if takes_last { empty.next_back() } else { empty.next() }.unwrap();
        }
        match &self.policy {
            Policy::Lru(order) => self.ways.iter().position(|line| line.as_ref() == order.last()).unwrap(),
            Policy::Tree(tree) => tree.victim(),
            Policy::Mru(used, _) => used.iter().position(|used| !used).unwrap(),
            Policy::Qlru { ages, .. } => ages.iter().position(|age| *age == 3).unwrap_or(0),
        }
    }
}

/// A machine with one placement.
pub(in crate::cache) struct Machine<'a> {
    model: &'a CacheModel,
    domain_of: &'a [u32],
    shared: BTreeMap<(u32, u64), Set>,
    private: BTreeMap<(usize, u64), Set>,
    /// Copies in private caches that the shared cache took back.
    gone: BTreeSet<(usize, Line)>,
    /// Whether such a copy makes room at once, as in real caches, instead of when it is replaced.
    pub(in crate::cache) leaves_at_once: bool,
    pub(in crate::cache) counts: Vec<Counts>,
}

impl<'a> Machine<'a> {
    pub(in crate::cache) fn new(model: &'a CacheModel, domain_of: &'a [u32]) -> Self {
        let counts = vec![Counts::default(); domain_of.len()];
        let (shared, private, gone) = Default::default();
        Self { model, domain_of, shared, private, gone, leaves_at_once: false, counts }
    }

    /// Its number: slice and set within, or simply modulo.
    fn set_number(&self, line: Line) -> u64 {
        let masks = self.model.slice_masks();
        if masks.is_empty() {
            return line.0 % self.model.sets();
        }
        let address = line.0 * u64::from(self.model.line_bytes());
        let slice: u64 = masks
            .iter()
            .enumerate()
            .map(|(bit, mask)| u64::from((address & mask).count_ones() % 2) << bit)
            .sum();
        let within = self.model.sets() >> masks.len();
        slice * within + line.0 % within
    }

    fn shared(&mut self, domain: u32, line: Line) -> &mut Set {
        let number = self.set_number(line);
        let model = self.model;
        let new = || Set::new(&model.replacement().to_string(), model.ways() as usize);
        self.shared.entry((domain, number)).or_insert_with(new)
    }

    /// The private set of a vCPU, if the level is modelled.
    fn private(&mut self, vcpu: usize, line: Line) -> Option<&mut Set> {
        let level = self.model.private()?;
        let number = line.0 % self.model.private_sets().unwrap();
        let new = || Set::new(&level.replacement.to_string(), level.ways as usize);
        Some(self.private.entry((vcpu, number)).or_insert_with(new))
    }

    pub(in crate::cache) fn access(&mut self, access: Access) {
        let line = Line(access.address() / u64::from(self.model.line_bytes()));
        let (vcpu, kind) = (usize::from(access.vcpu()), access.kind());
        *by_kind(&mut self.counts[vcpu].accesses, kind) += 1;
        let mut victim = None;
        if let Some(private) = self.private(vcpu, line) {
            let accessed = private.access(line);
            victim = accessed.evicted;
            if let Some(evicted) = victim {
                self.gone.remove(&(vcpu, evicted));
            }
            let was_gone = self.gone.remove(&(vcpu, line));
            if accessed.is_hit && !was_gone {
                return;
            }
        }
        *by_kind(&mut self.counts[vcpu].references, kind) += 1;
        if !self.reference(vcpu, line, victim) {
            *by_kind(&mut self.counts[vcpu].misses, kind) += 1;
        }
    }

    /// Whether the domain has the line, in the shared cache or as the model allows.
    fn reference(&mut self, vcpu: usize, line: Line, victim: Option<Line>) -> bool {
        let domain = self.domain_of[vcpu];
        if self.model.inclusion() == Inclusion::Victim {
            let had = self.shared(domain, line).remove(line);
            let others: Vec<usize> = (0..self.domain_of.len())
                .filter(|other| *other != vcpu && self.domain_of[*other] == domain)
                .collect();
            let is_near = others.into_iter().any(|other| self.private(other, line).unwrap().has(line));
            if let Some(victim) = victim {
                self.shared(domain, victim).access(victim);
            }
            return had || is_near;
        }
        let accessed = self.shared(domain, line).access(line);
        if let (Inclusion::Inclusive, Some(evicted)) = (self.model.inclusion(), accessed.evicted) {
            for other in (0..self.domain_of.len()).filter(|other| self.domain_of[*other] == domain) {
                let leaves_at_once = self.leaves_at_once;
                let Some(private) = self.private(other, evicted) else { continue };
                if leaves_at_once {
                    private.remove(evicted);
                } else if private.has(evicted) {
                    self.gone.insert((other, evicted));
                }
            }
        }
        accessed.is_hit
    }
}

fn by_kind(counts: &mut crate::cache::ByKind, kind: AccessKind) -> &mut u64 {
    match kind {
        AccessKind::Read => &mut counts.reads,
        AccessKind::Write => &mut counts.writes,
        AccessKind::Fetch => &mut counts.fetches,
    }
}
