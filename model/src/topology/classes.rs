//! Classes of cores: on a hybrid processor the same work takes longer on some CPUs than on others.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::CacheInfo;
use crate::cpuset::CpuSet;

/// Class of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoreClass {
    /// The fastest of the host (P-core, big).
    Performance,
    /// Slower, with less power (E-core, little).
    Efficient,
    /// An efficient core without the last-level cache of the others (LP-E core).
    LowPower,
}

impl fmt::Display for CoreClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Performance => "performance",
            Self::Efficient => "efficient",
            Self::LowPower => "low power",
        })
    }
}

/// The CPUs of each class; none if all cores are of one class or their classes are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CoreClasses(BTreeMap<CoreClass, CpuSet>);

/// Cores with at least this part of the largest capacity, in percent, are of class performance. Cores of one type that
/// differ in frequency only are above it, little ones far below.
const MIN_PERFORMANCE_PERCENT: u64 = 75;

/// The lowest level at which a cache is more than that of a core or of a cluster of cores.
const LAST_LEVEL: u8 = 3;

impl CoreClasses {
    /// From the CPUs of each kind of core, as the PMUs of a hybrid x86 processor list them. Efficient cores without a
    /// last-level cache, where others have one, are of class low power: some kernels list both kinds as one.
    pub fn of_kinds(
        performance: &CpuSet,
        efficient: &CpuSet,
        low_power: &CpuSet,
        caches: &[CacheInfo],
    ) -> Self {
        let last_level = caches.iter().filter(|cache| cache.level >= LAST_LEVEL && !cache.instruction_only);
        let cached: CpuSet = last_level.flat_map(|cache| cache.shared_cpus.iter()).collect();
        // Without any such cache its absence says nothing.
        let is_cached = |cpu: &u32| cached.is_empty() || cached.contains(*cpu);
        let (efficient, without): (Vec<u32>, Vec<u32>) = efficient.iter().partition(is_cached);
        Self::of([
            (CoreClass::Performance, performance.clone()),
            (CoreClass::Efficient, efficient.into_iter().collect()),
            (CoreClass::LowPower, without.into_iter().chain(low_power.iter()).collect()),
        ])
    }

    /// From the capacity of each CPU, as the scheduler of an ARM host compares them (1024 for the largest).
    pub fn of_capacities(capacities: &BTreeMap<u32, u64>) -> Self {
        let largest = capacities.values().copied().max().unwrap_or(0);
        let of = |is_fast: bool| {
            let here = capacities.iter().filter(move |(_, capacity)| {
                (capacity.saturating_mul(100) >= largest.saturating_mul(MIN_PERFORMANCE_PERCENT)) == is_fast
            });
            here.map(|(cpu, _)| *cpu).collect()
        };
        Self::of([(CoreClass::Performance, of(true)), (CoreClass::Efficient, of(false))])
    }

    fn of(classes: impl IntoIterator<Item = (CoreClass, CpuSet)>) -> Self {
        let known = Self(classes.into_iter().filter(|(_, cpus)| !cpus.is_empty()).collect());
        if known.0.len() > 1 { known } else { Self::default() }
    }

    /// Whether all cores are of one class, or their classes are unknown.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The classes with their CPUs, the fastest first.
    pub fn iter(&self) -> impl Iterator<Item = (CoreClass, &CpuSet)> {
        self.0.iter().map(|(class, cpus)| (*class, cpus))
    }

    /// The classes among `cpus`, which may be one.
    #[must_use]
    pub fn within(&self, cpus: &CpuSet) -> Self {
        let here = self.iter().map(|(class, of)| (class, of.intersection(cpus)));
        Self(here.filter(|(_, cpus)| !cpus.is_empty()).collect())
    }

    /// Whether there are the same classes, whatever their CPUs.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The names of the classes, as `performance, efficient`.
    pub fn names(&self) -> String {
        self.0.keys().map(CoreClass::to_string).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for CoreClasses {
    /// `performance 0-7, efficient 8-15`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (class, cpus)) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{class} {cpus}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    #[test]
    fn efficient_cores_without_the_last_level_cache_are_of_low_power() {
        let cache = |level, list: &str| CacheInfo {
            level,
            instruction_only: false,
            shared_cpus: cpus(list),
            size_bytes: None,
        };
        let caches = [cache(3, "0-15"), cache(2, "16-17")];
        let none = CpuSet::new();
        let of = |low_power: &CpuSet, efficient: &str, caches: &[CacheInfo]| {
            CoreClasses::of_kinds(&cpus("0-7"), &cpus(efficient), low_power, caches).to_string()
        };
        assert_eq!(of(&none, "8-17", &caches), "performance 0-7, efficient 8-15, low power 16-17");
        assert_eq!(of(&cpus("16-17"), "8-15", &caches), "performance 0-7, efficient 8-15, low power 16-17");
        assert_eq!(of(&none, "8-17", &[]), "performance 0-7, efficient 8-17");
        assert!(CoreClasses::of_kinds(&cpus("0-7"), &none, &none, &caches).is_empty());
    }

    #[test]
    fn capacities_make_two_classes_and_frequencies_none() {
        let of = |capacities: &[u64]| {
            CoreClasses::of_capacities(&(0..).zip(capacities.iter().copied()).collect()).to_string()
        };
        assert_eq!(of(&[279, 279, 1024, 1009, 866]), "performance 2-4, efficient 0-1");
        assert_eq!(of(&[1024, 1009, 866]), "");
        assert_eq!((of(&[]), of(&[0, 0])), (String::new(), String::new()));
    }

    #[test]
    fn the_json_names_the_classes() {
        let classes =
            CoreClasses::of([(CoreClass::Performance, cpus("0-1")), (CoreClass::LowPower, cpus("2"))]);
        let text = serde_json::to_string(&classes).unwrap();
        assert_eq!(text, r#"{"performance":[0,1],"low_power":[2]}"#);
        assert_eq!(serde_json::from_str::<CoreClasses>(&text).unwrap(), classes);
        let one = classes.within(&cpus("0,5"));
        assert_eq!((one.len(), one.names().as_str()), (1, "performance"));
    }
}
