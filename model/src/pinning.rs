//! Whether vCPUs were put where the plan wants them.

use serde::{Deserialize, Serialize};

/// What pinning did at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinOutcome {
    /// Threads whose affinity was changed.
    pub changed: u32,
    /// Threads that were already where they should be.
    pub unchanged: u32,
    /// Threads passed over: gone, or of a process that is another one now.
    pub skipped: u32,
}

/// Whether affinities are set as planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinning {
    /// They are, but for the threads that were passed over.
    Done(PinOutcome),
    /// They were left as they are, as asked for.
    DryRun,
    /// There was no plan to set them by, for this reason.
    NoPlan(String),
    /// They could not be set, for this reason.
    Failed(String),
    /// They are not, for this reason; which of the others it was is not known (an older recording).
    NotDone(String),
}

impl Pinning {
    /// What was changed; `None` where nothing was pinned.
    pub fn outcome(&self) -> Option<PinOutcome> {
        match self {
            Self::Done(outcome) => Some(*outcome),
            _ => None,
        }
    }

    /// Why nothing was pinned, as one sentence for the user; `None` where something was.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Done(_) => None,
            Self::DryRun => Some("dry run: affinities are left as they are"),
            Self::NoPlan(reason) | Self::Failed(reason) | Self::NotDone(reason) => Some(reason),
        }
    }

    /// Its name in recordings; `None` where it is not known which.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Done(_) => Some("done"),
            Self::DryRun => Some("dry_run"),
            Self::NoPlan(_) => Some("no_plan"),
            Self::Failed(_) => Some("failed"),
            Self::NotDone(_) => None,
        }
    }

    /// What a recording says by its name and its reason: nothing was pinned.
    pub fn recorded(name: Option<&str>, reason: String) -> Self {
        match name {
            Some("dry_run") => Self::DryRun,
            Some("no_plan") => Self::NoPlan(reason),
            Some("failed") => Self::Failed(reason),
            _ => Self::NotDone(reason),
        }
    }

    /// Why nothing was pinned although it was to be.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Done(_) | Self::DryRun => None,
            Self::NoPlan(reason) | Self::Failed(reason) | Self::NotDone(reason) => Some(reason),
        }
    }
}
