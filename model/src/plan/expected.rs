//! What a plan is expected to bring and to cost.

use serde::{Deserialize, Serialize};

use super::{FRAME_BYTES, PlanInput, VcpuPlacement};

/// What a placement comes to, by the matrix it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Frames shared by pairs within one domain, as `shared_within` of the plan.
    pub frames_within: u64,
    /// What that saves of the caches: a frame that two VMs of one domain share is there once, not twice.
    pub cache_bytes_saved: u64,
    /// vCPUs that are elsewhere now, or nobody knows where.
    pub moves: u64,
    /// vCPUs that are placed.
    pub placed: u64,
    /// Frames that no placement under the same limits can bring together more of; `None` where the policy
    /// knows no such bound.
    pub bound_frames: Option<u64>,
    /// Whether the bound is that of the optimum, which then is this placement if it has as many frames.
    pub bound_is_proven: bool,
}

impl Expected {
    /// `None` when the matrix has no frames. `bound`: frames, and whether the optimum is proven.
    pub(super) fn of(
        input: &PlanInput<'_>,
        placement: &[VcpuPlacement],
        within: Option<u64>,
        bound: Option<(u64, bool)>,
    ) -> Option<Self> {
        let frames_within = within?;
        let position = |name: &str| input.matrix.vms().iter().position(|vm| vm.name == name);
        let mut at: (&str, Option<usize>) = ("", None);
        let mut moves = 0;
        for placed in placement {
            if at.0 != placed.vm {
                at = (&placed.vm, position(&placed.vm));
            }
            let current = at.1.and_then(|vm| input.vms.get(vm)).map(|vm| &vm.current);
            let now = current.and_then(|current| current.get(placed.vcpu as usize).copied().flatten());
            moves += u64::from(now != Some(placed.domain));
        }
        Some(Self {
            frames_within,
            cache_bytes_saved: frames_within * FRAME_BYTES,
            moves,
            placed: placement.len() as u64,
            bound_frames: bound.map(|(frames, _)| frames),
            bound_is_proven: bound.is_some_and(|(_, proven)| proven),
        })
    }
}

impl std::fmt::Display for Expected {
    /// One sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "expected: {} shared frames within domains ({} KiB of cache saved), {} of {} vCPUs moved",
            self.frames_within,
            self.cache_bytes_saved / 1024,
            self.moves,
            self.placed
        )?;
        match self.bound_frames {
            Some(bound) if self.bound_is_proven => write!(f, "; the optimum has {bound}"),
            Some(bound) => write!(f, "; no placement has more than {bound}"),
            None => Ok(()),
        }
    }
}
