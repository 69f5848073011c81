//! How many frames are mapped by exactly which set of VMs.
//!
//! Pairs alone cannot tell what a cache saves: three VMs that map the same frame are three pairs, but the frame is
//! cached once instead of three times, which saves two. The counts are sparse and bounded. What is not listed is
//! known by pairs only: the shared frames of a pair minus those of the listed groups that have both.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Maximum number of groups that are listed.
pub const MAX_GROUPS: usize = 4096;

/// Maximum number of VMs in all listed groups together.
pub const MAX_GROUP_MEMBERS: usize = 1 << 16;

/// Frames that these VMs map, and no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedGroup {
    /// Two or more positions in the matrix, ascending.
    pub vms: Vec<u32>,
    /// Distinct frames, not zero-filled.
    pub frames: u64,
}

impl SharedGroup {
    /// Frames that are cached less if all of its VMs have one cache.
    fn saved_together(&self) -> u64 {
        self.frames.saturating_mul(self.vms.len().saturating_sub(1) as u64)
    }
}

/// The groups of VMs that map the same frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct SharedGroups {
    groups: Vec<SharedGroup>,
    rest_frames: u64,
}

/// What a file has.
#[derive(Deserialize)]
struct Parts {
    groups: Vec<SharedGroup>,
    #[serde(default)]
    rest_frames: u64,
}

/// Groups that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGroups {
    /// Not a set of two or more VMs.
    #[error("a group has the VMs {0:?}, expected two or more different ones in ascending order")]
    Vms(Vec<u32>),
    /// A VM that the matrix does not have.
    #[error("a group has VM number {found}, the matrix has {vms} (from 0)")]
    Unknown {
        /// The number.
        found: u32,
        /// Number of VMs.
        vms: usize,
    },
    /// A group without frames.
    #[error("the group of VMs {0:?} has 0 frames; leave it out")]
    Empty(Vec<u32>),
    /// Two entries for one set.
    #[error("the group of the VMs {0:?} is listed twice")]
    Twice(Vec<u32>),
    /// More than is listed.
    #[error(
        "{groups} groups with {members} VMs are listed, expected {MAX_GROUPS} and {MAX_GROUP_MEMBERS} at most"
    )]
    TooMany {
        /// Number of groups.
        groups: usize,
        /// Of VMs in them.
        members: usize,
    },
    /// More frames than the pair shares, or fewer although no frames are left.
    #[error("the groups of {first:?} and {second:?} have {found} frames, expected {expected}")]
    Frames {
        /// One VM.
        first: String,
        /// The other.
        second: String,
        /// Frames of groups that have both.
        found: u64,
        /// What the matrix has, with a word for "at most".
        expected: String,
    },
    /// Groups without shared frames.
    #[error("the matrix has shared_groups and no shared_frames, of which they are the parts")]
    Alone,
}

impl TryFrom<Parts> for SharedGroups {
    type Error = BadGroups;

