//! Where updates come from, and which actions the source allows.

use super::action::{Capability, Speed};

/// Where updates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The loop in the same process.
    #[default]
    Live,
    /// A loop in another process, controlled over its socket.
    Attached {
        /// Name of the loop, for the screen.
        to: String,
        /// Why no updates arrive: the loop ended, the connection broke.
        lost: Option<String>,
    },
    /// A recording.
    Replay(Replay),
}

/// State of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The recording's name, for the screen.
    pub name: String,
    /// Position of the step shown, from 0.
    pub position: usize,
    /// Number of steps in the recording.
    pub length: usize,
    /// Time of the first and of the last step, in microseconds since the Unix epoch.
    pub span_unix_us: (u64, u64),
    /// Whether it is playing.
    pub is_playing: bool,
    /// Its speed.
    pub speed: Speed,
}

impl Replay {
    /// The position `by` steps away, within the recording.
    pub(crate) fn moved(&self, by: isize) -> usize {
        self.position.saturating_add_signed(by).min(self.length.saturating_sub(1))
    }

    /// How much of the recording lies before the position shown, from 0 to 1.
    pub(crate) fn part(&self) -> f64 {
        match self.length {
            0 | 1 => 0.0,
            length => self.position.min(length - 1) as f64 / (length - 1) as f64,
        }
    }
}

impl Source {
    /// Why this source does not support an action.
    pub(crate) fn refuses(&self, capability: Capability) -> Option<&'static str> {
        match self {
            Self::Live | Self::Attached { lost: None, .. } => None,
            // A dry run needs only the last state.
            Self::Attached { lost: Some(_), .. } if capability == Capability::DryRun => None,
            Self::Attached { lost: Some(_), .. } => Some("not connected to a loop"),
            Self::Replay(_) => Some("a replay cannot change the host"),
        }
    }

    pub(crate) fn replay(&self) -> Option<&Replay> {
        match self {
            Self::Replay(replay) => Some(replay),
            _ => None,
        }
    }
}

/// Severity of a message to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// An action succeeded.
    Done,
    /// An action failed or was refused.
    Warning,
}
