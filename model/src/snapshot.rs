//! What the loop knows at one moment: the one thing that the terminal, the attach socket and the
//! headless log read.

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::id::VmRef;
use crate::ksm::KsmState;
use crate::matrix::SharingMatrix;
use crate::observation::Observation;
use crate::plan::Plan;
use crate::topology::Topology;
use crate::trial::Comparison;
use crate::vm::Vm;

/// Something that happened, for the log, the terminal and the recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// What sort of thing.
    pub kind: EventKind,
    /// The VM it concerns.
    pub vm: Option<VmRef>,
    /// One sentence.
    pub message: String,
}

/// Sorts of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A VM was seen for the first time.
    VmAppeared,
    /// A VM is gone.
    VmVanished,
    /// A stage could not do its work; the loop goes on.
    StageFailed,
    /// Affinities were changed.
    Pinned,
    /// A thread was passed over instead of pinned.
    PinSkipped,
    /// Something a stage wants the user to know.
    Note,
    /// The loop was started or is ending.
    Lifecycle,
}

impl EventKind {
    /// Its name in recordings.
    pub fn name(self) -> &'static str {
        match self {
            Self::VmAppeared => "vm_appeared",
            Self::VmVanished => "vm_vanished",
            Self::StageFailed => "stage_failed",
            Self::Pinned => "pinned",
            Self::PinSkipped => "pin_skipped",
            Self::Note => "note",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// The loop's view after one round, or, with the same `round`, after a window of observation in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Rounds since the start, from 1; 0 before the first.
    pub round: u64,
    /// When the round began and ended, in microseconds since the Unix epoch.
    pub begin_unix_us: u64,
    /// See `begin_unix_us`.
    pub end_unix_us: u64,
    /// KSM's counters and settings.
    pub ksm: Availability<KsmState>,
    /// Cache domains.
    pub topology: Availability<Topology>,
    /// The VMs found.
    pub vms: Vec<Vm>,
    /// What they share.
    pub matrix: Availability<SharingMatrix>,
    /// What the policy makes of it.
    pub plan: Availability<Plan>,
    /// Whether affinities are set as planned, with what was changed in this round.
    pub pinned: Availability<PinOutcome>,
    /// What counters and probes saw in the last window; it is renewed more often than the rest.
    pub observation: Availability<Observation>,
    /// The placements tried so far; unavailable where the loop does not try, with the reason.
    pub comparison: Availability<Comparison>,
    /// What happened since the round began; snapshots of windows in the same round only add to it.
    pub events: Vec<Event>,
    /// CPU time this process has used so far, in microseconds.
    pub own_cpu_us: Availability<u64>,
}

/// What pinning did in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinOutcome {
    /// Threads whose affinity was changed.
    pub changed: u32,
    /// Threads that were already where they should be.
    pub unchanged: u32,
    /// Threads passed over: gone, or of a process that is another one now.
    pub skipped: u32,
}