    fn try_from(parts: Parts) -> Result<Self, BadGroups> {
        let members: usize = parts.groups.iter().map(|group| group.vms.len()).sum();
        if parts.groups.len() > MAX_GROUPS || members > MAX_GROUP_MEMBERS {
            return Err(BadGroups::TooMany { groups: parts.groups.len(), members });
        }
        if let Some(bad) = parts.groups.iter().find(|group| !is_set(&group.vms)) {
            return Err(BadGroups::Vms(bad.vms.clone()));
        }
        if let Some(empty) = parts.groups.iter().find(|group| group.frames == 0) {
            return Err(BadGroups::Empty(empty.vms.clone()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = parts.groups.iter().find(|group| !seen.insert(&group.vms)) {
            return Err(BadGroups::Twice(twice.vms.clone()));
        }
        Ok(Self::of(parts.groups, parts.rest_frames))
    }
}

fn is_set(vms: &[u32]) -> bool {
    vms.len() > 1 && vms.windows(2).all(|two| two[0] < two[1])
}

impl SharedGroups {
    /// The groups that save most if they are together, as many as are listed, from sets of VMs in ascending order
    /// with their frames; a set may come several times, and sets of fewer than two VMs are no groups.
    /// `rest_frames`: shared frames of sets that were not counted.
    pub fn of(sets: impl IntoIterator<Item = SharedGroup>, rest_frames: u64) -> Self {
        let mut sums: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        for SharedGroup { vms, frames } in sets {
            if is_set(&vms) && frames > 0 {
                let sum = sums.entry(vms).or_default();
                *sum = sum.saturating_add(frames);
            }
        }
        let mut groups: Vec<SharedGroup> =
            sums.into_iter().map(|(vms, frames)| SharedGroup { vms, frames }).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.saved_together()));
        let mut members = 0;
        let mut fits = |group: &SharedGroup| {
            members += group.vms.len();
            members <= MAX_GROUP_MEMBERS
        };
        let listed = groups.iter().take(MAX_GROUPS).take_while(|group| fits(group)).count();
        Self::listed(groups, listed, rest_frames)
    }

    /// The first of these groups, and the frames of the others with the rest.
    fn listed(mut groups: Vec<SharedGroup>, listed: usize, rest_frames: u64) -> Self {
        let others = groups.split_off(listed.min(groups.len()));
        let rest = others.iter().fold(rest_frames, |rest, group| rest.saturating_add(group.frames));
        Self { groups, rest_frames: rest }
    }

    /// At most so many groups, those that save most; the others are part of the rest.
    #[must_use]
    pub fn at_most(&self, groups: usize) -> Self {
        Self::listed(self.groups.clone(), groups, self.rest_frames)
    }

    /// The groups, those that save most if they are together first.
    pub fn groups(&self) -> &[SharedGroup] {
        &self.groups
    }

    /// Shared frames that are in no group of the list, at most: these are known by pairs only.
    pub fn rest_frames(&self) -> u64 {
        self.rest_frames
    }

    /// Whether every shared frame is in a group of the list.
    pub fn is_complete(&self) -> bool {
        self.rest_frames == 0
    }

    /// Those of the VMs at these positions, in ascending order, which are renumbered.
    #[must_use]
    pub fn part(&self, positions: &[usize]) -> Self {
        let number = |vm: &u32| positions.binary_search(&(*vm as usize)).ok().map(|at| at as u32);
        let sets = self.groups.iter().map(|group| SharedGroup {
            vms: group.vms.iter().filter_map(number).collect(),
            frames: group.frames,
        });
        Self::of(sets, self.rest_frames)
    }

    /// The same with VMs that count for less: `weights` (0 to 1) by position. A frame of a group counts for two VMs as far
    /// as both do: a group becomes one group for each weight, of the VMs with at least that weight.
    pub(super) fn weighted(&self, weights: &[f64]) -> Self {
        let mut sets = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let weight_of = |vm: &u32| weights[*vm as usize];
            let mut levels: Vec<f64> = group.vms.iter().map(weight_of).collect();
            levels.sort_by(f64::total_cmp);
            levels.dedup();
            let mut counted = 0;
            for level in levels {
                let frames = (group.frames as f64 * level).round() as u64;
                if frames > counted {
                    let vms = group.vms.iter().copied().filter(|vm| weight_of(vm) >= level).collect();
                    sets.push(SharedGroup { vms, frames: frames - counted });
                    counted = frames;
                }
            }
        }
        Self::of(sets, self.rest_frames)
    }

    /// The frames of the groups for each pair, `[i][j]` for `i < j`.
    pub(super) fn by_pair(&self, vms: usize) -> Vec<Vec<u64>> {
        let mut frames = vec![vec![0u64; vms]; vms];
        for group in &self.groups {
            for (at, i) in group.vms.iter().enumerate() {
                let row = &mut frames[*i as usize];
                for j in &group.vms[at + 1..] {
                    let sum = &mut row[*j as usize];
                    *sum = sum.saturating_add(group.frames);
                }
            }
        }
        frames
    }

