//! The first half of a scan: reads the pagemaps, counts pages that are mapped once, and sorts the
//! others into buckets by frame.

use std::fs::File;
use std::ops::AddAssign;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::SharingError;
use super::huge::HugePart;
use super::pagemap::{ENTRY_BYTES, Entry};
use super::processes::{Process, Region};
use huddle_host::HostError;

/// Frames of one bucket, as a power of two: its tables then fit a second-level cache.
pub(super) const BUCKET_BITS: u32 = 16;
/// Frames of one bucket.
pub(super) const BUCKET_FRAMES: usize = 1 << BUCKET_BITS;
/// No processor has more than 52 bits of physical address, so no bucket has a higher number.
const MAX_BUCKETS: u64 = 1 << 24;
/// Bytes of pagemap read at once: measured, 64 to 256 KiB are equal and 1 MiB (beyond the
/// second-level cache of small machines, with what the kernel touches) is slightly slower.
pub(super) const READ_BYTES: usize = 128 << 10;
/// Candidates per chunk: enough that new chunks are rare, few enough that the unused rest of all last chunks
/// does not matter.
const CHUNK: usize = 256;
/// Entries of pagemap read at once.
const READ_ENTRIES: usize = READ_BYTES / ENTRY_BYTES;
/// Entries that are first checked for uniformity together.
const BLOCK: usize = 64;
const GROUP: usize = 8;
/// Pages one thread takes at a time.
const UNIT_PAGES: u64 = 128 << 10;
/// One of so many entries is sampled for frames that KSM may have merged.
const SAMPLE_ENTRIES: usize = 2048;
/// Distance of the places that are looked at first in successive samples; odd, so that all places come.
const SAMPLE_STEP: usize = 797;
/// Samples one thread takes at most.
const MAX_SAMPLES: usize = 4096;

/// A page that is not the only one on its frame, in 4 bytes: the frame within its bucket, and the
/// position of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate(u32);

impl Candidate {
    #[inline]
    fn new(frame: u64, process: u32) -> Self {
        Self(frame as u32 & (BUCKET_FRAMES as u32 - 1) | process << BUCKET_BITS)
    }

    /// The frame within its bucket.
    #[inline]
    pub(super) fn slot(self) -> u16 {
        self.0 as u16
    }

    /// Position of the process.
    #[inline]
    pub(super) fn process(self) -> usize {
        (self.0 >> BUCKET_BITS) as usize
    }
}

/// Most processes that can be distinguished.
pub(super) const MAX_PROCESSES: usize = 1 << 16;

/// Candidates by bucket: chunks of one bucket each, all in one piece of memory.
///
/// Frames come in any order (used memory is fragmented page by page), so each candidate costs one lookup of
/// its bucket's end, and no more.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// By number of the bucket.
    heads: Vec<Head>,
    /// Chunk after chunk.
    candidates: Vec<Candidate>,
    /// The bucket of each chunk.
    owners: Vec<u32>,
}

/// The next free position of a bucket, and the end of its chunk; equal if there is no room.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    next: usize,
    end: usize,
}

impl Buckets {
    /// Adds the candidates of one process.
    ///
    /// # Errors
    /// A frame that no processor can have.
    #[inline]
    fn scatter(&mut self, frames: &[u64], process: u32) -> Result<(), u64> {
        let mut rest = frames.iter();
        loop {
            // Borrowed here, so that the loop need not look for them again after each store.
            let (heads, candidates) = (self.heads.as_mut_slice(), self.candidates.as_mut_slice());
            let mut without_room = None;
            for frame in rest.by_ref() {
                let head = heads.get_mut((frame >> BUCKET_BITS) as usize);
                let Some(head) = head.filter(|head| head.next != head.end) else {
                    without_room = Some(*frame);
                    break;
                };
                candidates[head.next] = Candidate::new(*frame, process);
                head.next = head.next.wrapping_add(1);
            }
            let Some(frame) = without_room else { return Ok(()) };
            let at = self.begin_chunk((frame >> BUCKET_BITS) as usize).ok_or(frame)?;
            self.candidates[at] = Candidate::new(frame, process);
        }
    }

