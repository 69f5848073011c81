//! Where updates come from, and which actions the source allows.

use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::summary::{Arm, SimulatedMisses};

use super::action::{Capability, Speed};

/// Where updates come from.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// A recording, or the result of an experiment.
    Replay(Replay),
}

/// State of a replay.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// The experiment whose result is shown, an arm each step; `None` for a recording.
    pub experiment: Option<Arc<ExperimentResult>>,
}

/// What the result of an experiment has beside the view of each arm.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentResult {
    /// The arm of each step: the round of its view has the number of the step, from 1.
    pub arms: Vec<Arm>,
    /// Misses that a simulated cache has had in every arm, or why there are none.
    pub simulated: Availability<SimulatedMisses>,
}

impl Source {
    pub(crate) fn is_attached(&self) -> bool {
        matches!(self, Self::Attached { .. })
    }
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
