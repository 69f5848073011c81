//! Updates of the loop: one change at a time.
//!
//! Readers receive updates as they come; a [`View`](crate::view::View) is their sum. Parts of a round that
//! equal those of the previous one (the cells of the matrix, the cache domains, the plan) share memory, so
//! that an update costs only what is new.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assignment::Assignment;
use crate::availability::Availability;
use crate::event::Event;
use crate::ksm::KsmState;
use crate::left_out::LeftOutVms;
use crate::matrix::SharingMatrix;
use crate::observation::Observation;
use crate::pinning::Pinning;
use crate::plan::Plan;
use crate::topology::Topology;
use crate::trial::{Comparison, Decision};
use crate::vm::Vm;

/// One pass through the stages, or a command executed with the data of the previous round, after which
/// another plan may be in effect.
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
    /// The VMs.
    pub vms: Arc<Vec<Vm>>,
    /// What looks like a VM and is not taken for one; unavailable where VMs could not be looked for.
    pub left_out: Availability<LeftOutVms>,
    /// The sharing matrix.
    pub matrix: Availability<Arc<SharingMatrix>>,
    /// The plan of the policy.
    pub plan: Availability<Arc<Plan>>,
    /// Whether affinities were set at its end.
    pub pinning: Pinning,
    /// The vCPUs that huddle has bound to a domain at its end. While a trial runs, or after it was reverted, this is not
    /// the plan.
    pub in_force: Arc<Assignment>,
    /// Its events.
    pub events: Vec<Event>,
    /// CPU time this process has used so far, in microseconds.
    pub own_cpu_us: Availability<u64>,
}

impl Round {
    /// This one with the equal parts of the previous round, so that they are in memory once.
    #[must_use]
    pub fn sharing_parts_with(mut self, before: &Self) -> Self {
        share(&mut self.topology, &before.topology);
        share(&mut self.plan, &before.plan);
        if self.vms == before.vms {
            self.vms = Arc::clone(&before.vms);
        }
        if self.in_force == before.in_force {
            self.in_force = Arc::clone(&before.in_force);
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

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A round has ended, or a command was executed.
    Round(Arc<Round>),
    /// A window of observation has ended; it belongs to the previous round.
    Window(Availability<Arc<Observation>>),
    /// A trial applied or reverted a placement between rounds.
    Switch {
        /// Whether affinities were set.
        pinning: Pinning,
        /// See [`Round::in_force`].
        in_force: Arc<Assignment>,
    },
    /// The state of trials; unavailable, with the reason, if there are none.
    Comparison(Availability<Arc<Comparison>>),
    /// Something happened since the round ended. Events of the round are part of it.
    Event(Event),
    /// A proposed placement was kept, reverted, aborted or not tried.
    Decision(Decision),
}

/// The updates of one step of the loop (a round, a window, a command), in order: readers see them at once.
pub type Step = Arc<[Update]>;
