//! Events while the loop runs.

use serde::{Deserialize, Serialize};

use crate::id::VmRef;
use crate::kind::named;

/// An event for the log, the terminal and the recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// Kind of the event.
    pub kind: EventKind,
    /// The VM it concerns.
    pub vm: Option<VmRef>,
    /// One sentence.
    pub message: String,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A VM was seen for the first time.
    VmAppeared,
    /// A VM is gone.
    VmVanished,
    /// A stage failed; the loop goes on.
    StageFailed,
    /// A limit for plans names a VM that is not there, or that cannot be told from others.
    LimitLost,
    /// Affinities were changed.
    Pinned,
    /// A thread was skipped instead of pinned.
    PinSkipped,
    /// A note of a stage for the user.
    Note,
    /// The loop was started or is ending.
    Lifecycle,
}

named! {EventKind, "kind of event":
    VmAppeared = "vm_appeared",
    VmVanished = "vm_vanished",
    StageFailed = "stage_failed",
    LimitLost = "limit_lost",
    Pinned = "pinned",
    PinSkipped = "pin_skipped",
    Note = "note",
    Lifecycle = "lifecycle",
}
