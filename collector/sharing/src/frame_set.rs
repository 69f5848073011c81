//! A set of frames of one bucket.

use super::buckets::BUCKET_FRAMES;

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

    /// Adds a frame; returns whether it is new.
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
