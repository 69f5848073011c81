//! The second half of a scan: counts frames per VM and per pair from the candidates of each bucket.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use huddle_model::matrix::SharedGroup;

use super::buckets::{BUCKET_BITS, BUCKET_FRAMES, Buckets, Candidate};
use super::frame_set::FrameSet;
use super::huge::{self, HugeParts};
use super::huge_units::{BUCKET_UNITS, HugeUnit, HugeUnits, UNIT_PAGES};
use super::in_threads;
use super::pairs::{Counts, Pairs};
use super::zero::ZeroFrames;

/// A bucket's number and the candidates that all threads found for it, in chunks.
type Bucket<'a> = (u64, Vec<&'a [Candidate]>);

/// Page counts of one VM that need whole frames.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramePages {
    /// Pages on zero-filled frames.
    pub(super) zero: u64,
    /// Pages that share their frame with another page of the same VM.
    pub(super) self_shared: u64,
    /// Pages that were counted as alone on their frame and are not: of huge pages ([`super::huge`]).
    pub(super) not_alone: u64,
}

/// Counts of one thread.
#[derive(Debug)]
pub(super) struct Counted {
    /// By VM.
    pub(super) pages: Vec<FramePages>,
    /// See [`Counts::frames`].
    pub(super) frames: Vec<Vec<u64>>,
    /// Frames of sets of two or more VMs; a set may be there several times.
    pub(super) sets: Vec<SharedGroup>,
    /// Frames of two or more VMs that are in none of them.
    pub(super) rest: u64,
}

impl Counted {
    /// Of nothing.
    pub(super) fn none(vms: usize) -> Self {
        Self {
            pages: vec![FramePages::default(); vms],
            frames: vec![vec![0; vms]; vms],
            sets: Vec::new(),
            rest: 0,
        }
    }

    /// The sum with the counts of other frames.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.add(&other);
        self
    }

    /// Adds the counts of other frames.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, pages) in self.pages.iter_mut().zip(&other.pages) {
            sum.zero += pages.zero;
            sum.self_shared += pages.self_shared;
            sum.not_alone += pages.not_alone;
        }
        for (sums, row) in self.frames.iter_mut().zip(&other.frames) {
            sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        self.sets.extend_from_slice(&other.sets);
        self.rest += other.rest;
    }
}

/// State shared by all threads of the second half.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    /// The VM of each process; `None` for an ended process.
    pub(super) vm_of: Vec<Option<u32>>,
    pub(super) vms: usize,
    pub(super) zero: &'a ZeroFrames,
    pub(super) huge: &'a HugeParts,
}

impl Counting<'_> {
    /// Counts what the threads of the first half found, on at most `threads` threads, the result of each by itself.
    pub(super) fn of<'a>(
        &self,
        found: impl Iterator<Item = &'a Buckets>,
        units: &HugeUnits,
        threads: NonZeroUsize,
    ) -> Vec<Counted> {
        let mut buckets: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (bucket, chunk) in found.flat_map(Buckets::chunks) {
            buckets.entry(bucket).or_default().push(chunk);
        }
        for bucket in units.buckets() {
            buckets.entry(bucket).or_default();
        }
        if buckets.is_empty() {
            return Vec::new();
        }
        let threads = threads.get().min(buckets.len());
        let buckets = Mutex::new(buckets.into_iter().collect());
        in_threads(threads, || self.work(&buckets, units))
    }

    /// Works until no bucket is left.
    fn work(&self, buckets: &Mutex<Vec<Bucket<'_>>>, units: &HugeUnits) -> Counted {
        let mut table = Table::new(self.vms);
        loop {
            let next = buckets.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((bucket, candidates)) = next else { break };
            table.bucket(self, bucket, &candidates, units.of_bucket(bucket));
        }
        let Counts { frames, sets, rest } = table.pairs.finish();
        Counted { pages: table.pages, frames, sets, rest }
    }
}

/// For each frame of one bucket, which VMs map it, and which map it more than once.
struct Table {
    words: usize,
    mapped: Vec<u64>,
    mapped_again: Vec<u64>,
    seen: FrameSet,
    zero: FrameSet,
    /// The mapped frames, by their slots.
    frames: Vec<u16>,
    /// Pages of huge pages on them, with their VM.
    not_alone: Vec<(u16, u32)>,
    /// Huge pages that are counted page by page: position within the bucket, and VM.
    expanded: Vec<(usize, u32)>,
    pages: Vec<FramePages>,
    pairs: Pairs,
}

