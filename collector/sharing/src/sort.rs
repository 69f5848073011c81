//! Entries of pagemaps, or in their format: pages that are mapped once are counted, and the others sorted into buckets
//! by frame.

use std::ops::AddAssign;

use super::buckets::Buckets;
use super::huge::HugePart;
use super::huge_units::HugeUnit;
use super::pagemap::{ENTRY_BYTES, Entry};
use super::processes::Region;

/// Bytes of entries sorted at once, at most: as much as is read of a pagemap at once. Measured, 64 to 256 KiB are equal
/// and 1 MiB (beyond the second-level cache of small machines, with what the kernel touches) is slightly slower.
pub(super) const READ_BYTES: usize = 128 << 10;
const READ_ENTRIES: usize = READ_BYTES / ENTRY_BYTES;
/// Entries that are first checked for uniformity together.
const BLOCK: usize = 64;
const GROUP: usize = 8;
/// One of so many entries is sampled for frames that KSM may have merged.
const SAMPLE_ENTRIES: usize = 2048;
/// Distance of the places that are looked at first in successive samples; odd, so that all places come.
pub(super) const SAMPLE_STEP: usize = 797;
/// Samples one thread takes at most.
pub(super) const MAX_SAMPLES: usize = 4096;

/// Counts from the pagemap of one process alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PageCounts {
    /// Pages in physical memory.
    pub(super) resident: u64,
    /// Pages that are alone on their frame.
    pub(super) exclusive: u64,
    /// Pages on the kernel's zero page.
    pub(super) zero_page: u64,
    /// Pages on frames of the page cache.
    pub(super) file: u64,
}

impl AddAssign for PageCounts {
    fn add_assign(&mut self, other: Self) {
        self.resident += other.resident;
        self.exclusive += other.exclusive;
        self.zero_page += other.zero_page;
        self.file += other.file;
    }
}

/// Results of one thread.
#[derive(Debug)]
pub(super) struct Gathered {
    /// By process.
    pub(super) counts: Vec<PageCounts>,
    /// Candidates on frames of anonymous memory.
    pub(super) buckets: Buckets,
    /// Candidates on frames of the page cache: a frame is one or the other.
    pub(super) file_buckets: Buckets,
    /// A few of the frames that KSM may have merged; empty only if there are none.
    pub(super) samples: Vec<u64>,
    /// Frames that are counted as mapped once, and may be mapped by others.
    pub(super) huge: Vec<HugePart>,
    /// Candidates of 512 pages each, on frames of anonymous memory.
    pub(super) huge_units: Vec<HugeUnit>,
    /// The same on frames of the page cache.
    pub(super) huge_file_units: Vec<HugeUnit>,
    /// Candidates of either kind that were read, where accessed bits were cleared.
    pub(super) read_buckets: Buckets,
    /// Candidates of 512 pages each that were read.
    pub(super) read_units: Vec<HugeUnit>,
}

impl Gathered {
    /// Nothing, of so many processes.
    pub(super) fn new(processes: usize) -> Self {
        Self {
            counts: vec![PageCounts::default(); processes],
            buckets: Buckets::default(),
            file_buckets: Buckets::default(),
            samples: Vec::new(),
            huge: Vec::new(),
            huge_units: Vec::new(),
            huge_file_units: Vec::new(),
            read_buckets: Buckets::default(),
            read_units: Vec::new(),
        }
    }
}

/// What sorting needs besides its input.
#[derive(Debug)]
pub(super) struct SortBuffers {
    frames: Box<[u64; READ_ENTRIES]>,
    /// The part of the entries that is of the page cache, or that is not.
    part: Vec<u8>,
}

impl Default for SortBuffers {
    fn default() -> Self {
        Self { frames: Box::new([0; READ_ENTRIES]), part: Vec::new() }
    }
}

/// Tells pages that are mapped once from others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sorter {
    pub(super) zero_page_frame: u64,
    /// Pages of a huge page.
    pub(super) huge_pages: u64,
}

impl Sorter {
    /// Counts and sorts entries of a region.
    ///
    /// # Errors
    /// A frame that no processor can have.
    #[inline]
    pub(super) fn sort(
        &self,
        entries: &[u8],
        at: Place,
        region: &Region,
        buffers: &mut SortBuffers,
        counts: &mut PageCounts,
        gathered: &mut Gathered,
    ) -> Result<(), u64> {
        let SortBuffers { frames, part } = buffers;
        let mut anonymous = entries;
        if region.may_be_file && entries_of(entries).any(Entry::is_file_or_shared) {
            keep(entries, part, Entry::is_file_or_shared);
            let before = counts.resident;
            let found = self.candidates(part, at, counts, frames, &mut gathered.huge);
            counts.file += counts.resident - before;
            gathered.file_buckets.scatter(found, at.process)?;
            keep(entries, part, |entry| !entry.is_file_or_shared());
            anonymous = part;
        }
        let found = self.candidates(anonymous, at, counts, frames, &mut gathered.huge);
        gathered.buckets.scatter(found, at.process)?;
        if region.may_be_merged && !found.is_empty() && gathered.samples.len() < MAX_SAMPLES {
            let number = gathered.samples.len();
            let parts = entries.chunks(SAMPLE_ENTRIES * ENTRY_BYTES).enumerate();
            let samples = parts.filter_map(|(at, entries)| self.sample(entries, number + at));
            gathered.samples.extend(samples);
        }
        Ok(())
    }

