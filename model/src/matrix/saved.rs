//! What caches save if VMs that map the same frames have one cache.
//!
//! Of a frame that `k` VMs of a cache domain map, one copy is cached instead of `k`: `(k - 1)+` are saved. A VM that is
//! only partly in a domain, because its vCPUs are on several, is there with probability `p` (the part of its vCPUs), and
//! the expected number counts: `sum of p - 1 + product of (1 - p)`. For two VMs that is the product of the two parts,
//! the fraction of pairs of their vCPUs that meet.
//!
//! Frames whose exact set of VMs is not known are counted by pairs. That is an upper bound, since a frame of `k` VMs is in
//! `k (k - 1) / 2` pairs; it is bounded by the frames of all VMs there except the largest, which has to be cached.

use serde::{Deserialize, Serialize};

use super::SharingMatrix;

/// What frames that are saved were counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// Each frame once, by the set of VMs that map it.
    Groups,
    /// The same for the groups of the list, the rest by pairs: an upper bound.
    GroupsAndPairs,
    /// By pairs of VMs: an upper bound.
    Pairs,
}

/// Frames that caches hold less of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SavedFrames {
    /// Their number.
    pub frames: f64,
    /// What they were counted by.
    pub counted_by: CountedBy,
}

impl SharingMatrix {
    /// What counts of saved frames are by, if the matrix has frames.
    pub fn counted_by(&self) -> CountedBy {
        match self.shared_groups() {
            Some(groups) if groups.is_complete() => CountedBy::Groups,
            Some(_) => CountedBy::GroupsAndPairs,
            None => CountedBy::Pairs,
        }
    }

    /// Shared frames of two VMs that are in no listed group; all of them without groups. `None` without frames.
    pub(crate) fn frames_by_pairs(&self) -> Option<Vec<Vec<u64>>> {
        let all = self.cells.shared_frames.as_ref()?;
        let Some(groups) = self.shared_groups() else { return Some(all.clone()) };
        let n = self.len();
        if groups.is_complete() {
            return Some(vec![vec![0; n]; n]);
        }
        let mut left = groups.by_pair(n);
        for i in 0..n {
            for j in i + 1..n {
                let rest = all[i][j].saturating_sub(left[i][j]);
                (left[i][j], left[j][i]) = (rest, rest);
            }
        }
        Some(left)
    }

    /// Frames saved if VM `i` is in domain `d` with the part `presence[i][d]`, from 0 to 1. `None` if the matrix has only
    /// rates.
    pub fn saved_frames(&self, presence: &[Vec<f64>]) -> Option<SavedFrames> {
        let by_pairs = self.cells.shared_frames.as_ref()?;
        let domains = presence.first().map_or(0, Vec::len);
        let mut saved = vec![0.0; domains];
        for group in self.shared_groups().map(|groups| groups.groups()).into_iter().flatten() {
            let there = || group.vms.iter().map(|vm| &presence[*vm as usize]);
            for (domain, saved) in saved.iter_mut().enumerate() {
                let (sum, none) = there().fold((0.0, 1.0), |(sum, none), parts| {
                    (sum + parts[domain], none * (1.0 - parts[domain]))
                });
                *saved += (sum - 1.0 + none).max(0.0) * group.frames as f64;
            }
        }
        let counted_by = self.counted_by();
        if counted_by != CountedBy::Groups {
            let left = if counted_by == CountedBy::Pairs { None } else { self.frames_by_pairs() };
            let left = left.as_ref().unwrap_or(by_pairs);
            // Most VMs are in one domain of many.
            let places: Vec<Vec<(usize, f64)>> = presence
                .iter()
                .map(|parts| parts.iter().copied().enumerate().filter(|(_, part)| *part > 0.0).collect())
                .collect();
            for (i, j) in self.pairs() {
                for (domain, part) in &places[i] {
                    let both = part * presence[j][*domain];
                    if both > 0.0 {
                        saved[*domain] += left[i][j] as f64 * both;
                    }
                }
            }
            self.bound(&mut saved, presence);
        }
        Some(SavedFrames { frames: saved.iter().sum(), counted_by })
    }