impl Table {
    fn new(vms: usize) -> Self {
        let words = vms.div_ceil(64);
        Self {
            words,
            mapped: vec![0; words * BUCKET_FRAMES],
            mapped_again: vec![0; words * BUCKET_FRAMES],
            seen: FrameSet::default(),
            zero: FrameSet::default(),
            frames: Vec::new(),
            not_alone: Vec::new(),
            expanded: Vec::new(),
            pages: vec![FramePages::default(); vms],
            pairs: Pairs::new(vms),
        }
    }

    fn bucket(&mut self, counting: &Counting<'_>, bucket: u64, lists: &[&[Candidate]], units: &[HugeUnit]) {
        let words = self.words;
        let mut repeats = match words {
            1 => self.map_in_words(counting, lists),
            _ => self.map_in_rows(counting, lists),
        };
        if !units.is_empty() {
            repeats |= self.map_units(counting, bucket, units);
        }
        repeats |= self.map_huge(counting, bucket);
        let mapped = &self.mapped;
        let all_mapped = |slots: Range<usize>| match words {
            1 => mapped[slots].iter().all(|row| *row != 0),
            _ => mapped[slots.start * words..slots.end * words]
                .chunks(words)
                .all(|row| row.iter().any(|word| *word != 0)),
        };
        let some_zero = counting.zero.of_bucket(bucket, all_mapped, &mut self.zero);
        match words {
            1 => self.add_words(some_zero),
            _ => self.add_rows(some_zero),
        }
        if repeats || some_zero {
            self.count_pages(counting, lists);
        }
        if repeats {
            for slot in self.frames.iter().map(|slot| usize::from(*slot)) {
                self.mapped_again[slot * words..(slot + 1) * words].fill(0);
            }
        }
        self.frames.clear();
        self.not_alone.clear();
        self.expanded.clear();
        self.seen.clear();
        self.zero.clear();
    }

    /// Counts the frames that are mapped, for up to 64 VMs, except zero-filled ones if there are any, and clears their
    /// entries. Only those that are used: a bucket with few candidates costs little.
    fn add_words(&mut self, some_zero: bool) {
        let Ok(mapped) = <&mut [u64; BUCKET_FRAMES]>::try_from(&mut self.mapped[..]) else { return };
        for slot in self.frames.iter().map(|slot| usize::from(*slot)) {
            let row = std::mem::take(&mut mapped[slot]);
            if !some_zero || !self.zero.contains(slot) {
                self.pairs.add_word(row);
            }
        }
    }

    /// The same for any number of VMs.
    fn add_rows(&mut self, some_zero: bool) {
        for slot in self.frames.iter().map(|slot| usize::from(*slot)) {
            let row = slot * self.words..(slot + 1) * self.words;
            if !some_zero || !self.zero.contains(slot) {
                self.pairs.add(&self.mapped[row.clone()]);
            }
            self.mapped[row].fill(0);
        }
    }

    /// Records which VMs map each frame, and whether one does more than once, for up to 64 VMs: the word of a
    /// frame then shows by itself whether the frame is new.
    fn map_in_words(&mut self, counting: &Counting<'_>, lists: &[&[Candidate]]) -> bool {
        let bits: Vec<u64> = counting.vm_of.iter().map(|vm| vm.map_or(0, |vm| 1 << vm)).collect();
        let mut repeats = false;
        // As long as there are slots, which spares a check for each.
        let Ok(mapped) = <&mut [u64; BUCKET_FRAMES]>::try_from(&mut self.mapped[..]) else { return false };
        // Plain loops: this is the inner loop, and a flattened iterator is slower.
        for list in lists {
            for candidate in *list {
                let (slot, bit) = (usize::from(candidate.slot()), bits[candidate.process()]);
                let row = mapped[slot];
                if row == 0 && bit != 0 {
                    self.frames.push(candidate.slot());
                }
                if row & bit != 0 {
                    self.mapped_again[slot] |= bit;
                    repeats = true;
                }
                mapped[slot] = row | bit;
            }
        }
        repeats
    }

    /// The same for any number of VMs, with a row of words for each frame.
    fn map_in_rows(&mut self, counting: &Counting<'_>, lists: &[&[Candidate]]) -> bool {
        let mut repeats = false;
        for list in lists {
            for candidate in *list {
                let Some(vm) = counting.vm_of[candidate.process()] else { continue };
                let slot = usize::from(candidate.slot());
                let (at, bit) = (slot * self.words + vm as usize / 64, 1 << (vm % 64));
                if self.mapped[at] == 0 && self.seen.insert(slot) {
                    self.frames.push(candidate.slot());
                }
                if self.mapped[at] & bit != 0 {
                    self.mapped_again[at] |= bit;
                    repeats = true;
                }
                self.mapped[at] |= bit;
            }
        }
        repeats
    }