    /// Counts entries that need no further look, and passes on the frames of the others; adds what may be huge pages to
    /// `huge`.
    #[inline]
    fn candidates<'f>(
        &self,
        entries: &[u8],
        at: Place,
        counts: &mut PageCounts,
        frames: &'f mut [u64; READ_ENTRIES],
        huge: &mut Vec<HugePart>,
    ) -> &'f [u64] {
        let mut sums = Sums { zero_page_frame: self.zero_page_frame, kept: 0, counts: PageCounts::default() };
        let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
        // From one border of huge pages to the next.
        let before = (at.page.next_multiple_of(self.huge_pages) - at.page).min(entries.len() as u64);
        let (first, rest) = entries.split_at(before as usize);
        let mut page = at.page;
        for part in std::iter::once(first).chain(rest.chunks(self.huge_pages as usize)) {
            let alone = sums.counts.exclusive;
            let (blocks, rest) = part.as_chunks::<BLOCK>();
            for block in blocks {
                // Most memory is uniform and counted at once.
                if sums.all_exclusive(block) {
                    continue;
                }
                let (groups, _) = block.as_chunks::<GROUP>();
                groups.iter().for_each(|group| sums.group(group, frames));
            }
            rest.chunks(GROUP).for_each(|group| sums.group(group, frames));
            if sums.counts.exclusive - alone == part.len() as u64 {
                huge.extend(HugePart::of(part, page, self.huge_pages, at.process));
            }
            page += part.len() as u64;
        }
        *counts += sums.counts;
        &frames[..sums.kept]
    }

    /// A frame among `entries` that KSM may have merged: the first from a place on that is another one with each number.
    fn sample(&self, entries: &[u8], number: usize) -> Option<u64> {
        let (before, after) =
            entries.split_at(number * SAMPLE_STEP % SAMPLE_ENTRIES * ENTRY_BYTES % entries.len());
        let mut entries = entries_of(after).chain(entries_of(before));
        entries.find(|entry| entry.may_be_merged(self.zero_page_frame)).map(Entry::frame)
    }
}

/// Where entries are: position of the process, and number of the first page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) process: u32,
    pub(super) page: u64,
}

/// Counts of one buffer: kept in registers, and added without checks for overflow, which no buffer can cause.
struct Sums {
    zero_page_frame: u64,
    /// Frames of pages that are not alone on them.
    kept: usize,
    counts: PageCounts,
}

impl Sums {
    /// Counts the entries if each page is alone on its frame; otherwise nothing.
    #[inline(always)]
    fn all_exclusive(&mut self, entries: &[[u8; ENTRY_BYTES]]) -> bool {
        let all = Entry(entries.iter().fold(u64::MAX, |all, bytes| all & u64::from_ne_bytes(*bytes)));
        let alike = all.is_present() && all.is_exclusive();
        if alike {
            self.counts.resident = self.counts.resident.wrapping_add(entries.len() as u64);
            self.counts.exclusive = self.counts.exclusive.wrapping_add(entries.len() as u64);
        }
        alike
    }

    /// Counts entries that need no further look, and keeps the frames of the others.
    #[inline(always)]
    fn group(&mut self, group: &[[u8; ENTRY_BYTES]], frames: &mut [u64; READ_ENTRIES]) {
        if self.all_exclusive(group) {
            return;
        }
        let entries = || group.iter().map(|bytes| Entry(u64::from_ne_bytes(*bytes)));
        let (all, any) = entries().fold((u64::MAX, 0), |(all, any), entry| (all & entry.0, any | entry.0));
        if !Entry(any).is_present() {
            return;
        }
        let counts = &mut self.counts;
        let zero_pages = || entries().any(|entry| entry.frame() == self.zero_page_frame);
        if Entry(all).is_present() && !Entry(any).is_exclusive() && !zero_pages() {
            counts.resident = counts.resident.wrapping_add(group.len() as u64);
            if let Some(room) = frames.get_mut(self.kept..self.kept.wrapping_add(group.len())) {
                room.iter_mut().zip(entries()).for_each(|(to, entry)| *to = entry.frame());
                self.kept = self.kept.wrapping_add(group.len());
            }
            return;
        }
        // Without branches: shared and unshared entries alternate unpredictably.
        for entry in entries() {
            let (present, alone) = (entry.is_present(), entry.is_exclusive());
            let zero_page = entry.frame() == self.zero_page_frame;
            counts.resident = counts.resident.wrapping_add(present.into());
            counts.exclusive = counts.exclusive.wrapping_add((present & alone).into());
            counts.zero_page = counts.zero_page.wrapping_add((present & !alone & zero_page).into());
            frames[self.kept % READ_ENTRIES] = entry.frame();
            self.kept = self.kept.wrapping_add((present & !alone & !zero_page).into());
        }
    }
}

fn entries_of(bytes: &[u8]) -> impl Iterator<Item = Entry> {
    bytes.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes)
}

/// Copies the entries to `part`; those that are not wanted become those of pages that are not present.
fn keep(entries: &[u8], part: &mut Vec<u8>, wanted: impl Fn(Entry) -> bool) {
    part.clear();
    let kept = entries_of(entries).map(|entry| if wanted(entry) { entry.0 } else { 0 });
    part.extend(kept.flat_map(u64::to_ne_bytes));
}
