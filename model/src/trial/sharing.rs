//! Use of the matrix by the loop: whether sharing still changes, and the gain of a placement.

use crate::assignment::Assignment;
use crate::matrix::{MatrixVm, SharingMatrix};
use crate::topology::Topology;

/// Changes of the matrix below this fraction of the frames in use are noise.
const NOISE_OF_FRAMES_USED: f64 = 0.01;

/// Change of the matrix between two passes: the sum of the changes of all pairs, relative to the larger total
/// of shared frames of the two. 1 if the VMs are not the same, or frames are unknown.
pub fn change(before: &SharingMatrix, now: &SharingMatrix) -> f64 {
    let same = before.len() == now.len()
        && before
            .vms()
            .iter()
            .zip(now.vms())
            .all(|(a, b)| (&a.name, a.id, a.vcpus) == (&b.name, b.id, b.vcpus));
    if !same {
        return 1.0;
    }
    let mut changed = 0;
    let mut totals = [0, 0];
    for (i, j) in now.pairs() {
        let (Some(was), Some(is)) = (before.shared_frames(i, j), now.shared_frames(i, j)) else { return 1.0 };
        changed += was.abs_diff(is);
        totals[0] += was;
        totals[1] += is;
    }
    let used =
        now.vms().iter().filter_map(|vm| vm.memory).map(|memory| memory.frames_used).sum::<u64>() as f64;
    let shared = totals[0].max(totals[1]) as f64;
    let whole = shared.max(used * NOISE_OF_FRAMES_USED);
    if whole > 0.0 { changed as f64 / whole } else { 0.0 }
}

/// Gain of a placement in frames that caches hold less of, see [`SharingMatrix::saved_frames`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gain {
    /// Frames saved in the current placement.
    pub now: f64,
    /// The same in the new placement.
    pub proposed: f64,
    /// Saved if all VMs had one cache.
    pub total: f64,
    /// Frames in use by all VMs.
    pub used: f64,
}

impl Gain {
    /// From the matrix, in which VMs that write to shared pages have lower weights.
    pub fn of(matrix: &SharingMatrix, topology: &Topology, now: &Assignment, proposed: &Assignment) -> Self {
        let saved = |presence: &dyn Fn(&MatrixVm) -> Vec<f64>| {
            let parts: Vec<Vec<f64>> = matrix.vms().iter().map(presence).collect();
            matrix.saved_frames(&parts).map_or(0.0, |saved| saved.frames)
        };
        let placed = |placed: &Assignment| saved(&|vm| presence(&vm.name, vm.vcpus, topology, placed));
        let used = matrix.vms().iter().filter_map(|vm| vm.memory).map(|memory| memory.frames_used);
        Self {
            now: placed(now),
            proposed: placed(proposed),
            total: saved(&|_| vec![1.0]),
            used: used.sum::<u64>() as f64,
        }
    }

    /// Increase of the frames saved, as a fraction of what one cache would save; may be negative.
    pub fn part(&self) -> f64 {
        if self.total > 0.0 { (self.proposed - self.now) / self.total } else { 0.0 }
    }

    /// The fraction of cached frames that is saved: the expected improvement of misses if they are
    /// proportional to the amount to be cached. `None` without frames.
    pub fn expected_change(&self) -> Option<f64> {
        let cached = self.used - self.now;
        (cached > 0.0).then(|| (self.proposed - self.now) / cached)
    }
}

/// Share (0 to 1) of a VM's vCPUs in each domain; an unplaced vCPU may be on any CPU.
fn presence(vm: &str, vcpus: u32, topology: &Topology, placed: &Assignment) -> Vec<f64> {
    let cpus: usize = topology.domains().iter().map(|domain| domain.cpus.len()).sum();
    // Numbers of vCPUs may have gaps, so placed ones are counted, and the rest is free.
    let there: Vec<_> = placed.domains_of(vm).take(vcpus as usize).collect();
    let free = f64::from(vcpus) - there.len() as f64;
    let parts = topology.domains().iter().map(|domain| {
        let here = there.iter().filter(|there| **there == domain.id).count() as f64;
        (here + free * domain.cpus.len() as f64 / cpus as f64) / f64::from(vcpus.max(1))
    });
    parts.collect()
}
