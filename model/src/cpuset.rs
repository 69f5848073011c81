//! Sets of CPUs in the kernel's list format (`0-3,8`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of logical CPU numbers. Displays and parses as the kernel's cpulist
/// (Documentation/admin-guide/cputopology.rst, Linux 6.18); in JSON it is an array of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuSet(BTreeSet<u32>);

/// Highest CPU number accepted: far above any kernel's `NR_CPUS`, low enough that a damaged range
/// cannot exhaust memory.
const MAX_CPU: u32 = 65_535;

/// An invalid cpulist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a list of CPUs like 0-3,8: {part:?} is not valid")]
pub struct ParseCpuSetError {
    text: String,
    part: String,
}

impl CpuSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of CPUs in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set contains `cpu`.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    /// Adds all CPUs of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The lowest CPU.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// CPUs in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.intersection(&other.0).copied().collect()
    }

    /// CPUs in this set and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        self.0.difference(&other.0).copied().collect()
    }

    /// Whether the sets have no CPU in common.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// Whether every CPU of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut first = true;
        while let Some(start) = cpus.next() {
            let mut end = start;
            while let Some(next) = end.checked_add(1).filter(|next| cpus.peek() == Some(next)) {
                end = next;
                cpus.next();
            }
            if !first {
                f.write_str(",")?;
            }
            first = false;
            if end == start {
                write!(f, "{start}")?;
            } else {
                write!(f, "{start}-{end}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = ParseCpuSetError;

    /// Parses a cpulist; surrounding white space and an empty list are accepted, as sysfs prints them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let error = || ParseCpuSetError { text: text.trim().to_owned(), part: part.to_owned() };
            let number =
                |digits: &str| digits.parse::<u32>().ok().filter(|n| *n <= MAX_CPU).ok_or_else(error);
            let (start, end) = match part.split_once('-') {
                Some((start, end)) => (number(start)?, number(end)?),
                None => (number(part)?, number(part)?),
            };
            if start > end {
                return Err(error());
            }
            cpus.extend(start..=end);
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!("0-3,8\n".parse::<CpuSet>().unwrap(), [0, 1, 2, 3, 8].into_iter().collect());
        assert_eq!("\n".parse::<CpuSet>().unwrap(), CpuSet::new());
    }

    #[test]
    fn damage_is_named() {
        for text in ["1-", "a", "3-1", "1,,2", "-1", "0-99999999"] {
            let error = text.parse::<CpuSet>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(cpus in proptest::collection::btree_set(0u32..300, 0..60)) {
            let set: CpuSet = cpus.into_iter().collect();
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }
    }

    #[test]
    fn the_largest_number_has_no_next_one() {
        let cpus: CpuSet = [u32::MAX - 1, u32::MAX, 3].into_iter().collect();
        assert_eq!(cpus.to_string(), "3,4294967294-4294967295");
    }
}
