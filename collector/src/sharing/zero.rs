//! Which frames are zero-filled: merged frames by their content, and the huge zero page by its flag.
//!
//! A frame that KSM merged is looked into once, through one page that maps it. That costs a system call
//! (about 0.5 to 0.7 us, forty times a pagemap entry), so a BPF program first tells which of many
//! frames are surely not zero-filled ([`super::peek`]), and only the others are read. It is done only
//! where KSM can have been at work: in regions marked mergeable, in processes of which the kernel
//! says that pages were merged (`/proc/PID/ksm_merging_pages`), on pages of anonymous memory.
//!
//! What was found not zero is remembered for the next scan, for exactly as long as that is certain. A
//! merged frame cannot be written while it is one, and only ksmd makes merged frames, by looking at
//! pages, which it counts in `/sys/kernel/mm/ksm/pages_scanned` (Documentation/admin-guide/mm/ksm.rst,
//! Linux 6.18). While that number stands still no frame has become a merged one. When it moves,
//! everything is forgotten. (ksmd counts a page right after it has dealt with it: what is remembered
//! could be wrong only if ksmd were held up between the two for the whole of the next scan.)

use std::collections::HashMap;
use std::fs::File;
use std::sync::Mutex;

use super::gather::{BUCKET_BITS, BUCKET_FRAMES, Candidate};
use super::pagemap::{self, read_entry};
use super::peek::{Peeks, lock};
use super::processes::Process;
use crate::host::{HostRoot, read_number};

/// Bit 21 of `/proc/kpageflags`: a frame that KSM merged.
const FLAG_KSM: u64 = 1 << 21;
/// Bit 24: the zero page or the huge zero page.
const FLAG_ZERO_PAGE: u64 = 1 << 24;
/// Bytes looked at before a whole page is read.
const FIRST_BYTES: usize = 64;
/// Frames of the huge zero page on hosts with pages of 4 KiB.
const HUGE_FRAMES: usize = 512;

/// One bit for each frame of a bucket.
#[derive(Clone, Debug)]
pub(super) struct FrameSet(Box<[u64]>);

impl Default for FrameSet {
    fn default() -> Self {
        Self(vec![0; BUCKET_FRAMES / 64].into_boxed_slice())
    }
}

impl FrameSet {
    #[inline]
    pub(super) fn contains(&self, slot: usize) -> bool {
        self.0[slot / 64] >> (slot % 64) & 1 != 0
    }

    /// Adds a frame; whether it is new.
    #[inline]
    pub(super) fn insert(&mut self, slot: usize) -> bool {
        let word = &mut self.0[slot / 64];
        let bit = 1 << (slot % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// What is known from earlier scans.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// `pages_scanned` when it was found out.
    pages_scanned: Option<u64>,
    /// Frames whose content is not zero, by bucket.
    not_zero: HashMap<u64, FrameSet>,
}

/// Finds zero-filled frames during one scan.
#[derive(Debug)]
pub(super) struct ZeroFinder<'a> {
    root: &'a HostRoot,
    processes: &'a [Process],
    page_bytes: u64,
    kpageflags: Option<File>,
    remembered: &'a Mutex<Remembered>,
    peeks: &'a Mutex<Peeks>,
    pages_scanned: Option<u64>,
}

impl<'a> ZeroFinder<'a> {
    /// To be made after the pagemaps were read: `pages_scanned` must not have moved until then.
    pub(super) fn new(
        root: &'a HostRoot,
        processes: &'a [Process],
        page_bytes: u64,
        remembered: &'a Mutex<Remembered>,
        peeks: &'a Mutex<Peeks>,
    ) -> Self {
        let pages_scanned = read_number::<u64>(&root.sys("kernel/mm/ksm/pages_scanned")).ok();
        {
            let mut known = lock(remembered);
            if known.pages_scanned != pages_scanned || pages_scanned.is_none() {
                *known = Remembered { pages_scanned, not_zero: HashMap::new() };
            }
        }
        let kpageflags = pagemap::open(&root.proc("kpageflags")).ok();
        Self { root, processes, page_bytes, kpageflags, remembered, peeks, pages_scanned }
    }

    /// Whether `/proc/kpageflags` can be read.
    pub(super) fn flags_readable(&self) -> bool {
        self.kpageflags.is_some()
    }

