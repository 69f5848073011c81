//! Records of pages, in a fixed amount of memory.
//!
//! A record has 16 bytes: part of the page's hash, the frame it may share with others, and its number. If
//! there are more pages than room, the space of hashes is halved, the upper half is left for another reading
//! of the guests, and so on. Equal contents have equal hashes and are never separated, so the result of
//! several readings is as exact as that of one.

/// Bits of the hash that are kept. Different contents with equal hashes cost a comparison, but do not change
/// the result.
const HASH_BITS: u32 = 48;
/// Bits of a frame's and of a page's number: 4 PiB of either.
const NUMBER_BITS: u32 = 40;
const NUMBER: u128 = (1 << NUMBER_BITS) - 1;
/// One more than the largest number of a page.
pub(super) const MAX_PAGES: u64 = 1 << NUMBER_BITS;

/// One page; ordered by hash, then by frame (pages alone on their frame first), then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record(u128);

impl Record {
    /// `frame` is 0 for a page that is alone on its frame, or whose frame is unknown.
    #[inline]
    pub(super) fn new(hash: u64, frame: u64, page: u64) -> Self {
        let hash = u128::from(hash >> (64 - HASH_BITS));
        // A frame beyond 4 PiB counts as unknown, so its pages are compared.
        let frame = if u128::from(frame) > NUMBER { 0 } else { u128::from(frame) };
        Self(hash << (2 * NUMBER_BITS) | frame << NUMBER_BITS | u128::from(page) & NUMBER)
    }

    /// The kept bits of the hash.
    #[inline]
    pub(super) fn hash(self) -> u64 {
        (self.0 >> (2 * NUMBER_BITS)) as u64
    }

    /// The frame it may share with others; 0 for none.
    #[inline]
    pub(super) fn frame(self) -> u64 {
        (self.0 >> NUMBER_BITS & NUMBER) as u64
    }

    /// The number of the page.
    #[inline]
    pub(super) fn page(self) -> u64 {
        (self.0 & NUMBER) as u64
    }
}

/// The hashes whose first `bits` bits are `prefix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    prefix: u64,
    bits: u32,
}

impl Slice {
    /// All hashes.
    pub(super) const ALL: Self = Self { prefix: 0, bits: 0 };

    #[inline]
    fn holds(self, record: Record) -> bool {
        record.hash() >> (HASH_BITS - self.bits) == self.prefix
    }

    /// Its lower and its upper half; `None` for a single hash.
    fn halves(self) -> Option<[Self; 2]> {
        let bits = self.bits + 1;
        (bits <= HASH_BITS).then(|| [0, 1].map(|half| Self { prefix: self.prefix << 1 | half, bits }))
    }
}

/// More pages of one hash than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The pages whose hash is in one slice.
#[derive(Debug)]
pub(super) struct Records {
    slice: Slice,
    /// Slices that did not fit.
    left: Vec<Slice>,
    room: usize,
    records: Vec<Record>,
}

impl Records {
    /// Records within so many bytes; at least two.
    pub(super) fn within(bytes: u64) -> Self {
        // 4 bytes for the position of each group of two or more.
        let each = (size_of::<Record>() + size_of::<u32>() / 2) as u64;
        let room = (bytes / each).clamp(2, u32::MAX.into()) as usize;
        Self { slice: Slice::ALL, left: Vec::new(), room, records: Vec::new() }
    }

    /// Clears all records; then those of another slice are stored.
    pub(super) fn begin(&mut self, slice: Slice) {
        self.slice = slice;
        self.records.clear();
    }

    /// Stores a page if it is in the slice.
    #[inline]
    pub(super) fn push(&mut self, record: Record) -> Result<(), Full> {
        if self.slice.bits > 0 && !self.slice.holds(record) {
            return Ok(());
        }
        if self.records.len() == self.records.capacity() {
            self.make_room()?;
            if !self.slice.holds(record) {
                return Ok(());
            }
        }
        self.records.push(record);
        Ok(())
    }

    #[cold]
    fn make_room(&mut self) -> Result<(), Full> {
        let have = self.records.len();
        if have < self.room {
            // Not by doubling, which could exceed the limit.
            self.records.reserve_exact(have.max(4096).min(self.room - have));
            return Ok(());
        }
        while self.records.len() == self.records.capacity() {
            let [lower, upper] = self.slice.halves().ok_or(Full)?;
            self.left.push(upper);
            self.slice = lower;
            self.records.retain(|record| lower.holds(*record));
        }
        Ok(())
    }

    /// The next slice that did not fit.
    pub(super) fn next_slice(&mut self) -> Option<Slice> {
        self.left.pop()
    }

    /// The records, sorted so that equal hashes are adjacent.
    pub(super) fn sorted(&mut self) -> &mut Vec<Record> {
        self.records.sort_unstable();
        &mut self.records
    }

    /// Capacity in pages.
    pub(super) fn room(&self) -> usize {
        self.room
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_keeps_its_parts() {
        let record = Record::new(0xfedc_ba98_7654_3210, 0x12_3456_7890, MAX_PAGES - 1);
        assert_eq!((record.hash(), record.frame()), (0xfedc_ba98_7654, 0x12_3456_7890));
        assert_eq!(record.page(), MAX_PAGES - 1);
        assert_eq!(Record::new(1, 1 << 40, 1).frame(), 0, "a frame that does not fit is unknown");
    }

    /// All readings, with the largest number of records in memory.
    fn readings(hashes: &[u64], bytes: u64) -> Result<(Vec<Vec<Record>>, usize), Full> {
        let mut records = Records::within(bytes);
        let (mut found, mut most, mut slice) = (Vec::new(), 0, Some(Slice::ALL));
        while let Some(now) = slice {
            records.begin(now);
            for (page, hash) in hashes.iter().enumerate() {
                records.push(Record::new(*hash, 0, page as u64))?;
                most = most.max(records.records.capacity());
            }
            found.push(records.sorted().clone());
            slice = records.next_slice();
        }
        Ok((found, most))
    }

    #[test]
    fn one_content_that_does_not_fit_is_an_error() {
        assert_eq!(readings(&[7 << 40; 9], 8 * 18), Err(Full));
        assert_eq!(readings(&[7 << 40; 8], 8 * 18).unwrap().0.len(), 1);
    }

    proptest! {
        #[test]
        fn readings_together_hold_each_page_once_and_equal_ones_together(
            hashes in proptest::collection::vec(any::<u64>(), 0..300), room in 6u64..400,
        ) {
            // Each content up to three times.
            let hashes: Vec<u64> = hashes.iter().flat_map(|hash| vec![*hash; 1 + *hash as usize % 3]).collect();
            let (readings, most) = readings(&hashes, room * 18).unwrap();
            prop_assert!(most as u64 <= room);
            let mut pages: Vec<u64> = readings.iter().flatten().map(|record| record.page()).collect();
            pages.sort_unstable();
            prop_assert_eq!(pages, (0..hashes.len() as u64).collect::<Vec<_>>());
            for (position, reading) in readings.iter().enumerate() {
                for other in &readings[position + 1..] {
                    prop_assert!(reading.iter().all(|left| other.iter().all(|right| left.hash() != right.hash())));
                }
            }
        }
    }
}
