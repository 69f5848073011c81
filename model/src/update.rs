//! What the loop tells while it runs: one thing that is new at a time.
//!
//! Readers take updates as they come; a [`View`](crate::view::View) is what they add up to. What a round has
//! in common with the one before (the cells of the matrix, the cache domains, the plan) is the same memory,
//! so that an update costs what is new in it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::event::Event;
use crate::ksm::KsmState;
use crate::matrix::SharingMatrix;
use crate::observation::Observation;
use crate::pinning::Pinning;
use crate::plan::Plan;
use crate::topology::Topology;
use crate::trial::{Comparison, Decision};
use crate::vm::Vm;

/// One time through the stages, or a command that was done with what the round before had found: from then on
/// another plan may be in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Rounds since the start, from 1.
    pub number: u64,
    /// When it began and ended, in microseconds since the Unix epoch.
    pub begin_unix_us: u64,
    /// See `begin_unix_us`.
    pub end_unix_us: u64,
    /// KSM's counters and settings.
    pub ksm: Availability<KsmState>,
    /// Cache domains.
    pub topology: Availability<Arc<Topology>>,
    /// The VMs found.
    pub vms: Arc<Vec<Vm>>,
    /// What they share.
    pub matrix: Availability<Arc<SharingMatrix>>,
    /// What the policy makes of it.
    pub plan: Availability<Arc<Plan>>,
    /// Whether affinities were set at its end.
    pub pinning: Pinning,
    /// What happened in it.
    pub events: Vec<Event>,
    /// CPU time this process has used so far, in microseconds.
    pub own_cpu_us: Availability<u64>,
}

impl Round {
    /// This one on what it has in common with the round before, so that equal parts are in memory once.
    #[must_use]
    pub fn sharing_parts_with(mut self, before: &Self) -> Self {
        share(&mut self.topology, &before.topology);
        share(&mut self.plan, &before.plan);
        if self.vms == before.vms {
            self.vms = Arc::clone(&before.vms);
        }
        if let (Availability::Available(matrix), Availability::Available(old)) =
            (&mut self.matrix, &before.matrix)
        {
            let own = std::mem::replace(matrix, Arc::clone(old));
            if own != *old {
                *matrix = Arc::new(Arc::unwrap_or_clone(own).share_cells_with(old));
            }
        }
        self
    }
}

fn share<T: PartialEq>(now: &mut Availability<Arc<T>>, before: &Availability<Arc<T>>) {
    if let (Availability::Available(now), Availability::Available(before)) = (now, before)
        && *now == *before
    {
        *now = Arc::clone(before);
    }
}

/// One thing that is new.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A round has ended, or a command was done.
    Round(Arc<Round>),
    /// A window of observation has ended; it belongs to the round before.
    Window(Availability<Arc<Observation>>),
    /// A trial put another placement in force between rounds, or took one back.
    Switch(Pinning),
    /// How the trial of placements stands now; unavailable where the loop does not try, with the reason.
    Comparison(Availability<Arc<Comparison>>),
    /// Something happened since the round ended. What happened in the round is told with it.
    Event(Event),
    /// A proposed placement was kept, taken back, or not tried at all.
    Decision(Decision),
}

/// What one step of the loop tells (a round, a window, a command), in order: readers see all of it at once.
pub type Step = Arc<[Update]>;
