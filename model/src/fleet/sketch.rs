//! A sketch of the contents of a VM's pages: the smallest hashes of its distinct contents.
//!
//! A content is kept if its hash is in the lowest part of the range, so two sketches keep the same contents of two VMs,
//! and the sketch of a host is the union of those of its VMs (bottom sketches by threshold: Cohen and Kaplan,
//! "Summarizing Data using Bottom-k Sketches", PODC 2007, section 2, Poisson sampling with a common hash).

use std::collections::BTreeSet;

/// A sketch keeps about one content in so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scale(u64);

/// A scale of 0 keeps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scale of a sketch is 0, expected 1 (all contents) or more")]
pub struct ZeroScale;

impl Scale {
    /// One content in 1,024: about 1,000 hashes for a VM of 4 GiB.
    pub const DEFAULT: Self = Self(1024);

    /// # Errors
    /// [`ZeroScale`] for 0.
    pub fn new(one_in: u64) -> Result<Self, ZeroScale> {
        if one_in == 0 { Err(ZeroScale) } else { Ok(Self(one_in)) }
    }

    /// How many contents stand behind one that is kept.
    pub fn one_in(self) -> u64 {
        self.0
    }

    /// Whether a content with this hash is kept. Hashes are evenly distributed over all 64-bit numbers.
    pub fn keeps(self, hash: u64) -> bool {
        hash <= u64::MAX / self.0
    }
}

/// The kept hashes of one VM, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    scale: Scale,
    hashes: Vec<u64>,
}

impl Sketch {
    /// The sketch of contents with these hashes; repeated ones count once.
    pub fn of_hashes(scale: Scale, hashes: impl IntoIterator<Item = u64>) -> Self {
        let kept: BTreeSet<u64> = hashes.into_iter().filter(|hash| scale.keeps(*hash)).collect();
        Self { scale, hashes: kept.into_iter().collect() }
    }

    /// The kept hashes, ascending.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// One content in so many is kept.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Estimate of the number of distinct contents.
    pub fn contents(&self) -> u64 {
        (self.hashes.len() as u64).saturating_mul(self.scale.0)
    }

    /// The sketch of both together; `None` if their scales differ.
    pub fn union(&self, other: &Self) -> Option<Self> {
        let all = self.hashes.iter().chain(&other.hashes).copied();
        (self.scale == other.scale).then(|| Self::of_hashes(self.scale, all))
    }

    /// The share of this VM's contents that `other` has, too; `None` if this one keeps nothing or their scales differ.
    pub fn containment_in(&self, other: &Self) -> Option<Containment> {
        if self.scale != other.scale {
            return None;
        }
        let common = self.hashes.iter().filter(|hash| other.hashes.binary_search(hash).is_ok()).count();
        Containment::of_counts(common as u64, self.hashes.len() as u64, self.scale)
    }
}

/// An estimate of the share of one VM's distinct contents that another has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Containment {
    /// The estimate, from 0 to 1.
    pub rate: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Lower and upper end of the 95 % interval.
    pub ci95: [f64; 2],
}

/// Two-sided 5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Containment {
    /// From `common` of `kept` contents of a sketch; `None` if none is kept.
    ///
    /// A sketch is a random sample of one content in `scale`, so `common` is binomial, less the part that is seen
    /// completely (Cochran, "Sampling Techniques", 3.2: finite population correction `1 - 1/scale`). The interval is
    /// Wilson's ("Probable Inference", 1927), which also holds near 0 and 1, where the estimate's own standard error
    /// would be 0; the standard error is that of the interval's centre.
    pub fn of_counts(common: u64, kept: u64, scale: Scale) -> Option<Self> {
        if kept == 0 {
            return None;
        }
        let unseen = 1.0 - 1.0 / scale.0 as f64;
        if unseen == 0.0 {
            let rate = common as f64 / kept as f64;
            return Some(Self { rate, standard_error: 0.0, ci95: [rate, rate] });
        }
        // A correction of the variance is a larger sample.
        let n = kept as f64 / unseen;
        let rate = common as f64 / kept as f64;
        let z2 = Z * Z;
        let centre = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z / (1.0 + z2 / n) * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
        let standard_error = (centre * (1.0 - centre) / (n + z2)).sqrt();
        // Exactly, where rounding would leave a little.
        let low = if common == 0 { 0.0 } else { (centre - half).max(0.0) };
        let high = if common >= kept { 1.0 } else { (centre + half).min(1.0) };
        let ci95 = [low, high];
        Some(Self { rate, standard_error, ci95 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn a_scale_keeps_its_share_of_all_hashes() {
        let mut rng = Rng::new(1);
        let kept = (0..1_024_000).filter(|_| Scale::DEFAULT.keeps(rng.next_u64())).count();
        assert!((900..1100).contains(&kept), "{kept} of 1,024,000");
        assert!(Scale::new(1).unwrap().keeps(u64::MAX));
        assert_eq!(Scale::new(0), Err(ZeroScale));
    }

    #[test]
    fn with_all_contents_the_rate_is_exact() {
        let all = Scale::new(1).unwrap();
        let (a, b) = (Sketch::of_hashes(all, [1, 2, 3, 4, 4]), Sketch::of_hashes(all, [3, 4, 5]));
        let found = a.containment_in(&b).unwrap();
        assert_eq!((found.rate, found.standard_error, found.ci95), (0.5, 0.0, [0.5, 0.5]));
        assert_eq!(a.union(&b).unwrap().hashes(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn sketches_of_different_scales_are_not_compared() {
        let (a, b) = (Sketch::of_hashes(Scale(1), [1]), Sketch::of_hashes(Scale(2), [1]));
        assert_eq!(a.containment_in(&b), None);
        assert_eq!(a.union(&b), None);
    }

    /// VMs of 4 GiB that have a known share of their contents in common.
    #[test]
    fn the_true_rate_is_in_the_interval_of_19_pairs_in_20() {
        const CONTENTS: u64 = 1 << 20;
        for true_rate in [0.0, 0.01, 0.05, 0.3, 0.7, 1.0] {
            let (mut inside, mut told_from_0) = (0, 0);
            for pair in 0..200 {
                let mut rng = Rng::of_part(7, pair * 1000 + (true_rate * 100.0) as u64);
                let common = (CONTENTS as f64 * true_rate) as u64;
                let shared: Vec<u64> = (0..common).map(|_| rng.next_u64()).collect();
                let own =
                    |rng: &mut Rng| -> Vec<u64> { (common..CONTENTS).map(|_| rng.next_u64()).collect() };
                let [a, b] = [own(&mut rng), own(&mut rng)]
                    .map(|own| Sketch::of_hashes(Scale::DEFAULT, shared.iter().copied().chain(own)));
                let found = a.containment_in(&b).unwrap();
                inside += i32::from(found.ci95[0] <= true_rate && true_rate <= found.ci95[1]);
                told_from_0 += i32::from(found.ci95[0] > 0.0);
            }
            // 190 are expected; fewer than 180 happen by chance in less than one of 1,000 such tests.
            assert!(inside >= 180, "{inside} of 200 at a rate of {true_rate}");
            if true_rate >= 0.01 {
                assert!(told_from_0 >= 199, "{told_from_0} of 200 told from 0 at a rate of {true_rate}");
            }
        }
    }
}
