//! Pages whose frames others may map, sorted into buckets by frame.

/// Frames of one bucket, as a power of two: its tables then fit a second-level cache.
pub(super) const BUCKET_BITS: u32 = 16;
/// Frames of one bucket.
pub(super) const BUCKET_FRAMES: usize = 1 << BUCKET_BITS;
/// No processor has more than 52 bits of physical address, so no bucket has a higher number.
const MAX_BUCKETS: u64 = 1 << 24;
/// Candidates per chunk: enough that new chunks are rare, few enough that the unused rest of all last chunks
/// does not matter.
const CHUNK: usize = 256;

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
    pub(super) fn scatter(&mut self, frames: &[u64], process: u32) -> Result<(), u64> {
        if let Some(bucket) = common_bucket(frames) {
            return self.scatter_into(bucket, frames, process);
        }
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

    /// Adds candidates of one bucket: without a look at its end for each, which waits for the one before.
    fn scatter_into(&mut self, bucket: usize, frames: &[u64], process: u32) -> Result<(), u64> {
        let mut rest = frames;
        while let Some((first, others)) = rest.split_first() {
            let head = self.heads.get(bucket).copied().unwrap_or_default();
            if head.next == head.end {
                let at = self.begin_chunk(bucket).ok_or(*first)?;
                self.candidates[at] = Candidate::new(*first, process);
                rest = others;
                continue;
            }
            let (fit, others) = rest.split_at(rest.len().min(head.end - head.next));
            let room = &mut self.candidates[head.next..head.next + fit.len()];
            room.iter_mut().zip(fit).for_each(|(to, frame)| *to = Candidate::new(*frame, process));
            self.heads[bucket].next += fit.len();
            rest = others;
        }
        Ok(())
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

/// The bucket of all frames, if it is one, which is so where memory was handed out in one piece.
fn common_bucket(frames: &[u64]) -> Option<usize> {
    let first = *frames.first()?;
    // All at once, without a branch for each.
    let differ = frames.iter().fold(0, |differ, frame| differ | (frame ^ first));
    (differ >> BUCKET_BITS == 0).then_some((first >> BUCKET_BITS) as usize)
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
