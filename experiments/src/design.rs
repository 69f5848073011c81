//! The order in which arms are measured: blocks that hold every arm once, the order within each block
//! drawn by a seed.
//!
//! Arms that alternate meet the same drift of the machine; a random order within the block keeps a
//! disturbance with a period from always hitting the same arm. Equal seeds give equal orders.

use huddle_model::plan::Policy;
use serde::{Deserialize, Serialize};

use huddle_model::rng::Rng;

/// The stream of chance that draws orders (see [`Rng::of_part`]).
const ORDER: u64 = 1;

/// One way of placing the guests that is measured against the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Not merged (the paper's A): each guest reads a copy of its own that equals no other's, placed as
    /// recommended. The same sequence of reads, so that only the frames differ.
    NotMerged,
    /// Not merged either, placed the opposite way: what the placement alone does, without sharing.
    NotMergedOpposed,
    /// Merged, placed as the method recommends (the paper's B).
    Recommended,
    /// Merged, placed the opposite way (the paper's C).
    Opposed,
    /// Merged, left to the kernel on the CPUs of the same domains (D).
    Kernel,
    /// Merged, placed by lot, anew in every block; as many guests on each domain.
    Random,
    /// As recommended once more: the ratio of the two tells what chance alone makes.
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

    /// Whether the guests are placed anew in every block, by lot; else one plan holds for the whole run.
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

/// `blocks` orders of `arms`.
pub fn orders(arms: &[Arm], blocks: usize, seed: u64) -> Vec<Vec<Arm>> {
    let mut rng = Rng::of_part(seed, ORDER);
    (0..blocks)
        .map(|_| {
            let mut order = arms.to_vec();
            rng.shuffle(&mut order);
            order
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_every_arm_once() {
        for block in orders(&Arm::ALL, 50, 3) {
            let mut arms = block.clone();
            arms.sort();
            assert_eq!(arms, Arm::ALL);
        }
    }

    #[test]
    fn equal_seeds_give_equal_orders_and_a_longer_run_begins_like_a_shorter_one() {
        assert_eq!(orders(&Arm::ALL, 40, 8), orders(&Arm::ALL, 40, 8));
        assert_eq!(orders(&Arm::ALL, 40, 8)[..10], orders(&Arm::ALL, 10, 8));
        assert_ne!(orders(&Arm::ALL, 40, 8), orders(&Arm::ALL, 40, 9));
    }

    #[test]
    fn both_orders_occur() {
        let arms = [Arm::Recommended, Arm::Opposed];
        let first = orders(&arms, 100, 1).iter().filter(|block| block[0] == Arm::Opposed).count();
        assert!((30..=70).contains(&first), "{first} of 100 blocks begin with opposed");
    }
}
