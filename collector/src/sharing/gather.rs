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
const READ_BYTES: usize = 128 << 10;
/// Candidates for which a new bucket has room.
const FIRST_CAPACITY: usize = 128;
/// Entries that are looked at together first.
const GROUP: usize = 8;
/// Pages one thread takes at a time.
const UNIT_PAGES: u64 = 128 << 10;

/// A page that is not the only one on its frame, in 8 bytes: the frame within its bucket (16 bits), the
/// space (16 bits: the process, twice, plus one where KSM may have merged the page), and the position
/// of the page among the scanned pages of its process (32 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate(u64);

impl Candidate {
    #[inline]
    fn new(frame: u64, process: usize, may_be_merged: bool, index: u64) -> Self {
        let space = (process as u64) << 1 | u64::from(may_be_merged);
        Self(frame & (BUCKET_FRAMES as u64 - 1) | space << 16 | index << 32)
    }

    /// The frame within its bucket.
    #[inline]
    pub(super) fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// Position of the process.
    #[inline]
    pub(super) fn process(self) -> usize {
        (self.0 >> 17 & 0x7fff) as usize
    }

    /// Whether KSM may have merged the page.
    #[inline]
    pub(super) fn may_be_merged(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    /// Position of the page among the scanned pages of its process.
    #[inline]
    pub(super) fn index(self) -> u64 {
        self.0 >> 32
    }
}

/// Most processes that can be told apart.
pub(super) const MAX_PROCESSES: usize = 1 << 15;

/// Candidates by bucket.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Position in `lists` plus 1, by number of the bucket; 0 where there is none.
    places: Vec<u32>,
    /// The number of the bucket and its candidates.
    pub(super) lists: Vec<(u64, Vec<Candidate>)>,
}

impl Buckets {
    #[inline]
    fn push(&mut self, frame: u64, candidate: Candidate) -> bool {
        let bucket = frame >> BUCKET_BITS;
        let place = self.places.get(bucket as usize).copied().unwrap_or(0) as usize;
        // Place 0 becomes a position that no list has.
        if let Some((_, list)) = self.lists.get_mut(place.wrapping_sub(1)) {
            list.push(candidate);
            return true;
        }
        self.push_new(bucket, candidate)
    }

    #[cold]
    fn push_new(&mut self, bucket: u64, candidate: Candidate) -> bool {
        if bucket >= MAX_BUCKETS {
            return false;
        }
        if self.places.len() <= bucket as usize {
            self.places.resize(bucket as usize + 1, 0);
        }
        let mut list = Vec::with_capacity(FIRST_CAPACITY);
        list.push(candidate);
        self.lists.push((bucket, list));
        self.places[bucket as usize] = self.lists.len() as u32;
        true
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
}

/// The work of the first half, in pieces that threads take one after the other.
#[derive(Debug)]
pub(super) struct Units<'a> {
    processes: &'a [Process],
    units: Vec<(usize, Region)>,
    next: AtomicUsize,
    zero_page_frame: u64,
}

impl<'a> Units<'a> {
    pub(super) fn new(processes: &'a [Process], zero_page_frame: u64) -> Self {
        let mut units = Vec::new();
        for (process, scanned) in processes.iter().enumerate() {
            for region in &scanned.regions {
                let mut done = 0;
                while done < region.pages {
                    let pages = UNIT_PAGES.min(region.pages - done);
                    let (first_page, first_index) = (region.first_page + done, region.first_index + done);
                    units.push((process, Region { first_page, pages, first_index, ..*region }));
                    done += pages;
                }
            }
        }
        Self { processes, units, next: AtomicUsize::new(0), zero_page_frame }
    }

    /// How many threads can be of use.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Works until nothing is left.
    pub(super) fn work(&self) -> Result<Gathered, SharingError> {
        let mut buffer = vec![0; READ_BYTES];
        let mut gathered = Gathered {
            counts: vec![PageCounts::default(); self.processes.len()],
            buckets: Buckets::default(),
        };
        while let Some((process, region)) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.unit(*process, region, &mut buffer, &mut gathered)?;
        }
        Ok(gathered)
    }

    fn unit(
        &self,
        position: usize,
        region: &Region,
        buffer: &mut [u8],
        gathered: &mut Gathered,
    ) -> Result<(), SharingError> {
        let process = &self.processes[position];
        // Counted here and added once: the loop below is what a scan spends its time in.
        let mut counts = PageCounts::default();
        let mut done = 0;
        while done < region.pages && !process.is_gone() {
            let entries = (buffer.len() / ENTRY_BYTES).min((region.pages - done) as usize);
            let wanted = &mut buffer[..entries * ENTRY_BYTES];
            let read = read_some(&process.pagemap, wanted, (region.first_page + done) * ENTRY_BYTES as u64)
                .map_err(|source| HostError::Read {
                path: format!("/proc/{}/pagemap", process.id).into(),
                source,
            })?;
            if read == 0 {
                process.set_gone();
                break;
            }
            let read = read / ENTRY_BYTES;
            let mut index = region.first_index + done;
            for group in wanted[..read * ENTRY_BYTES].chunks(GROUP * ENTRY_BYTES) {
                let entries = || group.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes);
                let (all, any) =
                    entries().fold((u64::MAX, 0), |(all, any), entry| (all & entry.0, any | entry.0));
                // Most groups are all alike, and told at once.
                if Entry(all).is_present() && Entry(all).is_exclusive() {
                    counts.resident += entries().len() as u64;
                    counts.exclusive += entries().len() as u64;
                } else if Entry(any).is_present() {
                    for (entry, index) in entries().zip(index..) {
                        if !entry.is_present() {
                            continue;
                        }
                        counts.resident += 1;
                        let frame = entry.frame();
                        if entry.is_exclusive() {
                            counts.exclusive += 1;
                        } else if frame == self.zero_page_frame {
                            counts.zero_page += 1;
                        } else {
                            let merged = region.may_be_merged && !entry.is_file_or_shared();
                            let candidate = Candidate::new(frame, position, merged, index);
                            if !gathered.buckets.push(frame, candidate) {
                                return Err(SharingError::BadFrame { pid: process.id.id, frame });
                            }
                        }
                    }
                }
                index += entries().len() as u64;
            }
            done += read as u64;
        }
        let sum = &mut gathered.counts[position];
        sum.resident += counts.resident;
        sum.exclusive += counts.exclusive;
        sum.zero_page += counts.zero_page;
        Ok(())
    }
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
        for (frame, process, merged, index) in
            [(0x12_3456, MAX_PROCESSES - 1, true, u64::from(u32::MAX)), (0xffff, 0, false, 0)]
        {
            let candidate = Candidate::new(frame, process, merged, index);
            assert_eq!(candidate.slot() as u64, frame & 0xffff);
            assert_eq!((candidate.process(), candidate.may_be_merged()), (process, merged));
            assert_eq!(candidate.index(), index);
        }
    }

    #[test]
    fn buckets_are_kept_apart_and_impossible_frames_refused() {
        let mut buckets = Buckets::default();
        for frame in [0xffff, 0x1_0000, 0xfffe, 0x12_3456_7890] {
            assert!(buckets.push(frame, Candidate::new(frame, 0, false, frame & 0xff)));
        }
        assert!(!buckets.push(1 << 50, Candidate::new(0, 0, false, 0)));
        let keys: Vec<_> = buckets.lists.iter().map(|(key, list)| (*key, list.len())).collect();
        assert_eq!(keys, [(0, 2), (1, 1), (0x12_3456, 1)]);
    }
}