    /// Starts a chunk and returns the position of its first candidate; `None` for an impossible bucket.
    #[cold]
    fn begin_chunk(&mut self, bucket: usize) -> Option<usize> {
        if bucket as u64 >= MAX_BUCKETS {
            return None;
        }
        if self.heads.len() <= bucket {
            self.heads.resize(bucket + 1, Head::default());
        }
        let next = self.candidates.len();
        self.candidates.resize(next + CHUNK, Candidate(0));
        self.owners.push(bucket as u32);
        self.heads[bucket] = Head { next: next + 1, end: next + CHUNK };
        Some(next)
    }

    /// The candidates by chunk, with the number of their bucket.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (u64, &[Candidate])> {
        let chunks = self.owners.iter().zip(self.candidates.chunks_exact(CHUNK)).enumerate();
        chunks.map(|(position, (bucket, chunk))| {
            let (head, begin) = (self.heads[*bucket as usize], position * CHUNK);
            let is_last = head.end == begin + CHUNK;
            let filled = if is_last { head.next - begin } else { CHUNK };
            (u64::from(*bucket), &chunk[..filled])
        })
    }
}

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
}

/// The work of the first half, in pieces that threads take in turn.
#[derive(Debug)]
pub(super) struct Units<'a> {
    processes: &'a [Process],
    units: Vec<(usize, Region)>,
    next: AtomicUsize,
    zero_page_frame: u64,
    /// Pages of a huge page.
    huge_pages: u64,
}

/// State of one thread.
struct ThreadBuffers {
    buffer: Vec<u8>,
    frames: Box<[u64; READ_ENTRIES]>,
    /// The part of the entries that is of the page cache, or that is not.
    part: Vec<u8>,
}

impl<'a> Units<'a> {
    pub(super) fn new(processes: &'a [Process], zero_page_frame: u64, huge_pages: u64) -> Self {
        let units = split(processes, |_| true);
        Self { processes, units, next: AtomicUsize::new(0), zero_page_frame, huge_pages }
    }

