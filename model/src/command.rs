//! Commands of a viewer to a running loop.

use serde::{Deserialize, Serialize};

use crate::plan::Policy;

/// A command; all but those for recording may change where vCPUs run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopCommand {
    /// Pin as planned, from now on.
    Apply,
    /// Pin nothing from now on; existing pinning stays.
    DryRun,
    /// Use another policy, at once; also pins if the loop pins.
    SetPolicy(Policy),
    /// Undo every change, and pin nothing from now on.
    Restore,
    /// Record into this directory, which must be new or empty.
    StartRecording {
        /// Path as seen by the loop's process.
        dir: String,
    },
    /// Stop recording.
    StopRecording,
    /// Write the last minutes, which the loop keeps in memory, as a recording of their own.
    SaveLast,
}

impl LoopCommand {
    /// Whether it is about the recording, and so nothing to the engine.
    pub fn is_for_recording(&self) -> bool {
        matches!(self, Self::StartRecording { .. } | Self::StopRecording | Self::SaveLast)
    }

    /// The confirmation to show before it changes the host; `None` if it does not.
    pub fn question(&self) -> Option<String> {
        match self {
            Self::Apply => Some("Pin vCPUs as planned?".into()),
            Self::SetPolicy(policy) => {
                Some(format!("Plan with policy {policy}, and pin accordingly if the loop pins?"))
            }
            Self::Restore => Some("Undo every change?".into()),
            Self::DryRun | Self::StartRecording { .. } | Self::StopRecording | Self::SaveLast => None,
        }
    }
}
