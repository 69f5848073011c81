//! Expected gain and cost of a plan.

use serde::{Deserialize, Serialize};

use super::{FRAME_BYTES, PlanInput, VcpuPlacement};

/// Expected effect of a placement, by the matrix it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Frames shared by pairs within one domain, as `shared_within` of the plan.
    pub frames_within: u64,
    /// Cache memory saved: a frame that two VMs of one domain share is cached once, not twice.
    pub cache_bytes_saved: u64,
    /// vCPUs that are elsewhere now or not bound; `None` if no vCPU's place is known, as offline.
    pub moves: Option<u64>,
    /// vCPUs that are placed.
    pub placed: u64,
    /// Upper bound of the shared frames within domains under the same limits; `None` if the policy has no
    /// such bound.
    pub bound_frames: Option<u64>,
    /// Whether the bound is that of the optimum; then a placement with as many frames is optimal.
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
        Some(Self {
            frames_within,
            cache_bytes_saved: frames_within.saturating_mul(FRAME_BYTES),
            moves: is_known.then_some(moves),
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
            "expected: {} shared frames within domains ({} KiB of cache saved)",
            self.frames_within,
            self.cache_bytes_saved / 1024,
        )?;
        match self.moves {
            Some(moves) => write!(f, ", {moves} of {} vCPUs moved", self.placed)?,
            None => write!(f, "; the current place of the {} vCPUs is unknown", self.placed)?,
        }
        match self.bound_frames {
            Some(bound) if self.bound_is_proven => write!(f, "; the optimum has {bound}"),
            Some(bound) => write!(f, "; no placement has more than {bound}"),
            None => Ok(()),
        }
    }
}