    /// Maximum number of useful threads.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Works until no piece is left.
    pub(super) fn work(&self) -> Result<Gathered, SharingError> {
        let mut buffers = ThreadBuffers {
            buffer: vec![0; READ_BYTES],
            frames: Box::new([0; READ_ENTRIES]),
            part: Vec::new(),
        };
        let mut gathered = Gathered {
            counts: vec![PageCounts::default(); self.processes.len()],
            buckets: Buckets::default(),
            file_buckets: Buckets::default(),
            samples: Vec::new(),
            huge: Vec::new(),
        };
        while let Some((process, region)) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.unit(*process, region, &mut buffers, &mut gathered)?;
        }
        Ok(gathered)
    }

    fn unit(
        &self,
        position: usize,
        region: &Region,
        buffers: &mut ThreadBuffers,
        gathered: &mut Gathered,
    ) -> Result<(), SharingError> {
        let process = &self.processes[position];
        // Counted locally and added once: this is the hot loop of a scan.
        let mut counts = PageCounts::default();
        let mut done = 0;
        while done < region.pages && !process.is_gone() {
            let ThreadBuffers { buffer, frames, part } = buffers;
            let Some(entries) = read_entries(process, region, done, buffer)? else { break };
            let bad_frame = |frame| SharingError::BadFrame { pid: process.id.id, frame };
            let mut anonymous = entries;
            let at = Place { process: position as u32, page: region.first_page + done };
            if region.may_be_file && entries_of(entries).any(Entry::is_file_or_shared) {
                keep(entries, part, Entry::is_file_or_shared);
                let before = counts.resident;
                let found = self.candidates(part, at, &mut counts, frames, &mut gathered.huge);
                counts.file += counts.resident - before;
                gathered.file_buckets.scatter(found, position as u32).map_err(bad_frame)?;
                keep(entries, part, |entry| !entry.is_file_or_shared());
                anonymous = part;
            }
            let found = self.candidates(anonymous, at, &mut counts, frames, &mut gathered.huge);
            gathered.buckets.scatter(found, position as u32).map_err(bad_frame)?;
            if region.may_be_merged && !found.is_empty() && gathered.samples.len() < MAX_SAMPLES {
                let number = gathered.samples.len();
                let parts = entries.chunks(SAMPLE_ENTRIES * ENTRY_BYTES).enumerate();
                let samples = parts.filter_map(|(at, entries)| self.sample(entries, number + at));
                gathered.samples.extend(samples);
            }
            done += (entries.len() / ENTRY_BYTES) as u64;
        }
        gathered.counts[position] += counts;
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
#[derive(Clone, Copy)]
struct Place {
    process: u32,
    page: u64,
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

/// The regions to read, in pieces, with the position of their process.
pub(super) fn split(processes: &[Process], wanted: impl Fn(&Region) -> bool) -> Vec<(usize, Region)> {
    let mut units = Vec::new();
    for (process, scanned) in processes.iter().enumerate() {
        for region in scanned.regions.iter().filter(|region| wanted(region)) {
            let mut done = 0;
            while done < region.pages {
                let pages = UNIT_PAGES.min(region.pages - done);
                units.push((process, Region { first_page: region.first_page + done, pages, ..*region }));
                done += pages;
            }
        }
    }
    units
}

/// Reads the entries of a region after the first `done`, as many as fit in the buffer; `None`, and the
/// process is gone, if there are no more.
pub(super) fn read_entries<'b>(
    process: &Process,
    region: &Region,
    done: u64,
    buffer: &'b mut [u8],
) -> Result<Option<&'b [u8]>, SharingError> {
    let entries = (buffer.len() / ENTRY_BYTES).min((region.pages - done) as usize);
    let wanted = &mut buffer[..entries * ENTRY_BYTES];
    let at = (region.first_page + done) * ENTRY_BYTES as u64;
    let read = read_some(&process.pagemap, wanted, at)
        .map_err(|source| HostError::Read { path: format!("/proc/{}/pagemap", process.id).into(), source })?;
    if read == 0 {
        process.set_gone();
        return Ok(None);
    }
    Ok(Some(&buffer[..read]))
}

/// Reads until at least one whole entry is read; 0 if there is nothing (any more).
fn read_some(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Ok(read) => return Ok(read - read % ENTRY_BYTES),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_keeps_its_parts() {
        for (frame, process) in [(0x12_3456, MAX_PROCESSES - 1), (0xffff, 0)] {
            let candidate = Candidate::new(frame, process as u32);
            assert_eq!(u64::from(candidate.slot()), frame & 0xffff);
            assert_eq!(candidate.process(), process);
        }
    }

    #[test]
    fn buckets_are_kept_apart_and_impossible_frames_refused() {
        let mut buckets = Buckets::default();
        buckets.scatter(&[0xffff, 0x1_0000, 0xfffe, 0x12_3456_7890], 3).unwrap();
        assert_eq!(buckets.scatter(&[7, 1 << 50], 3), Err(1 << 50));
        let found: Vec<_> = buckets.chunks().map(|(number, chunk)| (number, slots(chunk))).collect();
        let expected = [(0, vec![0xffff, 0xfffe, 7]), (1, vec![0]), (0x12_3456, vec![0x7890])];
        assert_eq!(found, expected, "in order of arrival");
    }

    #[test]
    fn chunks_hold_all_candidates() {
        let frames: Vec<u64> = (0..3 * CHUNK as u64 + 5).map(|n| n * 7 % 5000 + ((n % 2) << 16)).collect();
        let mut buckets = Buckets::default();
        for part in frames.chunks(100) {
            buckets.scatter(part, 0).unwrap();
        }
        for bucket in [0, 1] {
            let expected = frames.iter().filter(|frame| **frame >> 16 == bucket).map(|frame| *frame as u16);
            let found = buckets.chunks().filter(|(number, _)| *number == bucket);
            let found: Vec<u16> = found.flat_map(|(_, chunk)| slots(chunk)).collect();
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }

    fn slots(chunk: &[Candidate]) -> Vec<u16> {
        chunk.iter().map(|candidate| candidate.slot()).collect()
    }
}
