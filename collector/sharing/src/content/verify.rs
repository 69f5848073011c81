//! The second half of a content scan: pages with equal hashes are compared byte by byte, and equal pages are
//! counted.
//!
//! Pages on one frame are one page and need no comparison. Of the others one page per frame is read, each
//! once. Groups are processed in the order of their first page (see [`keep_groups`]).

use std::collections::BTreeMap;

use super::groups::{group_at, keep_groups};
use super::memory::{GuestMemory, Slot};
use super::records::Record;
use super::tally::Tally;
use super::throttle::Throttle;

/// Limit of different contents per hash; further ones count as not shared.
const MAX_CLASSES: usize = 4;

/// Positions of pages.
pub(super) struct Spaces {
    /// For each space its first page, ascending.
    first: Vec<u64>,
    vm: Vec<usize>,
}

impl Spaces {
    /// Numbers the pages of all spaces consecutively; also returns their total.
    pub(super) fn new(spaces: &[(usize, u64)]) -> (Self, u64) {
        let mut numbered = Self { first: Vec::new(), vm: Vec::new() };
        let mut pages = 0u64;
        for (vm, slots) in spaces {
            numbered.first.push(pages);
            numbered.vm.push(*vm);
            pages = pages.saturating_add(*slots);
        }
        (numbered, pages)
    }

    /// The first page of a space.
    pub(super) fn first(&self, space: usize) -> u64 {
        self.first[space]
    }

    pub(super) fn space(&self, page: u64) -> usize {
        // A space without pages begins where the next one does: the last one that begins here has the page.
        self.first.partition_point(|first| *first <= page) - 1
    }

    pub(super) fn vm(&self, page: u64) -> usize {
        self.vm[self.space(page)]
    }
}

/// The comparison of the pages of one slice.
pub(super) struct Verifier<'a, M> {
    memory: &'a mut M,
    spaces: &'a Spaces,
    throttle: &'a mut Throttle,
    tally: &'a mut Tally,
    /// Groups compared together, and pages read together.
    batch_pages: usize,
    buffers: BatchBuffers,
    /// Pages with equal hashes that then differed or were gone.
    pub(super) differing: u64,
}

/// Pages of one hash that are really equal.
struct Class {
    content: Vec<u8>,
    /// By VM.
    times: BTreeMap<usize, u32>,
    pages: usize,
}

/// Buffers for one batch of groups, reused by the next.
#[derive(Default)]
struct BatchBuffers {
    /// For each group of the batch its first page's content.
    contents: Vec<u8>,
    /// Which groups have one.
    known: Vec<bool>,
    /// The pages to read: position of the group in the batch, and the record.
    wanted: Vec<(usize, Record)>,
    slots: Vec<Slot>,
    /// The result for each wanted page.
    equal: Vec<bool>,
}

impl<'a, M: GuestMemory> Verifier<'a, M> {
    pub(super) fn new(
        memory: &'a mut M,
        spaces: &'a Spaces,
        throttle: &'a mut Throttle,
        tally: &'a mut Tally,
    ) -> Self {
        let batch_pages = memory.batch_pages();
        let buffers =
            BatchBuffers { contents: vec![0; batch_pages * memory.page_bytes()], ..BatchBuffers::default() };
        Self { memory, spaces, throttle, tally, batch_pages, buffers, differing: 0 }
    }

    /// Counts the sorted pages of one slice; leaves them unordered.
    pub(super) fn count(&mut self, records: &mut Vec<Record>) {
        let (spaces, tally) = (self.spaces, &mut *self.tally);
        // A page with a unique hash needs no comparison.
        let groups = keep_groups(records, self.throttle, |group| {
            if let [only] = group {
                tally.unique(spaces.vm(only.page()));
            }
            group.len() > 1
        });
        for batch in groups.chunks(self.batch_pages) {
            let batch: Vec<&[Record]> = batch.iter().map(|start| group_at(records, *start)).collect();
            self.batch(&batch);
            self.throttle.rest();
        }
    }

