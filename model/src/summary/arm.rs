//! The arms of experiments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Policy;

/// One placement of the guests, compared with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Not merged (the paper's A): each guest reads its own copy, which equals no other's, placed as
    /// recommended. The sequence of reads is the same, so that only the frames differ.
    NotMerged,
    /// Not merged either, placed the opposite way: the effect of the placement alone, without sharing.
    NotMergedOpposed,
    /// Merged, placed as the method recommends (the paper's B).
    Recommended,
    /// Merged, placed the opposite way (the paper's C).
    Opposed,
    /// Merged, placed by the kernel on the CPUs of the same domains (D).
    Kernel,
    /// Merged, placed at random in every block; equally many guests on each domain.
    Random,
    /// As recommended, once more: the ratio of the two shows the effect of chance alone.
    Control,
}

impl Arm {
    /// The arms, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::NotMerged,
        Self::NotMergedOpposed,
        Self::Recommended,
        Self::Opposed,
        Self::Kernel,
        Self::Random,
        Self::Control,
    ];

    /// Values by the names of arms; arms without a value are left out.
    pub fn by_name<T>(of: impl Fn(Self) -> Option<T>) -> BTreeMap<String, T> {
        Self::ALL.into_iter().filter_map(|arm| Some((arm.name().to_owned(), of(arm)?))).collect()
    }

    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotMerged => "not_merged",
            Self::NotMergedOpposed => "not_merged_opposed",
            Self::Recommended => "recommended",
            Self::Opposed => "opposed",
            Self::Kernel => "kernel",
            Self::Random => "random",
            Self::Control => "control",
        }
    }

    /// The policy that places the guests in this arm.
    pub fn policy(self) -> Policy {
        match self {
            Self::NotMerged | Self::Recommended | Self::Control => Policy::Paper,
            Self::Opposed | Self::NotMergedOpposed => Policy::Opposed,
            Self::Kernel => Policy::None,
            Self::Random => Policy::Random,
        }
    }

    /// Whether the guests are placed at random in every block; otherwise one plan holds for the whole run.
    pub fn is_drawn(self) -> bool {
        self == Self::Random
    }

    /// Whether the guests read their own copies instead of the common data.
    pub fn reads_own(self) -> bool {
        matches!(self, Self::NotMerged | Self::NotMergedOpposed)
    }
}

impl std::fmt::Display for Arm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
