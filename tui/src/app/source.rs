//! Where updates come from, and what that leaves to be done with them.

use super::action::{Capability, Speed};

/// Where updates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The loop in the same process.
    #[default]
    Live,
    /// A loop in another process, which does what it is asked over its socket.
    Attached {
        /// What it is attached to, for the screen.
        to: String,
        /// Why nothing comes at the moment: the loop ended, the connection broke.
        lost: Option<String>,
    },
    /// A recording.
    Replay(Replay),
}

/// How a replay stands.
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
    /// Whether it goes on by itself.
    pub is_playing: bool,
    /// How fast.
    pub speed: Speed,
}

impl Replay {
    /// Position `by` steps from where it stands, within the recording.
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
    /// Why this source cannot do something at all.
    pub(crate) fn refuses(&self, capability: Capability) -> Option<&'static str> {
        match self {
            Self::Live | Self::Attached { lost: None, .. } => None,
            // What it would change can be read from what was seen last.
            Self::Attached { lost: Some(_), .. } if capability == Capability::DryRun => None,
            Self::Attached { lost: Some(_), .. } => Some("no loop is attached"),
            Self::Replay(_) => Some("a recording is past: there is no host to change behind it"),
        }
    }

    pub(crate) fn replay(&self) -> Option<&Replay> {
        match self {
            Self::Replay(replay) => Some(replay),
            _ => None,
        }
    }
}

/// How a message to the user is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something was done.
    Done,
    /// Something was not done, or is not as it should be.
    Warning,
}