    /// Counts huge pages that nothing else maps a part of as a whole, and records the VMs that map the others page by
    /// page; whether one of them maps a frame more than once.
    fn map_units(&mut self, counting: &Counting<'_>, bucket: u64, units: &[HugeUnit]) -> bool {
        let mut in_parts = [false; BUCKET_UNITS];
        self.frames.iter().for_each(|slot| in_parts[usize::from(*slot) / UNIT_PAGES] = true);
        let first = bucket << BUCKET_BITS;
        for part in counting.huge.within(first..first + BUCKET_FRAMES as u64) {
            in_parts[(part.frame - first) as usize / UNIT_PAGES] = true;
        }
        let mut repeats = false;
        let (mut row, mut again) = (vec![0u64; self.words], vec![0u64; self.words]);
        for group in units.chunk_by(|left, right| left.frame() == right.frame()) {
            let vms = || group.iter().filter_map(|unit| counting.vm_of[usize::from(unit.process)]);
            if in_parts[group[0].within_bucket()] {
                for vm in vms() {
                    repeats |= self.expand(group[0].within_bucket(), vm);
                }
                continue;
            }
            row.fill(0);
            again.fill(0);
            for vm in vms() {
                let (word, bit) = (vm as usize / 64, 1 << (vm % 64));
                again[word] |= row[word] & bit;
                row[word] |= bit;
            }
            let pages = UNIT_PAGES as u64;
            if group.iter().any(|unit| unit.is_clean) && counting.zero.is_zero_page(group[0].frame()) {
                vms().for_each(|vm| self.pages[vm as usize].zero += pages);
                continue;
            }
            if row.iter().any(|word| *word != 0) {
                self.pairs.add_frames(&row, pages);
            }
            for vm in vms() {
                self.pages[vm as usize].self_shared += (again[vm as usize / 64] >> (vm % 64) & 1) * pages;
            }
        }
        repeats
    }

    /// Records that a VM maps each frame of a huge page.
    fn expand(&mut self, unit: usize, vm: u32) -> bool {
        let (word, bit) = (vm as usize / 64, 1 << (vm % 64));
        let mut repeats = false;
        for slot in unit * UNIT_PAGES..(unit + 1) * UNIT_PAGES {
            let row = &mut self.mapped[slot * self.words..(slot + 1) * self.words];
            if row.iter().all(|word| *word == 0) {
                self.frames.push(slot as u16);
            }
            if row[word] & bit != 0 {
                self.mapped_again[slot * self.words + word] |= bit;
                repeats = true;
            }
            row[word] |= bit;
        }
        self.expanded.push((unit, vm));
        repeats
    }

    /// Records the VMs that map one of the frames by a huge page, and whether one of them maps it more than once.
    fn map_huge(&mut self, counting: &Counting<'_>, bucket: u64) -> bool {
        let first = bucket << BUCKET_BITS;
        let parts = counting.huge.within(first..first + BUCKET_FRAMES as u64);
        if parts.is_empty() {
            return false;
        }
        let mut repeats = false;
        for slot in &self.frames {
            let part = huge::find(parts, first + u64::from(*slot));
            let Some(vm) = part.and_then(|part| counting.vm_of[part.process as usize]) else { continue };
            let (at, bit) = (usize::from(*slot) * self.words + vm as usize / 64, 1 << (vm % 64));
            if self.mapped[at] & bit != 0 {
                self.mapped_again[at] |= bit;
                repeats = true;
            }
            self.mapped[at] |= bit;
            self.pages[vm as usize].not_alone += 1;
            self.not_alone.push((*slot, vm));
        }
        repeats
    }

    fn count_pages(&mut self, counting: &Counting<'_>, lists: &[&[Candidate]]) {
        let mut count = |slot: u16, vm: u32| {
            let (pages, slot) = (&mut self.pages[vm as usize], usize::from(slot));
            if self.zero.contains(slot) {
                pages.zero += 1;
            } else {
                let word = self.mapped_again[slot * self.words + vm as usize / 64];
                pages.self_shared += word >> (vm % 64) & 1;
            }
        };
        for list in lists {
            for candidate in *list {
                let Some(vm) = counting.vm_of[candidate.process()] else { continue };
                count(candidate.slot(), vm);
            }
        }
        for (unit, vm) in &self.expanded {
            (unit * UNIT_PAGES..(unit + 1) * UNIT_PAGES).for_each(|slot| count(slot as u16, *vm));
        }
        self.not_alone.iter().for_each(|(slot, vm)| count(*slot, *vm));
    }
}
