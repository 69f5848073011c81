//! The arms of experiments.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::matrix::Weigh;
use crate::plan::Policy;

/// One placement of the guests, compared with the others. Declared in the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Merged, placed as the method recommends (the paper's B).
    Recommended,
    /// Merged, placed the opposite way (the paper's C).
    Opposed,
    /// Merged, placed as the method recommends if of the shared frames those count that both VMs of a pair read; as
    /// recommended all of them count.
    ByReads,
    /// Not merged (the paper's A): each guest reads its own copy, which equals no other's, placed as
    /// recommended. The sequence of reads is the same, so that only the frames differ.
    NotMerged,
    /// Not merged either, placed the opposite way: the effect of the placement alone, without sharing.
    NotMergedOpposed,
    /// Merged, placed by the kernel on the CPUs of the same domains (D).
    Kernel,
    /// Merged, placed at random in every block; equally many guests on each domain.
    Random,
    /// As recommended, once more: the ratio of the two shows the effect of chance alone.
    Control,
}

impl Arm {
    /// The arms, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Recommended,
        Self::Opposed,
        Self::ByReads,
        Self::NotMerged,
        Self::NotMergedOpposed,
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
            Self::ByReads => "by_reads",
            Self::Kernel => "kernel",
            Self::Random => "random",
            Self::Control => "control",
        }
    }

    /// The arm that a name begins with: that of an arm, or of a ratio or of a figure for one data size, which are named
    /// after arms (`opposed_over_recommended`, `kernel_512_kib`).
    fn begins(name: &str) -> Option<Self> {
        let is_begun = |arm: &Self| {
            name.strip_prefix(arm.name()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        Self::ALL.into_iter().filter(is_begun).max_by_key(|arm| arm.name().len())
    }

    /// The arm that a policy or a state of a recording stands for.
    fn of_policy(name: &str) -> Option<Self> {
        let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        match policy? {
            Policy::Paper | Policy::Sharing | Policy::Exact => Some(Self::Recommended),
            Policy::Opposed => Some(Self::Opposed),
            Policy::None => Some(Self::Kernel),
            Policy::Random => Some(Self::Random),
            Policy::Spread | Policy::Load => None,
        }
    }

    /// The policy that places the guests in this arm.
    pub fn policy(self) -> Policy {
        match self {
            Self::NotMerged | Self::Recommended | Self::ByReads | Self::Control => Policy::Paper,
            Self::Opposed | Self::NotMergedOpposed => Policy::Opposed,
            Self::Kernel => Policy::None,
            Self::Random => Policy::Random,
        }
    }

    /// Which shared frames count for that policy.
    pub fn weigh(self) -> Weigh {
        if self == Self::ByReads { Weigh::Read } else { Weigh::All }
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

/// The arm of a trial that is the state before it.
const BEFORE: &str = "before";

/// The place of an arm among others in every table, figure and text: see [`by_order_of_arms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ArmPlace {
    /// What was there before a trial.
    Before,
    Arm(Arm),
    Other,
}

/// Compares two names of arms by the order that every table, figure and text has them in: `before` of a trial first,
/// then [`Arm::ALL`] with the policies that place as these arms do (`paper` as recommended, `none` as the kernel),
/// then all others. Names of ratios and of figures for one data size go by the arm they begin with. Equal places are
/// in the order of names, with numbers in them by value.
pub fn by_order_of_arms(one: &str, other: &str) -> Ordering {
    let place = |name: &str| match Arm::begins(name).or_else(|| Arm::of_policy(name)) {
        _ if name == BEFORE => ArmPlace::Before,
        Some(arm) => ArmPlace::Arm(arm),
        None => ArmPlace::Other,
    };
    place(one).cmp(&place(other)).then_with(|| by_numbers(one, other))
}

/// A stretch of digits or of other letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    /// Without leading zeros, so that more digits are a greater number.
    Number(usize, &'a str),
    Text(&'a str),
}

/// Compares names, with numbers in them by value: `a_512` before `a_1024`.
fn by_numbers(one: &str, other: &str) -> Ordering {
    pieces(one).cmp(&pieces(other)).then_with(|| one.cmp(other))
}

fn pieces(mut name: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    while !name.is_empty() {
        let is_number = name.starts_with(|letter: char| letter.is_ascii_digit());
        let end = name.find(|letter: char| letter.is_ascii_digit() != is_number).unwrap_or(name.len());
        let (piece, rest) = name.split_at(end);
        let digits = piece.trim_start_matches('0');
        found.push(if is_number { Piece::Number(digits.len(), digits) } else { Piece::Text(piece) });
        name = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_have_one_order_and_before_is_first() {
        let mut sorted = Arm::ALL;
        sorted.sort();
        assert_eq!(sorted, Arm::ALL, "declared in the order of reports");
        for (mut names, order) in [
            (
                vec![
                    "control",
                    "kernel",
                    "by_reads",
                    "not_merged",
                    "not_merged_opposed",
                    "opposed",
                    "random",
                    "recommended",
                ],
                "recommended opposed by_reads not_merged not_merged_opposed kernel random control",
            ),
            (vec!["opposed", "paper", "before"], "before paper opposed"),
            (
                vec!["none", "spread", "random", "sharing", "opposed", "paper"],
                "paper sharing opposed none random spread",
            ),
            (
                vec!["not_merged_1024_kib", "opposed_1024_kib", "recommended_1024_kib", "opposed_512_kib"],
                "recommended_1024_kib opposed_512_kib opposed_1024_kib not_merged_1024_kib",
            ),
            (
                vec![
                    "control_over_recommended",
                    "kernel_over_by_reads",
                    "recommended_over_by_reads",
                    "not_merged_opposed_over_not_merged",
                    "not_merged_over_opposed",
                    "opposed_over_recommended_busy",
                    "opposed_over_recommended",
                ],
                "recommended_over_by_reads opposed_over_recommended opposed_over_recommended_busy \
                 not_merged_over_opposed not_merged_opposed_over_not_merged kernel_over_by_reads \
                 control_over_recommended",
            ),
            (vec!["run 10", "run 9", "opposedly", "beforehand"], "beforehand opposedly run 9 run 10"),
        ] {
            names.sort_by(|one, other| by_order_of_arms(one, other));
            assert_eq!(names.join(" "), order);
        }
    }

    #[test]
    fn every_two_names_have_an_order() {
        let names = [
            "",
            "1",
            "01",
            "a1",
            "a1b",
            "a01b",
            "99999999999999999999999",
            "ä2",
            "before",
            "kernel_2",
            "none",
        ];
        for one in names {
            for other in names {
                let order = by_order_of_arms(one, other);
                assert_eq!(order, by_order_of_arms(other, one).reverse(), "{one} {other}");
                assert_eq!(order.is_eq(), one == other);
            }
        }
    }
}
