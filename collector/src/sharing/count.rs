//! The second half of a scan: from the candidates of each bucket to frames per VM and per pair.

use std::sync::{Mutex, PoisonError};

use super::gather::{BUCKET_FRAMES, Candidate};
use super::pairs::Pairs;
use super::zero::{FrameSet, ZeroFinder};

/// A bucket's number and the candidates that each thread found for it.
pub(super) type Bucket = (u64, Vec<Vec<Candidate>>);

/// Pages of one VM that only looking at whole frames can tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramePages {
    /// Pages on zero-filled frames.
    pub(super) zero: u64,
    /// Pages that share their frame with another page of the same VM.
    pub(super) self_shared: u64,
}

/// Counts that one thread made.
#[derive(Debug)]
pub(super) struct Counted {
    /// By VM.
    pub(super) pages: Vec<FramePages>,
    /// See [`Pairs::finish`].
    pub(super) frames: Vec<Vec<u64>>,
}

/// What all threads of the second half share.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    /// The VM of each process; `None` for a process that is gone.
    pub(super) vm_of: Vec<Option<u32>>,
    pub(super) vms: usize,
    pub(super) buckets: Mutex<Vec<Bucket>>,
    pub(super) zero: ZeroFinder<'a>,
}

impl Counting<'_> {
    /// Works until no bucket is left.
    pub(super) fn work(&self) -> Counted {
        let mut table = Table::new(self.vms);
        loop {
            let taken = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((bucket, candidates)) = taken else { break };
            table.bucket(self, bucket, &candidates);
        }
        Counted { pages: table.pages, frames: table.pairs.finish() }
    }
}

/// For each frame of one bucket, which VMs map it, and which map it more than once.
struct Table {
    words: usize,
    mapped: Vec<u64>,
    mapped_again: Vec<u64>,
    seen: FrameSet,
    zero: FrameSet,
    frames: Vec<Candidate>,
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
            pages: vec![FramePages::default(); vms],
            pairs: Pairs::new(vms),
        }
    }

    fn bucket(&mut self, counting: &Counting<'_>, bucket: u64, lists: &[Vec<Candidate>]) {
        let words = self.words;
        let mut repeats = false;
        // Plain loops: this is the innermost work of the half, and a flattened iterator is slower.
        for list in lists {
            for candidate in list {
                let Some(vm) = counting.vm_of[candidate.process()] else { continue };
                let at = candidate.slot() * words + vm as usize / 64;
                let row = self.mapped[at];
                // With one word for each frame the word tells by itself whether the frame is new.
                if row == 0 && (words == 1 || self.seen.insert(candidate.slot())) {
                    self.frames.push(*candidate);
                }
                let bit = 1 << (vm % 64);
                if row & bit != 0 {
                    self.mapped_again[at] |= bit;
                    repeats = true;
                }
                self.mapped[at] = row | bit;
            }
        }
        if words == 1 {
            self.frames.iter().for_each(|candidate| _ = self.seen.insert(candidate.slot()));
        }
        let some_zero = counting.zero.find(bucket, &self.frames, &self.seen, lists, &mut self.zero);
        for candidate in &self.frames {
            let slot = candidate.slot();
            if !self.zero.contains(slot) {
                self.pairs.add(&self.mapped[slot * words..(slot + 1) * words]);
            }
        }
        if repeats || some_zero {
            self.count_pages(counting, lists);
        }
        // Only what was used: a bucket of few candidates costs little.
        for candidate in &self.frames {
            let row = candidate.slot() * words..(candidate.slot() + 1) * words;
            self.mapped[row.clone()].fill(0);
            if repeats {
                self.mapped_again[row].fill(0);
            }
        }
        self.frames.clear();
        self.seen.clear();
        self.zero.clear();
    }

    fn count_pages(&mut self, counting: &Counting<'_>, lists: &[Vec<Candidate>]) {
        for list in lists {
            for candidate in list {
                let Some(vm) = counting.vm_of[candidate.process()] else { continue };
                let pages = &mut self.pages[vm as usize];
                if self.zero.contains(candidate.slot()) {
                    pages.zero += 1;
                } else {
                    let word = self.mapped_again[candidate.slot() * self.words + vm as usize / 64];
                    pages.self_shared += word >> (vm % 64) & 1;
                }
            }
        }
    }
}