    /// One copy of each frame is cached, at least those of the largest VM.
    fn bound(&self, saved: &mut [f64], presence: &[Vec<f64>]) {
        let used: Option<Vec<f64>> =
            self.vms().iter().map(|vm| Some(vm.memory?.frames_used as f64)).collect();
        let Some(used) = used else { return };
        for (domain, saved) in saved.iter_mut().enumerate() {
            let here = || used.iter().zip(presence).map(|(used, parts)| used * parts[domain]);
            *saved = saved.min(here().sum::<f64>() - here().fold(0.0, f64::max));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MatrixVm, MemoryUse, Method, SharedGroup, SharedGroups};
    use super::*;

    /// 12 VMs of 1,200 frames, 1,000 of them common to all.
    fn twelve() -> SharingMatrix {
        let memory = Some(MemoryUse { frames_used: 1200, ..MemoryUse::default() });
        let vms = (0..12).map(|at| MatrixVm { memory, ..MatrixVm::named(format!("vm{at}")) });
        SharingMatrix::measured(Method::Merged, vms.collect(), &vec![vec![1000; 12]; 12], 0.0, 1.0)
    }

    #[test]
    fn a_frame_of_all_vms_is_saved_once_for_each_vm_but_one() {
        let groups = SharedGroups::of([SharedGroup { vms: (0..12).collect(), frames: 1000 }], 0);
        let matrix = twelve().with_groups(groups);
        let together = vec![vec![1.0, 0.0]; 12];
        let saved = matrix.saved_frames(&together).unwrap();
        assert_eq!((saved.frames, saved.counted_by), (11_000.0, CountedBy::Groups));
        let halves: Vec<_> = (0..12).map(|vm| if vm < 6 { vec![1.0, 0.0] } else { vec![0.0, 1.0] }).collect();
        assert_eq!(matrix.saved_frames(&halves).unwrap().frames, 10_000.0);
        // A pair whose vCPUs are half here and half there meets in half of the pairs of vCPUs.
        let pair = matrix.part(&[0, 1]);
        assert_eq!(pair.saved_frames(&[vec![0.5, 0.5], vec![0.5, 0.5]]).unwrap().frames, 500.0);
    }

    #[test]
    fn by_pairs_it_is_an_upper_bound_below_the_frames_in_use() {
        let saved = twelve().saved_frames(&vec![vec![1.0]; 12]).unwrap();
        assert_eq!((saved.frames, saved.counted_by), (13_200.0, CountedBy::Pairs), "66,000 by pairs");
        let some = SharedGroups::of([SharedGroup { vms: (0..12).collect(), frames: 900 }], 100);
        let saved = twelve().with_groups(some).saved_frames(&vec![vec![1.0]; 12]).unwrap();
        assert_eq!((saved.frames, saved.counted_by), (13_200.0, CountedBy::GroupsAndPairs));
        let csv = SharingMatrix::from_file_text("vm,a,b\na,-,5\nb,5,-\n").unwrap();
        assert_eq!(csv.saved_frames(&vec![vec![1.0]; 2]), None);
    }

    /// Pairs and groups count a VM with a lower weight by one rule, so nothing is left by pairs only.
    #[test]
    fn weights_leave_no_frame_to_pairs() {
        let weights = |vm: usize| [1.0, 0.5, 0.02, 0.8][vm % 4];
        let groups = SharedGroups::of([SharedGroup { vms: (0..12).collect(), frames: 1000 }], 0);
        let all = twelve().with_groups(groups);
        let weighted = all.weighted(weights);
        assert_eq!(weighted.counted_by(), CountedBy::Groups);
        let groups = weighted.shared_groups().unwrap().by_pair(12);
        for (i, j) in weighted.pairs() {
            let (of_groups, of_pair) = (groups[i][j], weighted.shared_frames(i, j).unwrap());
            assert!(of_groups.abs_diff(of_pair) <= 4, "{i} {j}: {of_groups} {of_pair}");
        }
        assert_eq!(all.weighted(|_| 1.0), all);
    }
}
