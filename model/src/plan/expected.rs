//! Expected gain and cost of a plan.

use serde::{Deserialize, Serialize};

use super::{Bound, ExpectedMisses, PlanInput, VcpuPlacement};
use crate::matrix::{CountedBy, SavedFrames};
use crate::text::counted;

/// Expected effect of a placement, by the matrix it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Frames shared by pairs within one domain, as `shared_within` of the plan.
    pub frames_within: u64,
    /// Cache memory saved: a frame that several VMs of one domain map is cached once. See
    /// [`SharingMatrix::saved_frames`](crate::matrix::SharingMatrix::saved_frames).
    pub cache_bytes_saved: u64,
    /// What `cache_bytes_saved` was counted by; unless by groups, it is an upper bound.
    #[serde(default = "by_pairs")]
    pub cache_bytes_saved_by: CountedBy,
    /// vCPUs that are elsewhere now or not bound; `None` if no vCPU's place is known, as offline.
    pub moves: Option<u64>,
    /// vCPUs that are placed.
    pub placed: u64,
    /// Upper bound of the shared frames within domains under the same limits; `None` if the policy has no
    /// such bound.
    pub bound_frames: Option<u64>,
    /// Upper bound of the cache memory saved under the same limits, for a plan by groups; `None` like `bound_frames`.
    #[serde(default)]
    pub bound_bytes_saved: Option<u64>,
    /// Whether the bound is that of the optimum; then a placement with as much is optimal.
    pub bound_is_proven: bool,
    /// An estimate of misses; `None` where what it is made from is not known.
    #[serde(default)]
    pub misses: Option<ExpectedMisses>,
    /// Why there is no estimate, as one clause; `None` where there is one, and in plans of earlier versions.
    #[serde(default)]
    pub misses_unavailable: Option<String>,
}

fn parted(estimate: Result<ExpectedMisses, String>) -> (Option<ExpectedMisses>, Option<String>) {
    match estimate {
        Ok(estimate) => (Some(estimate), None),
        Err(reason) => (None, Some(reason)),
    }
}

/// As earlier versions did.
fn by_pairs() -> CountedBy {
    CountedBy::Pairs
}

impl Expected {
    /// `None` when the matrix has no frames. `bound`: frames, and whether the optimum is proven.
    pub(super) fn of(
        input: &PlanInput<'_>,
        placement: &[VcpuPlacement],
        within: Option<(u64, SavedFrames)>,
        bound: Option<Bound>,
    ) -> Option<Self> {
        let (frames_within, saved) = within?;
        let page_size = input.matrix.page_size();
        let position = |name: &str| input.matrix.vms().iter().position(|vm| vm.name == name);
        let is_known = input.vms.iter().any(|vm| !vm.current.is_empty());
        // The entries of a VM are adjacent.
        let mut at: (&str, Option<usize>) = ("", None);
        let mut moves = 0;
        for placed in placement {
            if at.0 != placed.vm {
                at = (&placed.vm, position(&placed.vm));
            }
            let now = at.1.and_then(|vm| {
                let current = &input.vms.get(vm)?.current;
                current.get(input.position(vm, placed.vcpu)).copied().flatten()
            });
            moves += u64::from(now != Some(placed.domain));
        }
        let (misses, misses_unavailable) = parted(input.expected_misses_from_now(placement));
        Some(Self {
            frames_within,
            cache_bytes_saved: page_size.bytes_of(saved.frames.round() as u64),
            cache_bytes_saved_by: saved.counted_by,
            moves: is_known.then_some(moves),
            placed: placement.len() as u64,
            bound_frames: bound.and_then(|bound| match bound {
                Bound::Shared { frames, .. } => Some(frames),
                Bound::Saved { .. } => None,
            }),
            bound_bytes_saved: bound.and_then(|bound| match bound {
                Bound::Saved { frames, .. } => Some(page_size.bytes_of(frames)),
                Bound::Shared { .. } => None,
            }),
            bound_is_proven: bound.is_some_and(|bound| match bound {
                Bound::Saved { is_proven, .. } | Bound::Shared { is_proven, .. } => is_proven,
            }),
            misses,
            misses_unavailable,
        })
    }

    /// The same with another estimate of misses, or the reason why there is none.
    #[must_use]
    pub fn with_misses(self, estimate: Result<ExpectedMisses, String>) -> Self {
        let (misses, misses_unavailable) = parted(estimate);
        Self { misses, misses_unavailable, ..self }
    }
}

impl std::fmt::Display for Expected {
    /// One sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kib, by) = (
            self.cache_bytes_saved / 1024,
            match self.cache_bytes_saved_by {
                _ if self.cache_bytes_saved == 0 => ("", ""),
                CountedBy::Groups => ("", ""),
                CountedBy::GroupsAndPairs => ("at most ", ", some of it counted by pairs"),
                CountedBy::Pairs => ("at most ", ", counted by pairs"),
            },
        );
        write!(
            f,
            "expected: {} shared frames within domains ({}{kib} KiB of cache saved{})",
            self.frames_within, by.0, by.1,
        )?;
        match self.moves {
            Some(moves) => write!(f, ", {moves} of {} moved", counted(self.placed, "vCPU"))?,
            None => write!(f, "; the current place of the {} is unknown", counted(self.placed, "vCPU"))?,
        }
        let bound = self.bound_frames.map(|frames| frames.to_string());
        let bound = bound.or_else(|| Some(format!("{} KiB saved", self.bound_bytes_saved? / 1024)));
        match bound {
            Some(bound) if self.bound_is_proven => write!(f, "; the optimum has {bound}"),
            Some(bound) => write!(f, "; no placement has more than {bound}"),
            None => Ok(()),
        }
    }
}
