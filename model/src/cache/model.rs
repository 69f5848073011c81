//! How the caches of a machine are built.

use serde::{Deserialize, Serialize};

use super::policy::{MAX_LRU_WAYS, MAX_WAYS};
use super::{CacheError, Replacement};

/// The most domains of a model.
pub(super) const MAX_DOMAINS: u32 = 1024;

/// The largest cache, in bytes: numbers of sets stay far within a word.
const MAX_SIZE: u64 = 1 << 34;

/// How the shared cache relates to the private level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inclusion {
    /// It takes every line that the private level misses, and knows nothing of what that holds.
    #[default]
    NonInclusive,
    /// The same, and a line that leaves it leaves the private caches below it.
    Inclusive,
    /// It takes only lines that leave a private cache, and gives back what is found in it (exclusive). A line in another
    /// private cache of the domain comes from there, which is no miss.
    Victim,
}

/// A private cache of each vCPU, above the shared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateLevel {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Lines in a set.
    pub ways: u32,
    /// Which line leaves a full set.
    pub replacement: Replacement,
}

/// A cache model as a file has it, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheDescription {
    /// How it is called in reports.
    pub name: String,
    /// Number of caches, all alike; they are numbered from 0.
    pub domains: u32,
    /// Size of each in bytes.
    pub size_bytes: u64,
    /// Lines in a set.
    pub ways: u32,
    /// Bytes of a line.
    #[serde(default = "usual_line")]
    pub line_bytes: u32,
    /// Which line leaves a full set.
    pub replacement: Replacement,
    /// How it relates to the private level.
    #[serde(default)]
    pub inclusion: Inclusion,
    /// How addresses choose a slice, if that is known: bit `n` of its number is the parity of the address bits in mask
    /// `n`. Without masks a line's set is its number modulo the number of sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slice_masks: Vec<u64>,
    /// The private level above it, if one is modelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<PrivateLevel>,
}

fn usual_line() -> u32 {
    64
}

/// A cache model that can be simulated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CacheDescription", into = "CacheDescription")]
pub struct CacheModel(CacheDescription);

impl TryFrom<CacheDescription> for CacheModel {
    type Error = CacheError;

    fn try_from(model: CacheDescription) -> Result<Self, CacheError> {
        if model.name.is_empty() {
            return Err(CacheError::NoName);
        }
        if !(1..=MAX_DOMAINS).contains(&model.domains) {
            return Err(CacheError::Domains(model.domains));
        }
        if ![32, 64, 128, 256].contains(&model.line_bytes) {
            return Err(CacheError::Line(model.line_bytes));
        }
        let line_bytes = model.line_bytes;
        let sets = sets_of("shared", model.size_bytes, model.ways, line_bytes, model.replacement)?;
        check_masks(&model.slice_masks, sets, line_bytes)?;
        let Some(private) = model.private else {
            return match model.inclusion {
                Inclusion::NonInclusive => Ok(Self(model)),
                Inclusion::Inclusive => Err(CacheError::NoPrivate("inclusive")),
                Inclusion::Victim => Err(CacheError::NoPrivate("victim")),
            };
        };
        let PrivateLevel { size_bytes, ways, replacement } = private;
        let sets = sets_of("private", size_bytes, ways, line_bytes, replacement)?;
        if !sets.is_power_of_two() {
            return Err(CacheError::PrivateSets(sets));
        }
        if size_bytes >= model.size_bytes {
            return Err(CacheError::PrivateSize { private: size_bytes, shared: model.size_bytes });
        }
        Ok(Self(model))
    }
}

