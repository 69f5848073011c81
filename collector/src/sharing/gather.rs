//! The first half of a scan: reads the pagemaps, counts pages that are mapped once, and sorts the
//! others into buckets by frame.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::SharingError;
use super::pagemap::{ENTRY_BYTES, Entry};
use super::processes::{Process, Region};
use crate::host::HostError;

/// Frames of one bucket, as a power of two: its tables then fit a second-level cache.
pub(super) const BUCKET_BITS: u32 = 16;
/// Frames of one bucket.
pub(super) const BUCKET_FRAMES: usize = 1 << BUCKET_BITS;
/// No processor addresses more than 52 bits of physical memory, so no bucket has a higher number.
const MAX_BUCKETS: u64 = 1 << 24;
/// Bytes of pagemap read at once: measured, 64 to 256 KiB are equal and 1 MiB (beyond the
/// second-level cache of small machines, with what the kernel touches) is slightly slower.
pub(super) const READ_BYTES: usize = 128 << 10;
/// Candidates for which the first chunk of a bucket has room; each further one has twice as much.
const FIRST_CHUNK: usize = 128;
/// Most candidates of a chunk.
const LARGEST_CHUNK: usize = 8 << 10;
/// Entries of pagemap read at once.
const READ_ENTRIES: usize = READ_BYTES / ENTRY_BYTES;
/// Entries that are looked at together first.
const GROUP: usize = 8;
/// Pages one thread takes at a time.
const UNIT_PAGES: u64 = 128 << 10;
/// Of so many entries one is a sample of what KSM may have merged.
const SAMPLE_ENTRIES: usize = 2048;
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

/// Most processes that can be told apart.
pub(super) const MAX_PROCESSES: usize = 1 << 16;

/// Candidates by bucket.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Position in `lists` plus 1, by number of the bucket; 0 where there is none.
    places: Vec<u32>,
    pub(super) lists: Vec<BucketList>,
}

/// The candidates of one bucket, in chunks, so that none is ever moved.
#[derive(Debug)]
pub(super) struct BucketList {
    /// The number of the bucket.
    pub(super) number: u64,
    pub(super) chunks: Vec<Vec<Candidate>>,
}

impl Buckets {
    /// Takes in the candidates of one process.
    ///
    /// # Errors
    /// A frame that no processor can have.
    #[inline]
    fn scatter(&mut self, frames: &[u64], process: u32) -> Result<(), u64> {
        let mut rest = frames;
        while let Some(first) = rest.first() {
            // Neighbours are mostly of one bucket.
            let bucket = first >> BUCKET_BITS;
            let run = rest.iter().position(|frame| frame >> BUCKET_BITS != bucket).unwrap_or(rest.len());
            let (of_bucket, others) = rest.split_at(run);
            self.list(bucket).ok_or(*first)?.extend(of_bucket, process);
            rest = others;
        }
        Ok(())
    }

    #[inline]
    fn list(&mut self, bucket: u64) -> Option<&mut BucketList> {
        // A place of 0 becomes a position that no list has.
        let place = self.places.get(bucket as usize).copied().unwrap_or(0) as usize;
        if place == 0 {
            return self.new_list(bucket);
        }
        self.lists.get_mut(place - 1)
    }

    #[cold]
    fn new_list(&mut self, bucket: u64) -> Option<&mut BucketList> {
        if bucket >= MAX_BUCKETS {
            return None;
        }
        if self.places.len() <= bucket as usize {
            self.places.resize(bucket as usize + 1, 0);
        }
        self.lists.push(BucketList { number: bucket, chunks: vec![Vec::with_capacity(FIRST_CHUNK)] });
        self.places[bucket as usize] = self.lists.len() as u32;
        self.lists.last_mut()
    }
}

impl BucketList {
    #[inline]
    fn extend(&mut self, mut frames: &[u64], process: u32) {
        while let Some(chunk) = self.chunks.last_mut() {
            let (now, later) = frames.split_at(frames.len().min(chunk.capacity() - chunk.len()));
            chunk.extend(now.iter().map(|frame| Candidate::new(*frame, process)));
            if later.is_empty() {
                return;
            }
            frames = later;
            let larger = (2 * chunk.capacity()).min(LARGEST_CHUNK);
            self.chunks.push(Vec::with_capacity(larger));
        }
    }
}

/// What the pagemap of one process says without looking at others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PageCounts {
    /// Pages in physical memory.
    pub(super) resident: u64,
    /// Pages that are alone on their frame.
    pub(super) exclusive: u64,
    /// Pages on the kernel's zero page.
    pub(super) zero_page: u64,
}

/// What one thread gathered.
#[derive(Debug)]
pub(super) struct Gathered {
    /// By process.
    pub(super) counts: Vec<PageCounts>,
    pub(super) buckets: Buckets,
    /// Frames that KSM may have merged, a few of all: none only if there are none.
    pub(super) samples: Vec<u64>,
}

/// The work of the first half, in pieces that threads take one after the other.
#[derive(Debug)]
pub(super) struct Units<'a> {
    processes: &'a [Process],
    units: Vec<(usize, Region)>,
    next: AtomicUsize,
    zero_page_frame: u64,
}

