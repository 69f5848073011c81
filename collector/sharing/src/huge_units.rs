//! Huge pages that page tables map by one entry, and that others may map: a frame of 512 pages is one unit from the
//! walk to the count. Only where a part of it is mapped by itself, it is counted page by page.

use std::ops::Range;

use super::buckets::{BUCKET_BITS, BUCKET_FRAMES};

/// Pages of a unit, as a power of two.
const UNIT_BITS: u32 = 9;
/// Pages of a unit.
pub(super) const UNIT_PAGES: usize = 1 << UNIT_BITS;
/// Units of a bucket.
pub(super) const BUCKET_UNITS: usize = BUCKET_FRAMES / UNIT_PAGES;

/// A huge page of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HugeUnit {
    /// Its first frame, divided by the pages of a unit: physical addresses have 52 bits at most.
    number: u32,
    /// Position of the process.
    pub(super) process: u16,
    /// Whether nothing was written through the entry: it may be the kernel's huge zero page.
    pub(super) is_clean: bool,
}

impl HugeUnit {
    /// The huge page of a process with this first frame.
    pub(super) fn new(frame: u64, process: u32, is_clean: bool) -> Self {
        Self { number: (frame >> UNIT_BITS) as u32, process: process as u16, is_clean }
    }

    /// Its first frame.
    pub(super) fn frame(self) -> u64 {
        u64::from(self.number) << UNIT_BITS
    }

    /// The number of its bucket.
    pub(super) fn bucket(self) -> u64 {
        self.frame() >> BUCKET_BITS
    }

    /// Position among the units of its bucket.
    pub(super) fn within_bucket(self) -> usize {
        self.number as usize % BUCKET_UNITS
    }
}

/// Units in the order of their frames.
#[derive(Debug, Default)]
pub(super) struct HugeUnits(Vec<HugeUnit>);

impl HugeUnits {
    pub(super) fn new(mut units: Vec<HugeUnit>) -> Self {
        units.sort_unstable();
        Self(units)
    }

    /// The numbers of the buckets that have any, each once.
    pub(super) fn buckets(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.chunk_by(|left, right| left.bucket() == right.bucket()).map(|units| units[0].bucket())
    }

    /// Those of a bucket.
    pub(super) fn of_bucket(&self, bucket: u64) -> &[HugeUnit] {
        let Range { start, end } = bucket..bucket + 1;
        let from = self.0.partition_point(|unit| unit.bucket() < start);
        let to = self.0.partition_point(|unit| unit.bucket() < end);
        &self.0[from..to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_by_their_bucket() {
        let frames = [0x1_0200, 0x0200, 0x1_0000, 0xff_ffff_fe00];
        let units = HugeUnits::new(frames.iter().map(|frame| HugeUnit::new(*frame, 65535, false)).collect());
        assert_eq!(units.buckets().collect::<Vec<_>>(), [0, 1, 0xff_ffff]);
        let of_one: Vec<_> =
            units.of_bucket(1).iter().map(|unit| (unit.frame(), unit.within_bucket())).collect();
        assert_eq!(of_one, [(0x1_0000, 0), (0x1_0200, 1)]);
        assert_eq!(units.of_bucket(0xff_ffff)[0].frame(), 0xff_ffff_fe00);
        assert!(units.of_bucket(2).is_empty() && units.of_bucket(0)[0].process == 65535);
    }
}
