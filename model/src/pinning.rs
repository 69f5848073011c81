//! Whether vCPUs were pinned as planned.

use serde::{Deserialize, Serialize};

/// Counts of one pinning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinOutcome {
    /// Threads whose affinity was changed.
    pub changed: u32,
    /// Threads that were already in place.
    pub unchanged: u32,
    /// Threads skipped: gone, or of a process that was replaced.
    pub skipped: u32,
}

/// Whether affinities are set as planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinning {
    /// They are, except for skipped threads.
    Done(PinOutcome),
    /// They were left as they are, as requested.
    DryRun,
    /// There was no plan, for this reason.
    NoPlan(String),
    /// They could not be set, for this reason.
    Failed(String),
    /// They are not, for this reason; which of the other cases it was is unknown (an older recording).
    NotDone(String),
}

impl Pinning {
    /// The counts; `None` if nothing was pinned.
    pub fn outcome(&self) -> Option<PinOutcome> {
        match self {
            Self::Done(outcome) => Some(*outcome),
            _ => None,
        }
    }

    /// Why nothing was pinned, as one sentence for the user; `None` if something was.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Done(_) => None,
            Self::DryRun => Some("dry run: affinities are left as they are"),
            Self::NoPlan(reason) | Self::Failed(reason) | Self::NotDone(reason) => Some(reason),
        }
    }

    /// Its name in recordings; `None` if it is unknown which.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Done(_) => Some("done"),
            Self::DryRun => Some("dry_run"),
            Self::NoPlan(_) => Some("no_plan"),
            Self::Failed(_) => Some("failed"),
            Self::NotDone(_) => None,
        }
    }

    /// The state of a recording's name and reason: nothing was pinned.
    pub fn recorded(name: Option<&str>, reason: String) -> Self {
        match name {
            Some("dry_run") => Self::DryRun,
            Some("no_plan") => Self::NoPlan(reason),
            Some("failed") => Self::Failed(reason),
            _ => Self::NotDone(reason),
        }
    }

    /// Why pinning failed.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Done(_) | Self::DryRun => None,
            Self::NoPlan(reason) | Self::Failed(reason) | Self::NotDone(reason) => Some(reason),
        }
    }
}