    /// Whether these are the groups of a matrix with these shared frames.
    ///
    /// # Errors
    /// A group with another VM; a pair whose groups have more frames than it shares, or fewer although nothing is
    /// left.
    pub(super) fn check(&self, names: &[&str], shared: &[Vec<u64>]) -> Result<(), BadGroups> {
        let vms = names.len();
        let unknown = self.groups.iter().flat_map(|group| &group.vms).find(|vm| **vm as usize >= vms);
        if let Some(found) = unknown {
            return Err(BadGroups::Unknown { found: *found, vms });
        }
        for (i, row) in self.by_pair(vms).iter().enumerate() {
            for (j, found) in row.iter().enumerate().skip(i + 1) {
                let most = shared[i][j];
                if *found > most || *found < most && self.is_complete() {
                    let at_most = if self.is_complete() { "" } else { " at most" };
                    return Err(BadGroups::Frames {
                        first: names[i].to_owned(),
                        second: names[j].to_owned(),
                        found: *found,
                        expected: format!("{most}{at_most}"),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(vms: &[u32], frames: u64) -> SharedGroup {
        SharedGroup { vms: vms.to_vec(), frames }
    }

    #[test]
    fn equal_sets_are_one_group_and_single_vms_are_none() {
        let groups = SharedGroups::of(
            [group(&[0, 1], 5), group(&[2], 9), group(&[0, 1, 2], 4), group(&[0, 1], 2), group(&[1, 2], 0)],
            3,
        );
        assert_eq!(groups.groups(), [group(&[0, 1, 2], 4), group(&[0, 1], 7)]);
        assert_eq!((groups.rest_frames(), groups.is_complete()), (3, false));
        assert_eq!(groups.part(&[0, 2]).groups(), [group(&[0, 1], 4)]);
    }

    #[test]
    fn what_is_beyond_the_list_is_the_rest() {
        let sets = (0..MAX_GROUPS as u32 + 10).map(|vm| group(&[vm, vm + 1], 1 + u64::from(vm)));
        let groups = SharedGroups::of(sets, 0);
        assert_eq!(groups.groups().len(), MAX_GROUPS);
        assert_eq!(groups.rest_frames(), (1..=10).sum::<u64>());
        let large = (0..3).map(|at| group(&(at..30_000).collect::<Vec<_>>(), 1));
        let groups = SharedGroups::of(large, 0);
        assert_eq!((groups.groups().len(), groups.rest_frames()), (2, 1));
    }

    #[test]
    fn a_vm_with_half_the_weight_has_half_of_the_frames() {
        let groups = SharedGroups::of([group(&[0, 1, 2], 100)], 0);
        let weighted = groups.weighted(&[1.0, 0.5, 1.0, 1.0]);
        assert_eq!(weighted.groups(), [group(&[0, 1, 2], 50), group(&[0, 2], 50)]);
        assert_eq!(groups.weighted(&[1.0; 4]), groups);
    }

    /// Files are of others: sums that do not fit are found, not wrapped.
    #[test]
    fn absurd_frames_are_refused() {
        let groups = SharedGroups::of([group(&[0, 1], 1 << 63), group(&[0, 1, 2], 1 << 63)], 1);
        let shared = vec![vec![5; 3]; 3];
        assert!(groups.check(&["a", "b", "c"], &shared).is_err());
        let many = (0..2 * MAX_GROUPS as u32).map(|at| group(&[at, at + 1], u64::MAX / 2));
        assert_eq!(SharedGroups::of(many, 7).rest_frames(), u64::MAX);
        let parse =
            |text: &str| serde_json::from_str::<SharedGroups>(text).map_err(|error| error.to_string());
        let empty = r#"{"groups":[{"vms":[0,1],"frames":3},{"vms":[0,2],"frames":0}],"rest_frames":0}"#;
        assert!(parse(empty).unwrap_err().contains("[0, 2] has 0 frames"));
        let twice = r#"{"groups":[{"vms":[0,1],"frames":3},{"vms":[0,2],"frames":9},{"vms":[0,2],"frames":1}],"rest_frames":0}"#;
        assert!(parse(twice).unwrap_err().contains("[0, 2]"));
    }

    #[test]
    fn what_is_not_listed_is_part_of_the_rest() {
        let groups = SharedGroups::of([group(&[0, 1, 2], 100), group(&[0, 1], 10), group(&[1, 2], 5)], 3);
        let few = groups.at_most(1);
        assert_eq!((few.groups(), few.rest_frames()), (&[group(&[0, 1, 2], 100)][..], 18));
        assert_eq!(groups.at_most(9), groups);
    }
}
