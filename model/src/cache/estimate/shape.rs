//! The cache of an estimate, and what a miss costs.

use super::EstimateError;
use crate::cache::CacheModel;

/// The largest cache: as large as one that is simulated.
pub(super) const MAX_SIZE_BYTES: u64 = 1 << 34;

/// The most ways. A cache without sets is approximated by as many ways.
pub(super) const MAX_WAYS: u32 = 512;

/// Size, ways and lines of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    size_bytes: u64,
    ways: u32,
    line_bytes: u32,
}

impl CacheShape {
    /// Ways of a last-level cache where they are not known, as most have them.
    pub const USUAL_WAYS: u32 = 16;

    /// Bytes of a line where they are not known: those of x86-64 and of most ARM64 cores.
    pub const USUAL_LINE_BYTES: u32 = 64;

    /// A cache of so many bytes, in sets of `ways` lines of `line_bytes`.
    ///
    /// # Errors
    /// No cache has this shape.
    pub fn new(size_bytes: u64, ways: u32, line_bytes: u32) -> Result<Self, EstimateError> {
        if !(1..=MAX_SIZE_BYTES).contains(&size_bytes) {
            return Err(EstimateError::Size(size_bytes));
        }
        if !(1..=MAX_WAYS).contains(&ways) {
            return Err(EstimateError::Ways(ways));
        }
        if !line_bytes.is_power_of_two() || !(16..=1024).contains(&line_bytes) {
            return Err(EstimateError::Line(line_bytes));
        }
        if size_bytes < u64::from(ways) * u64::from(line_bytes) {
            return Err(EstimateError::NoSet { size_bytes, ways, line_bytes });
        }
        Ok(Self { size_bytes, ways, line_bytes })
    }

    /// The shared caches of a model.
    pub fn of(model: &CacheModel) -> Self {
        Self { size_bytes: model.size_bytes(), ways: model.ways(), line_bytes: model.line_bytes() }
    }

    /// Size in bytes.
    pub fn size_bytes(self) -> u64 {
        self.size_bytes
    }

    /// Lines in a set.
    pub fn ways(self) -> u32 {
        self.ways
    }

    /// Bytes of a line.
    pub fn line_bytes(self) -> u32 {
        self.line_bytes
    }

    /// Number of sets; a part of one counts, too.
    pub(super) fn sets(self) -> f64 {
        self.size_bytes as f64 / (f64::from(self.ways) * f64::from(self.line_bytes))
    }
}

/// How much longer than a hit a miss in the last-level cache takes: about six times (Ito and Kono, "A cache-miss
/// reduction method by virtual CPU scheduling based on the page sharing rate", section 1, on two Xeon E5-2680).
pub const MISS_OVER_HIT: f64 = 6.0;

/// What a read that misses the last-level cache costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadCost {
    /// As many times what a read costs that hits it; 1 or more.
    pub miss_over_hit: f64,
}

impl ReadCost {
    /// [`MISS_OVER_HIT`].
    pub const PAPER: Self = Self { miss_over_hit: MISS_OVER_HIT };

    /// Mean time of a read, as a multiple of that of a hit, with so many misses for a thousand reads.
    pub fn read_time(self, misses_per_thousand_reads: f64) -> f64 {
        1.0 + misses_per_thousand_reads / 1000.0 * (self.miss_over_hit - 1.0)
    }
}