/// What one thread works with.
struct Desk {
    buffer: Vec<u8>,
    frames: Box<[u64; READ_ENTRIES]>,
}

impl<'a> Units<'a> {
    pub(super) fn new(processes: &'a [Process], zero_page_frame: u64) -> Self {
        let units = split(processes, |_| true);
        Self { processes, units, next: AtomicUsize::new(0), zero_page_frame }
    }

    /// How many threads can be of use.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Works until nothing is left.
    pub(super) fn work(&self) -> Result<Gathered, SharingError> {
        let mut desk = Desk { buffer: vec![0; READ_BYTES], frames: Box::new([0; READ_ENTRIES]) };
        let mut gathered = Gathered {
            counts: vec![PageCounts::default(); self.processes.len()],
            buckets: Buckets::default(),
            samples: Vec::new(),
        };
        while let Some((process, region)) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.unit(*process, region, &mut desk, &mut gathered)?;
        }
        Ok(gathered)
    }

    fn unit(
        &self,
        position: usize,
        region: &Region,
        desk: &mut Desk,
        gathered: &mut Gathered,
    ) -> Result<(), SharingError> {
        let process = &self.processes[position];
        // Counted here and added once: this is what a scan spends its time in.
        let mut counts = PageCounts::default();
        let mut done = 0;
        while done < region.pages && !process.is_gone() {
            let Some(entries) = read_entries(process, region, done, &mut desk.buffer)? else { break };
            let frames = self.candidates(entries, &mut counts, &mut desk.frames);
            gathered
                .buckets
                .scatter(frames, position as u32)
                .map_err(|frame| SharingError::BadFrame { pid: process.id.id, frame })?;
            if region.may_be_merged && !frames.is_empty() && gathered.samples.len() < MAX_SAMPLES {
                let samples = entries.chunks(SAMPLE_ENTRIES * ENTRY_BYTES);
                gathered.samples.extend(samples.filter_map(|entries| self.first_merged(entries)));
            }
            done += (entries.len() / ENTRY_BYTES) as u64;
        }
        let sum = &mut gathered.counts[position];
        sum.resident += counts.resident;
        sum.exclusive += counts.exclusive;
        sum.zero_page += counts.zero_page;
        Ok(())
    }

    /// Counts what one entry tells by itself, and gives the frames of the others.
    #[inline]
    fn candidates<'f>(
        &self,
        entries: &[u8],
        counts: &mut PageCounts,
        frames: &'f mut [u64; READ_ENTRIES],
    ) -> &'f [u64] {
        let mut kept = 0;
        for group in entries.chunks(GROUP * ENTRY_BYTES) {
            let entries = || group.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes);
            let (all, any) =
                entries().fold((u64::MAX, 0), |(all, any), entry| (all & entry.0, any | entry.0));
            // Most groups are all alike, and told at once.
            if Entry(all).is_present() && Entry(all).is_exclusive() {
                counts.resident += entries().len() as u64;
                counts.exclusive += entries().len() as u64;
            } else if Entry(any).is_present() {
                // Without branches: what is shared and what is not lies mixed.
                for entry in entries() {
                    let (present, exclusive) = (entry.is_present(), entry.is_exclusive());
                    let zero_page = entry.frame() == self.zero_page_frame;
                    counts.resident += u64::from(present);
                    counts.exclusive += u64::from(present & exclusive);
                    counts.zero_page += u64::from(present & !exclusive & zero_page);
                    frames[kept % READ_ENTRIES] = entry.frame();
                    kept += usize::from(present & !exclusive & !zero_page);
                }
            }
        }
        &frames[..kept]
    }

    /// The first frame among `entries` that KSM may have merged.
    fn first_merged(&self, entries: &[u8]) -> Option<u64> {
        let mut entries = entries.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes);
        entries.find(|entry| entry.may_be_merged(self.zero_page_frame)).map(Entry::frame)
    }
}

/// The regions that are wanted, in pieces, with the position of their process.
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

/// Reads the entries of a region that come after the first `done`, as many as the buffer holds; `None`,
/// and the process is gone, where there are none any more.
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

/// Reads until at least one whole entry is there; 0 where there is nothing (any more).
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
        let found: Vec<_> = buckets.lists.iter().map(|list| (list.number, slots(list))).collect();
        assert_eq!(
            found,
            [(0, vec![0xffff, 0xfffe, 7]), (1, vec![0]), (0x12_3456, vec![0x7890])],
            "in the order they came"
        );
    }

    #[test]
    fn chunks_hold_all_that_came() {
        let frames: Vec<u64> = (0..3 * LARGEST_CHUNK as u64).map(|frame| frame * 7 % 0x1_0000).collect();
        let mut buckets = Buckets::default();
        for part in frames.chunks(1000) {
            buckets.scatter(part, 0).unwrap();
        }
        let expected: Vec<u16> = frames.iter().map(|frame| *frame as u16).collect();
        assert_eq!(slots(&buckets.lists[0]), expected);
        assert!(buckets.lists[0].chunks.iter().all(|chunk| chunk.capacity() <= LARGEST_CHUNK));
    }

    fn slots(list: &BucketList) -> Vec<u16> {
        list.chunks.iter().flatten().map(|candidate| candidate.slot()).collect()
    }
}
