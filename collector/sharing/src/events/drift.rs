//! Difference of two matrices of the same host.

use huddle_model::matrix::SharingMatrix;

/// Difference of a matrix that was kept current from a freshly measured one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Frames too many or too few: of every VM (`frames_used`) and of every pair (`shared_frames`).
    pub frames: u64,
    /// The larger of two fractions: wrong `frames_used` of all used, wrong `shared_frames` of all shared
    /// (both of the fresh matrix). Used frames alone would hide errors in shared frames, which are fewer.
    pub share: f64,
    /// VMs in only one of the two; they are left out of the counts.
    pub unmatched_vms: usize,
}

impl Drift {
    /// Compares VMs of equal name; `None` if one of the two has no counts of frames.
    pub fn between(kept: &SharingMatrix, fresh: &SharingMatrix) -> Option<Self> {
        let place = |name: &str| kept.vms().iter().position(|vm| vm.name == name);
        let matched: Vec<(usize, usize)> =
            fresh.vms().iter().enumerate().filter_map(|(at, vm)| Some((place(&vm.name)?, at))).collect();
        let (mut used_wrong, mut used, mut shared_wrong, mut shared) = (0, 0, 0, 0);
        for (at, (i, fresh_i)) in matched.iter().enumerate() {
            let (old, new) = (kept.vms()[*i].memory?.frames_used, fresh.vms()[*fresh_i].memory?.frames_used);
            used_wrong += old.abs_diff(new);
            used += new;
            for (j, fresh_j) in &matched[at + 1..] {
                let (old, new) = (kept.shared_frames(*i, *j)?, fresh.shared_frames(*fresh_i, *fresh_j)?);
                shared_wrong += old.abs_diff(new);
                shared += new;
            }
        }
        let unmatched_vms = kept.len() + fresh.len() - 2 * matched.len();
        let share = share_of(used_wrong, used).max(share_of(shared_wrong, shared));
        Some(Self { frames: used_wrong + shared_wrong, share, unmatched_vms })
    }
}

/// 1 for any error where the fresh count is 0.
fn share_of(wrong: u64, all: u64) -> f64 {
    match (wrong, all) {
        (0, _) => 0.0,
        (_, 0) => 1.0,
        _ => wrong as f64 / all as f64,
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::matrix::{MatrixVm, MemoryUse, Method};

    use super::*;

    fn matrix(vms: &[(&str, u64)], shared: &[Vec<u64>]) -> SharingMatrix {
        let row = |(name, frames_used): &(&str, u64)| MatrixVm {
            name: (*name).to_owned(),
            id: None,
            uuid: None,
            owner: None,
            vcpus: 1,
            memory: Some(MemoryUse { frames_used: *frames_used, ..MemoryUse::default() }),
        };
        SharingMatrix::measured(Method::Merged, vms.iter().map(row).collect(), shared, 1.0, 1.0)
    }

    #[test]
    fn shared_frames_count_separately() {
        let fresh = matrix(&[("a", 1000), ("b", 1000)], &[vec![0, 100], vec![0, 0]]);
        let kept = matrix(&[("b", 1000), ("a", 1001)], &[vec![0, 95], vec![0, 0]]);
        let drift = Drift::between(&kept, &fresh).unwrap();
        assert_eq!(drift, Drift { frames: 6, share: 0.05, unmatched_vms: 0 });
        assert_eq!(Drift::between(&fresh, &fresh).unwrap().share, 0.0);
    }

    #[test]
    fn sharing_where_there_is_none_is_a_full_error() {
        let fresh = matrix(&[("a", 10), ("b", 10)], &[vec![0, 0], vec![0, 0]]);
        let kept = matrix(&[("a", 10), ("b", 10), ("c", 5)], &[vec![0, 3, 0], vec![0, 0, 0], vec![0; 3]]);
        assert_eq!(Drift::between(&kept, &fresh).unwrap(), Drift { frames: 3, share: 1.0, unmatched_vms: 1 });
    }

    #[test]
    fn rates_alone_cannot_be_compared() {
        let rates = SharingMatrix::from_file_text(",a,b\na,-,10\nb,10,-\n").unwrap();
        let fresh = matrix(&[("a", 10), ("b", 10)], &[vec![0, 0], vec![0, 0]]);
        assert!(Drift::between(&rates, &fresh).is_none());
    }
}