/// The number of sets of a cache.
fn sets_of(
    cache: &'static str,
    size_bytes: u64,
    ways: u32,
    line_bytes: u32,
    replacement: Replacement,
) -> Result<u64, CacheError> {
    let most = if replacement == Replacement::Lru { MAX_LRU_WAYS } else { MAX_WAYS };
    if !(1..=most).contains(&ways) {
        return Err(CacheError::Ways { cache, ways, most });
    }
    if size_bytes > MAX_SIZE {
        return Err(CacheError::TooLarge { cache, size_bytes, most: MAX_SIZE });
    }
    if replacement == Replacement::TreePlru && !ways.is_power_of_two() {
        return Err(CacheError::Tree { cache, ways });
    }
    let set_bytes = u64::from(ways) * u64::from(line_bytes);
    if size_bytes == 0 || !size_bytes.is_multiple_of(set_bytes) {
        return Err(CacheError::Size { cache, size_bytes, ways, line_bytes });
    }
    Ok(size_bytes / set_bytes)
}

fn check_masks(masks: &[u64], sets: u64, line_bytes: u32) -> Result<(), CacheError> {
    if let Some(mask) = masks.iter().find(|mask| **mask == 0 || **mask % u64::from(line_bytes) != 0) {
        return Err(CacheError::SliceMask(*mask));
    }
    let slices = 1u64.checked_shl(masks.len() as u32).unwrap_or(u64::MAX);
    if !masks.is_empty() && (slices > sets || !sets.is_power_of_two()) {
        return Err(CacheError::Slices { masks: masks.len(), slices, sets });
    }
    Ok(())
}

impl From<CacheModel> for CacheDescription {
    fn from(model: CacheModel) -> Self {
        model.0
    }
}

impl CacheModel {
    /// How it is called in reports.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Number of caches, all alike.
    pub fn domains(&self) -> u32 {
        self.0.domains
    }

    /// Size of each in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    /// Lines in a set.
    pub fn ways(&self) -> u32 {
        self.0.ways
    }

    /// Bytes of a line.
    pub fn line_bytes(&self) -> u32 {
        self.0.line_bytes
    }

    /// Which line leaves a full set.
    pub fn replacement(&self) -> Replacement {
        self.0.replacement
    }

    /// How it relates to the private level.
    pub fn inclusion(&self) -> Inclusion {
        self.0.inclusion
    }

    /// The private level, if one is modelled.
    pub fn private(&self) -> Option<PrivateLevel> {
        self.0.private
    }

    /// Sets of each cache.
    pub fn sets(&self) -> u64 {
        self.0.size_bytes / (u64::from(self.0.ways) * u64::from(self.0.line_bytes))
    }

    /// Sets of the private level, if one is modelled.
    pub fn private_sets(&self) -> Option<u64> {
        self.0
            .private
            .map(|private| private.size_bytes / (u64::from(private.ways) * u64::from(self.0.line_bytes)))
    }

    /// The same with a policy.
    ///
    /// # Errors
    /// One that the ways do not allow.
    pub fn with_replacement(&self, replacement: Replacement) -> Result<Self, CacheError> {
        Self::try_from(CacheDescription { replacement, ..self.0.clone() })
    }

    /// The same without the private level: every access reaches the shared cache.
    #[must_use]
    pub fn without_private(&self) -> Self {
        Self(CacheDescription { private: None, inclusion: Inclusion::NonInclusive, ..self.0.clone() })
    }

    /// The same with another number of caches.
    ///
    /// # Errors
    /// None at all, or more than anybody has.
    pub fn with_domains(&self, domains: u32) -> Result<Self, CacheError> {
        Self::try_from(CacheDescription { domains, ..self.0.clone() })
    }

    /// The largest factor of a [sampling](super::Sampling).
    pub fn largest_fold(&self) -> u32 {
        self.sampled_sets().min(1 << 15) as u32
    }

    /// How addresses choose a slice; empty if that is not known.
    pub(super) fn slice_masks(&self) -> &[u64] {
        &self.0.slice_masks
    }

    /// Sets that the low bits of a line's number choose from, a power of two.
    pub(super) fn slice_sets(&self) -> u64 {
        let of_two = 1 << self.sets().trailing_zeros();
        of_two >> self.0.slice_masks.len()
    }

    /// The low bits of a line's number that choose the set in both levels choose from so many, a power of two.
    pub(super) fn sampled_sets(&self) -> u64 {
        self.slice_sets().min(self.private_sets().unwrap_or(u64::MAX))
    }
}
