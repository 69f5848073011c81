//! Sampling: which pages are drawn, the estimates for all pages, and their error.
//!
//! Each page is drawn independently with probability p. A content that VM i has once is then seen there with
//! probability p, and in both i and j with p^2. So with K distinct contents seen in i and Y seen in both,
//! - `frames_used(i)` is about U = K / p,
//! - `shared_frames(i, j)` is about S = Y / p^2,
//! - the rate is R = S / U, and by the delta method its variance is
//!   `R^2 * ((1 - p^2) / (p^2 S) - (1 - p) / (p U))`: the variances of both, less twice their covariance, since
//!   each content seen in both is one of those seen in i.
//!
//! If no common content was seen, R is 0, and its stated error is that of R for one common content: not 0,
//! because unseen common content is possible.
//!
//! A content that a VM has m times is seen with probability `1 - (1 - p)^m`. It is weighted by the inverse,
//! with m estimated as the number of times it was seen, over p. Seen once, it counts as a content that exists
//! once. That is right for contents that exist once and for frequent ones, and overestimates those in between
//! (2 to about 3 / p times): contents that a VM repeats a few times make `frames_used` too large, up to
//! `pages_used`. The error does not include that. `self_shared_pages` shows whether such contents exist.

use super::settings::Share;

/// The selection of pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    probability: f64,
    /// A page is drawn if its mixed number is not above this.
    up_to: u64,
    seed: u64,
}

impl Draw {
    pub(super) fn new(sample: Option<Share>, seed: u64) -> Self {
        let probability = sample.map_or(1.0, Share::get);
        // `as` saturates: a probability of 1 draws every page.
        Self { probability, up_to: (probability * 2f64.powi(64)) as u64, seed }
    }

    /// Whether all pages are drawn.
    pub(super) fn is_all(self) -> bool {
        self.probability >= 1.0
    }

    pub(super) fn probability(self) -> f64 {
        self.probability
    }

    /// Whether a page is drawn; the same in every reading. Pages of two VMs at the same position are drawn
    /// independently.
    #[inline]
    pub(super) fn takes(self, page: u64) -> bool {
        self.is_all() || mix(page ^ mix(self.seed)) <= self.up_to
    }

    /// The weight of a content that was seen so many times in one VM.
    pub(super) fn weight(self, seen: u32) -> f64 {
        let times = if seen <= 1 { 1.0 } else { f64::from(seen) / self.probability };
        1.0 / (1.0 - (1.0 - self.probability).powf(times))
    }

    /// The standard error of the rate `shared / used`.
    pub(super) fn rate_error(self, shared: f64, used: f64) -> f64 {
        let p = self.probability;
        if self.is_all() || used <= 0.0 {
            return 0.0;
        }
        if shared <= 0.0 {
            return (1.0 / (p * p * used)).min(1.0);
        }
        let variance = (1.0 - p * p) / (p * p * shared) - (1.0 - p) / (p * used);
        shared / used * variance.max(0.0).sqrt()
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

    fn draw(share: f64) -> Draw {
        Draw::new(Some(Share::try_from(share).unwrap()), 11)
    }

    #[test]
    fn all_and_a_share_are_drawn() {
        let all = Draw::new(None, 1);
        assert!(all.is_all() && (0..1000).all(|page| all.takes(page)));
        assert_eq!((all.weight(1), all.weight(9), all.rate_error(3.0, 7.0)), (1.0, 1.0, 0.0));
        let drawn = (0..100_000).filter(|page| draw(0.1).takes(*page)).count();
        // 6 standard deviations of a binomial.
        assert!((9_430..10_570).contains(&drawn), "{drawn}");
        let both = (0..100_000).filter(|page| draw(0.1).takes(*page) && draw(0.1).takes(page + (1 << 30)));
        assert!((810..1_190).contains(&both.count()), "pages at one position are drawn independently");
    }

    #[test]
    fn weights_of_contents_seen_once_and_often() {
        assert!((draw(0.25).weight(1) - 4.0).abs() < 1e-12);
        assert!((draw(0.25).weight(12) - 1.0).abs() < 1e-4);
        assert!(draw(0.25).weight(2) < 1.2);
    }

    #[test]
    fn no_common_content_seen_has_an_error() {
        assert_eq!(draw(0.5).rate_error(0.0, 100.0), 0.04);
        assert_eq!(draw(0.1).rate_error(0.0, 20.0), 1.0);
        assert_eq!(draw(0.1).rate_error(0.0, 0.0), 0.0);
    }
}
