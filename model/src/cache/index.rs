//! Which set a line belongs to, and which sets are simulated.

use super::access::{Access, GRANULE_BYTES};
use super::{CacheError, CacheModel};
use crate::rng::Rng;

/// One of how many sets is simulated, and which.
///
/// The choice is by the low bits of a line's number, which choose the set in the private level and within a slice of the
/// shared one: a kept set is kept with all lines that can be in it. Of each `fold` neighbouring lines one is kept, and
/// which one depends on the bits above them, so that sets differ in their place within a page: with 64-byte lines and a
/// factor of 64 one line of each frame is kept, that at [`Sampler::offset_in_frame`]. Who sees addresses before they are
/// translated knows no frames, and keeps the [same line](KeptSets::SameLine) of every page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// One of so many sets; 1 for all, otherwise a power of two.
    pub fold: u32,
    /// Which of them.
    pub kept: KeptSets,
}

/// Which of `fold` neighbouring lines is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptSets {
    /// One that depends on the seed and on the bits above them.
    Seed(u64),
    /// That at the same place everywhere, from 0 and below the factor. Data that lies alike in every page is in the
    /// sample with all of it or not at all.
    SameLine(u32),
}

impl Sampling {
    /// All sets.
    pub const ALL: Self = Self { fold: 1, kept: KeptSets::Seed(0) };

    /// One of `fold` sets, by the seed 0.
    pub fn one_of(fold: u32) -> Self {
        Self::by_seed(fold, 0)
    }

    /// One of `fold` sets, chosen by a seed.
    pub fn by_seed(fold: u32, seed: u64) -> Self {
        Self { fold, kept: KeptSets::Seed(seed) }
    }
}

/// Finds the set of a line, and whether it is simulated.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Line number from an address in granules.
    line_shift: u32,
    fold_shift: u32,
    /// Low bits of the line that are the same for a whole kept set, without the lowest `fold_shift`.
    chosen_by: u64,
    /// For each value of them, the kept value of the lowest bits.
    kept: Vec<u16>,
    /// Sets of one slice.
    slice_sets_shift: u32,
    slices: Slices,
}

#[derive(Clone, Debug)]
enum Slices {
    One,
    /// Line number above the sets of a slice, modulo so many.
    Modulo(u64),
    /// One bit by the parity of each mask, over the line number.
    Masks(Vec<u64>),
}

impl Sampler {
    /// For a model.
    ///
    /// # Errors
    /// A factor that is not a power of two, or above the sets by which both levels can be divided; a line that is not
    /// below the factor.
    pub fn new(model: &CacheModel, sampling: Sampling) -> Result<Self, CacheError> {
        let most = model.sampled_sets();
        let fold = u64::from(sampling.fold);
        if !fold.is_power_of_two() || fold > most || sampling.fold > 1 << 15 {
            return Err(CacheError::Fold { fold: sampling.fold, most: most.min(1 << 15) });
        }
        let line_shift = (u64::from(model.line_bytes()) / GRANULE_BYTES).trailing_zeros();
        let values = most / fold;
        let (start, step) = match sampling.kept {
            KeptSets::SameLine(line) if u64::from(line) >= fold => {
                return Err(CacheError::KeptLine { line, fold: sampling.fold });
            }
            KeptSets::SameLine(line) => (u64::from(line), 0),
            // Neighbours are far apart in the page, and all offsets come equally often.
            KeptSets::Seed(seed) => {
                (Rng::of_part(seed, 0x5E7).below(sampling.fold as usize) as u64, (fold * 5 / 8) | 1)
            }
        };
        let kept = (0..values).map(|value| ((start + value * step) & (fold - 1)) as u16).collect();
        let byte_shift = line_shift + GRANULE_BYTES.trailing_zeros();
        let masks = model.slice_masks();
        let slice_sets = model.slice_sets();
        let slices = match model.sets() / slice_sets {
            1 => Slices::One,
            _ if !masks.is_empty() => Slices::Masks(masks.iter().map(|mask| mask >> byte_shift).collect()),
            slices => Slices::Modulo(slices),
        };
        Ok(Self {
            line_shift,
            fold_shift: fold.trailing_zeros(),
            chosen_by: values - 1,
            kept,
            slice_sets_shift: slice_sets.trailing_zeros(),
            slices,
        })
    }

    /// Whether the set of a host-physical address is simulated.
    pub fn is_kept(&self, address: u64) -> bool {
        self.keeps((address / GRANULE_BYTES) >> self.line_shift)
    }

    /// Where in a frame of 4 KiB the line is that is kept, in bytes; `None` unless exactly one is. A reader of guest
    /// memory that knows the frame of each page can so leave all others out.
    pub fn offset_in_frame(&self, frame: u64) -> Option<u64> {
        let line_bytes = GRANULE_BYTES << self.line_shift;
        let lines = 4096 / line_bytes;
        (lines == 1 << self.fold_shift).then(|| {
            let above = (frame * lines) >> self.fold_shift;
            u64::from(self.kept[(above & self.chosen_by) as usize]) * line_bytes
        })
    }

    /// The line of an access.
    #[inline]
    pub(super) fn line(&self, access: Access) -> u64 {
        access.granule() >> self.line_shift
    }

    #[inline]
    pub(super) fn keeps(&self, line: u64) -> bool {
        let above = line >> self.fold_shift;
        self.fold_shift == 0
            || u64::from(self.kept[(above & self.chosen_by) as usize]) == line & ((1 << self.fold_shift) - 1)
    }

    /// The number of the set of a kept line, among the kept ones of the shared cache.
    #[inline]
    pub(super) fn set(&self, line: u64) -> usize {
        let bits = self.slice_sets_shift - self.fold_shift;
        let within = line >> self.fold_shift & ((1 << bits) - 1);
        let slice = match &self.slices {
            Slices::One => 0,
            Slices::Modulo(slices) => (line >> self.slice_sets_shift) % slices,
            Slices::Masks(masks) => masks
                .iter()
                .enumerate()
                .fold(0, |slice, (bit, mask)| slice | u64::from((line & mask).count_ones() & 1) << bit),
        };
        (slice << bits | within) as usize
    }

    /// The number of the set of a kept line, among the kept ones of a private cache of `sets` sets, a power of two.
    #[inline]
    pub(super) fn private_set(&self, line: u64, sets: u64) -> usize {
        ((line & (sets - 1)) >> self.fold_shift) as usize
    }

    /// One of how many sets is kept.
    pub fn fold(&self) -> u32 {
        1 << self.fold_shift
    }
}
