//! What a viewer may ask of a running loop.

use serde::{Deserialize, Serialize};

use crate::plan::Policy;

/// One command; all but the recording may change where vCPUs run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopCommand {
    /// Pin as planned, now and from now on.
    Apply,
    /// Pin nothing from now on; what is pinned stays.
    DryRun,
    /// Plan by another policy, at once; pinned as well where the loop pins.
    SetPolicy(Policy),
    /// Take back every change, and pin nothing from now on.
    Restore,
    /// Record into this directory, which must be new or empty.
    StartRecording {
        /// As the loop's process sees it.
        dir: String,
    },
    /// Close the recording.
    StopRecording,
}

impl LoopCommand {
    /// What it does to the host, as a question to the user; `None` where it changes nothing there.
    pub fn question(&self) -> Option<String> {
        match self {
            Self::Apply => Some("Pin vCPUs as planned?".into()),
            Self::SetPolicy(policy) => {
                Some(format!("Plan with policy {policy}, and pin accordingly where the loop pins?"))
            }
            Self::Restore => Some("Undo every change?".into()),
            Self::DryRun | Self::StartRecording { .. } | Self::StopRecording => None,
        }
    }
}
