//! Sampling: which contents are drawn.
//!
//! A content is drawn by its hash, so it is drawn on every page of every VM, or on none, and repeats play no part in the
//! estimates ([`SampledRate`](huddle_model::matrix::SampledRate) has these and their error). To know the hash a page
//! has to be read: a sample saves memory, sorting and the second reading for comparison, and with them further readings
//! of guests whose records would not fit, but not the first reading of each page.
//!
//! A sample of pages would save that, and cannot be right: how many distinct contents there are, and so what part of
//! them is shared, cannot be estimated from a part of the pages. For any estimator there are memories of which it is wrong
//! by about the square root of pages over pages read (Charikar, Chaudhuri, Motwani, Narasayya, "Towards estimation
//! error guarantees for distinct values", PODS 2000, theorem 1).

use super::settings::Share;

/// The selection of contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    probability: f64,
    /// A content is drawn if its mixed hash is not above this.
    up_to: u64,
    /// Of the seed.
    mixed_seed: u64,
}

impl Draw {
    pub(super) fn new(sample: Option<Share>, seed: u64) -> Self {
        let probability = sample.map_or(1.0, Share::get);
        // `as` saturates: a probability of 1 draws every content.
        Self { probability, up_to: (probability * 2f64.powi(64)) as u64, mixed_seed: mix(seed) }
    }

    /// Whether all contents are drawn.
    pub(super) fn is_all(self) -> bool {
        self.probability >= 1.0
    }

    pub(super) fn probability(self) -> f64 {
        self.probability
    }

    /// Whether the content with this hash is drawn; the same in every reading and VM.
    #[inline]
    pub(super) fn takes(self, hash: u64) -> bool {
        // Mixed, so that each seed draws other contents, independently of the part of the hash that records keep.
        self.is_all() || mix(hash ^ self.mixed_seed) <= self.up_to
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[inline]
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_and_a_share_are_drawn() {
        let draw = |share: f64, seed| Draw::new(Some(Share::try_from(share).unwrap()), seed);
        let all = Draw::new(None, 1);
        assert!(all.is_all() && (0..1000).all(|hash| all.takes(hash)));
        let drawn = (0..100_000).filter(|hash| draw(0.1, 11).takes(*hash)).count();
        // 6 standard deviations of a binomial.
        assert!((9_430..10_570).contains(&drawn), "{drawn}");
        let both = (0..100_000).filter(|hash| draw(0.1, 11).takes(*hash) && draw(0.1, 12).takes(*hash));
        assert!((810..1_190).contains(&both.count()), "seeds draw independently");
    }
}
