//! Requests of the terminal to its caller.

use huddle_model::plan::Policy;

/// What the caller must do. Actions that change the host ([`Action::changes_host`]) are only returned once
/// the user has confirmed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Restore the terminal and exit.
    Quit,
    /// Apply the plan shown; with `dry_run` only report what would change, by
    /// [`App::report`](super::App::report).
    ApplyPlan {
        /// Change nothing.
        dry_run: bool,
    },
    /// Use this policy from the next round on.
    SetPolicy(Policy),
    /// Undo what was pinned.
    Restore,
    /// Start recording; answer with [`App::set_recording`](super::App::set_recording).
    StartRecording,
    /// Stop recording; answer likewise.
    StopRecording,
    /// Write the last minutes, which the loop keeps, as a recording.
    SaveLast,
    /// Save the picture ([`render`](crate::render)) as text ([`picture::text`](crate::picture::text)).
    SaveText,
    /// Save the picture as SVG ([`picture::svg`](crate::picture::svg)).
    SaveSvg,
    /// Replay: play.
    Play,
    /// Replay: pause.
    Pause,
    /// Replay: one step forward.
    Step,
    /// Replay: set this speed.
    SetSpeed(Speed),
    /// Replay: go to the step at this position, from 0.
    Seek {
        /// The position; always within the recording.
        position: usize,
    },
}

impl Action {
    /// Whether it changes how VMs run on the host, so that it needs confirmation.
    pub fn changes_host(self) -> bool {
        matches!(self, Self::ApplyPlan { dry_run: false } | Self::SetPolicy(_) | Self::Restore)
    }

    /// The capability that it needs; `None` for what is always allowed.
    pub fn capability(self) -> Option<Capability> {
        match self {
            Self::ApplyPlan { dry_run: true } => Some(Capability::DryRun),
            Self::ApplyPlan { dry_run: false } => Some(Capability::Apply),
            Self::SetPolicy(_) => Some(Capability::Policy),
            Self::Restore => Some(Capability::Restore),
            Self::StartRecording | Self::StopRecording | Self::SaveLast => Some(Capability::Record),
            Self::Play | Self::Pause | Self::Step | Self::SetSpeed(_) | Self::Seek { .. } => None,
            Self::Quit | Self::SaveText | Self::SaveSvg => None,
        }
    }
}

/// What a loop may not be able to do; the user then sees the reason instead of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// [`Action::ApplyPlan`] with `dry_run`.
    DryRun,
    /// [`Action::ApplyPlan`] without.
    Apply,
    /// [`Action::SetPolicy`].
    Policy,
    /// [`Action::Restore`].
    Restore,
    /// [`Action::StartRecording`], [`Action::StopRecording`] and [`Action::SaveLast`].
    Record,
}

impl Capability {
    /// All capabilities.
    pub const ALL: [Self; 5] = [Self::DryRun, Self::Apply, Self::Policy, Self::Restore, Self::Record];
}

/// Replay speed, as a power of two of the recorded speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Speed(i8);

impl Speed {
    /// The recorded speed.
    pub const ONE: Self = Self(0);
    const SLOWEST: i8 = -3;
    const FASTEST: i8 = 8;

    /// Recorded seconds per second.
    pub fn factor(self) -> f64 {
        f64::from(self.0).exp2()
    }

    /// Twice as fast, up to 256 times.
    #[must_use]
    pub fn faster(self) -> Self {
        Self((self.0 + 1).min(Self::FASTEST))
    }

    /// Half as fast, down to an eighth.
    #[must_use]
    pub fn slower(self) -> Self {
        Self((self.0 - 1).max(Self::SLOWEST))
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ..0 => write!(f, "1/{}x", 1u32 << self.0.unsigned_abs()),
            _ => write!(f, "{}x", 1u32 << self.0.unsigned_abs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_halve_and_double_within_bounds() {
        assert_eq!(Speed::ONE.faster().factor(), 2.0);
        assert_eq!(Speed::ONE.slower().to_string(), "1/2x");
        let (mut fast, mut slow) = (Speed::ONE, Speed::ONE);
        for _ in 0..100 {
            (fast, slow) = (fast.faster(), slow.slower());
        }
        assert_eq!((fast.to_string(), slow.to_string()), ("256x".into(), "1/8x".into()));
    }
}