    fn batch(&mut self, batch: &[&[Record]]) {
        self.buffers.known.clear();
        self.buffers.known.resize(batch.len(), false);
        // All first pages, then all second ones: those of neighbouring groups mostly are neighbours.
        let most = batch.iter().map(|group| group.len()).max().unwrap_or(0);
        if batch.iter().all(|group| on_one_frame(group)) {
            batch.iter().for_each(|group| self.content(group));
            return;
        }
        if most > self.batch_pages {
            batch.iter().for_each(|group| self.apart(group));
            return;
        }
        let mut suspect = vec![false; batch.len()];
        for column in 0..most {
            self.buffers.wanted.clear();
            for (position, group) in batch.iter().enumerate() {
                let Some(record) = group.get(column) else { continue };
                let as_before = column > 0 && same_frame(group[column - 1], *record);
                if !as_before && !on_one_frame(group) && !suspect[position] {
                    self.buffers.wanted.push((position, *record));
                }
            }
            self.compare_wanted();
            for ((position, _), equal) in self.buffers.wanted.iter().zip(&self.buffers.equal) {
                suspect[*position] |= !equal;
            }
        }
        for (group, suspect) in batch.iter().zip(suspect) {
            if suspect { self.apart(group) } else { self.content(group) }
        }
    }

    /// Reads the wanted pages and compares each with the first page of its group, or makes it the first.
    fn compare_wanted(&mut self) {
        let BatchBuffers { contents, known, wanted, slots, equal } = &mut self.buffers;
        // Sorted by space and position, so that neighbours are read together.
        wanted.sort_unstable_by_key(|(_, record)| record.page());
        equal.clear();
        equal.resize(wanted.len(), false);
        let page_bytes = self.memory.page_bytes();
        let mut at = 0;
        while at < wanted.len() {
            let space = self.spaces.space(wanted[at].1.page());
            let first = self.spaces.first(space);
            let of_space =
                wanted[at..].iter().take_while(|(_, record)| self.spaces.space(record.page()) == space);
            slots.clear();
            slots.extend(of_space.map(|(_, record)| Slot { number: record.page() - first, frame: 0 }));
            self.memory.read(space, slots, &mut |position, bytes| {
                let (group, _) = wanted[at + position];
                let content = &mut contents[group * page_bytes..][..page_bytes];
                equal[at + position] = if known[group] {
                    content == bytes
                } else {
                    content.copy_from_slice(bytes);
                    known[group] = true;
                    true
                };
            });
            at += slots.len();
            self.throttle.rest();
        }
    }

    /// A group whose pages are not all known to be equal, or a very large one.
    fn apart(&mut self, group: &[Record]) {
        let (spaces, page_bytes) = (self.spaces, self.memory.page_bytes());
        let mut classes: Vec<Class> = Vec::new();
        let mut items = group.chunk_by(|left, right| same_frame(*left, *right)).peekable();
        let (mut batch, mut slots, mut class_of) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(item) = items.next() {
            let space = spaces.space(item[0].page());
            batch.clear();
            batch.push(item);
            while batch.len() < self.batch_pages
                && let Some(item) = items.next_if(|item| spaces.space(item[0].page()) == space)
            {
                batch.push(item);
            }
            let slot = |item: &&[Record]| Slot { number: item[0].page() - spaces.first(space), frame: 0 };
            slots.clear();
            slots.extend(batch.iter().map(slot));
            class_of.clear();
            class_of.resize(slots.len(), None);
            self.memory.read(space, &slots, &mut |position, bytes| {
                let known = classes.iter().position(|class| class.content == bytes);
                class_of[position] = known.or_else(|| {
                    (classes.len() < MAX_CLASSES).then(|| {
                        let content = Vec::with_capacity(page_bytes);
                        classes.push(Class { content, times: BTreeMap::new(), pages: 0 });
                        let class = classes.len() - 1;
                        classes[class].content.extend_from_slice(bytes);
                        class
                    })
                });
            });
            for (item, class) in batch.iter().zip(&class_of) {
                match class {
                    Some(class) => {
                        let class: &mut Class = &mut classes[*class];
                        for record in *item {
                            *class.times.entry(spaces.vm(record.page())).or_default() += 1;
                        }
                        class.pages += item.len();
                    }
                    None => item.iter().for_each(|record| self.content(&[*record])),
                }
            }
            self.throttle.rest();
        }
        let largest = classes.iter().map(|class| class.pages).max().unwrap_or(0);
        self.differing += (group.len() - largest) as u64;
        for class in classes {
            self.tally.content(class.times.into_iter());
        }
    }

    fn content(&mut self, pages: &[Record]) {
        let spaces = self.spaces;
        self.tally.content(pages.iter().map(|record| (spaces.vm(record.page()), 1)));
    }
}

fn same_frame(left: Record, right: Record) -> bool {
    left.frame() != 0 && left.frame() == right.frame()
}

fn on_one_frame(group: &[Record]) -> bool {
    group.windows(2).all(|pair| same_frame(pair[0], pair[1]))
}