    /// Puts the zero-filled frames of a bucket into `zero`. `frames` has one candidate for each frame,
    /// `seen` all of them, and `all` every candidate of the bucket.
    pub(super) fn find(
        &self,
        bucket: u64,
        frames: &[Candidate],
        seen: &FrameSet,
        all: &[Vec<Candidate>],
        zero: &mut FrameSet,
    ) -> bool {
        let mut found = self.find_huge(bucket, seen, zero);
        if !frames.iter().any(|candidate| candidate.may_be_merged()) {
            return found;
        }
        let mut not_zero = lock(self.remembered).not_zero.remove(&bucket).unwrap_or_default();
        let unknown = |candidate: &&Candidate, not_zero: &FrameSet| {
            let slot = candidate.slot();
            candidate.may_be_merged() && !not_zero.contains(slot) && !zero.contains(slot)
        };
        let asked = frames.iter().filter(|candidate| unknown(candidate, &not_zero));
        self.peek(bucket, &asked.collect::<Vec<_>>(), &mut not_zero);
        let left: Vec<_> = frames.iter().filter(|candidate| unknown(candidate, &not_zero)).collect();
        let mut page = vec![0; self.page_bytes as usize];
        for candidate in left {
            let slot = candidate.slot();
            let frame = bucket << BUCKET_BITS | slot as u64;
            let verdict = self.look(*candidate, frame, &mut page).or_else(|| {
                let mut others = all.iter().flatten().filter(|other| other.slot() == slot);
                others.find_map(|other| self.look(*other, frame, &mut page))
            });
            match verdict {
                Some(true) => {
                    zero.insert(slot);
                    found = true;
                }
                Some(false) => {
                    not_zero.insert(slot);
                }
                // No page that maps it can be read any more: it counts as not zero, this time.
                None => {}
            }
        }
        let mut known = lock(self.remembered);
        // Another scan may have found that ksmd moved on since.
        if self.pages_scanned.is_some() && known.pages_scanned == self.pages_scanned {
            known.not_zero.insert(bucket, not_zero);
        }
        found
    }

    /// Puts the frames whose first bytes are not zero into `not_zero`, many at a time, where this kernel
    /// lets us; whoever is left has to be looked into by itself.
    fn peek(&self, bucket: u64, asked: &[&Candidate], not_zero: &mut FrameSet) {
        if asked.is_empty() {
            return;
        }
        let Some(mut peek) = Peeks::take(self.peeks, self.root, asked.len() as u64) else { return };
        let frames: Vec<u64> =
            asked.iter().map(|candidate| bucket << BUCKET_BITS | candidate.slot() as u64).collect();
        let failed = match peek.not_zero(&frames) {
            Ok(found) => {
                for (candidate, _) in asked.iter().zip(found).filter(|(_, found)| *found) {
                    not_zero.insert(candidate.slot());
                }
                None
            }
            Err(reason) => Some(reason),
        };
        Peeks::give_back(self.peeks, peek, failed);
    }

    /// Whether the content of the frame is zero, seen through one page; `None` where that page cannot be
    /// read or turned out to be elsewhere by now.
    fn look(&self, candidate: Candidate, frame: u64, page: &mut [u8]) -> Option<bool> {
        let process = &self.processes[candidate.process()];
        let number = process.page_at(candidate.index());
        let address = number * self.page_bytes;
        let first = &mut page[..FIRST_BYTES];
        if !process.read_memory(self.root, address, first) {
            return None;
        }
        if !is_zero(first) {
            return Some(false);
        }
        if !process.read_memory(self.root, address, page) {
            return None;
        }
        if !is_zero(page) {
            return Some(false);
        }
        // Zero, but not merged: two processes of one origin, say. Nobody looks for those.
        if self.flags(frame).is_some_and(|flags| flags & FLAG_KSM == 0) {
            return Some(false);
        }
        // It may have been written to, and so have moved to another frame, before it was read.
        let entry = read_entry(&process.pagemap, number).ok().flatten()?;
        (entry.is_present() && entry.frame() == frame).then_some(true)
    }

    /// The huge zero page: a whole aligned block of frames, all of them in use.
    fn find_huge(&self, bucket: u64, seen: &FrameSet, zero: &mut FrameSet) -> bool {
        let mut found = false;
        for (block, words) in seen.0.chunks(HUGE_FRAMES / 64).enumerate() {
            if words.iter().any(|word| *word != u64::MAX) {
                continue;
            }
            let frame = bucket << BUCKET_BITS | (block * HUGE_FRAMES) as u64;
            if self.flags(frame).is_some_and(|flags| flags & FLAG_ZERO_PAGE != 0) {
                found = true;
                (0..HUGE_FRAMES).for_each(|at| _ = zero.insert(block * HUGE_FRAMES + at));
            }
        }
        found
    }

    fn flags(&self, frame: u64) -> Option<u64> {
        read_entry(self.kpageflags.as_ref()?, frame).ok().flatten().map(|entry| entry.0)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
