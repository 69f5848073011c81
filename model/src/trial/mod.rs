//! Comparing placements: trials, their progress, and decisions.

mod budget;
mod cadence;
mod error_budget;
mod machine;
mod running;
mod settings;
mod sharing;
mod verdict;
mod writers;

use serde::{Deserialize, Serialize};

use crate::availability::Availability;
use crate::observation::TrialBlock;
use crate::pinning::Pinning;
use crate::stats::Estimate;

pub use budget::MoveBudget;
pub use cadence::{Cadence, CadenceLimits};
pub use error_budget::ErrorBudget;
pub use machine::{HostReading, Machine, Member, Moment, RoundReading};
pub use settings::{BadSetting, TrialSettings};
pub use sharing::{Gain, change};
pub use writers::{Breaking, WRITER, Writers};

/// The objective of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// LLC misses per 1000 instructions; less is better.
    Mpki,
    /// LLC misses per LLC reference; less is better.
    MissRatio,
    /// Instructions per cycle; more is better.
    Ipc,
    /// Operations per second, as reported by workloads; more is better.
    Reported,
}

impl Objective {
    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mpki => "mpki",
            Self::MissRatio => "miss_ratio",
            Self::Ipc => "ipc",
            Self::Reported => "reported",
        }
    }

    /// All objectives.
    pub const ALL: [Self; 4] = [Self::Mpki, Self::MissRatio, Self::Ipc, Self::Reported];

    /// Whether a higher value is the better one.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Ipc | Self::Reported)
    }
}

/// State of the comparison of placements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The objective.
    pub objective: Objective,
    /// The current state of the loop.
    pub phase: Phase,
    /// The placements of the current trial, or of the last one.
    pub arms: Vec<Arm>,
}

/// State of a loop with trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No trial runs; one starts when a proposal is worth it.
    Observing {
        /// Change of sharing in the last pass (0.1: a tenth), if it is too large for trials.
        moved: Option<f64>,
    },
    /// A trial runs.
    Trial {
        /// Number of its block, from 1.
        block: u32,
        /// Its planned number of blocks; beyond it, the current one.
        blocks: u32,
    },
    /// A pause after a decision.
    Holding,
    /// Nothing is pinned, so nothing is tried.
    DryRun,
    /// A recorded window, with its part of a trial.
    Recorded(Option<TrialBlock>),
}

impl std::fmt::Display for Phase {
    /// One short line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Observing { moved: None } => f.write_str("observing"),
            Self::Observing { moved: Some(moved) } => {
                write!(f, "observing: sharing changes, {:.0} % since the last pass", moved * 100.0)
            }
            Self::Trial { block, blocks } => write!(f, "trial block {block} of {blocks}"),
            Self::Holding => f.write_str("holding"),
            Self::DryRun => {
                write!(f, "no trials: {}", Pinning::DryRun.reason().unwrap_or_default())
            }
            Self::Recorded(Some(TrialBlock { arm, block, .. })) => {
                write!(f, "trial block {}, arm {arm}", u64::from(*block) + 1)
            }
            Self::Recorded(None) => f.write_str("no trial in this window"),
        }
    }
}

/// One placement in a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Its name: `before`, or the policy that proposed it.
    pub name: String,
    /// The objective in this arm over its blocks so far.
    pub value: Availability<Estimate>,
    /// The objective by block, in order.
    pub blocks: Vec<f64>,
}

/// How a proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was better by at least the configured effect, and was kept.
    Kept,
    /// It was not better enough, and was reverted.
    #[serde(rename = "taken_back")]
    Reverted,
    /// A limit was exceeded, or a VM changed, during the trial; it was reverted.
    Aborted,
    /// It was not tried.
    NotTried,
}

impl Outcome {
    /// Its name in recordings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Reverted => "taken_back",
            Self::Aborted => "aborted",
            Self::NotTried => "not_tried",
        }
    }

    /// Its name for users.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Reverted => "reverted",
            Self::Aborted => "aborted",
            Self::NotTried => "not tried",
        }
    }
}

/// How much the blocks of a trial speak for its proposal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The e-value against "not better" ([`crate::stats::evidence_above`]): 1 speaks for neither.
    pub value: f64,
    /// What was required to keep it ([`ErrorBudget`]).
    pub required: f64,
}

impl std::fmt::Display for Evidence {
    /// `64 of 40 required`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { value, required } = self;
        let decimals = if *value < 10.0 { 2 } else { 0 };
        write!(f, "{value:.decimals$} of {required:.0} required")
    }
}

/// One decision, with its basis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When, in microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// The round of the plan.
    pub round: u64,
    /// The objective.
    pub objective: Objective,
    /// The proposal, as one short line.
    pub proposal: String,
    /// Expected relative change of the objective (0.1: ten percent better), if known.
    pub expected_change: Option<f64>,
    /// Observed relative change of the objective, paired by block, with its interval, which is valid although the
    /// trial ended when it did ([`crate::stats::sequential_estimate`]); positive is better.
    pub observed_change: Option<Estimate>,
    /// The number of the trial within the run, from 1; `None` if there was none.
    #[serde(default)]
    pub trial: Option<u32>,
    /// The evidence of the trial that the proposal is better; `None` without a complete block.
    #[serde(default)]
    pub evidence: Option<Evidence>,
    /// The outcome.
    pub outcome: Outcome,
    /// The reason, as one sentence.
    pub reason: String,
}

impl std::fmt::Display for Decision {
    /// One readable line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.outcome.label(), self.proposal)?;
        if let Some(expected) = self.expected_change {
            write!(f, "; expected {:+.1} %", expected * 100.0)?;
        }
        if let Some(seen) = &self.observed_change {
            write!(f, ", saw {:+.1} %", seen.median * 100.0)?;
            if let Some([low, high]) = seen.ci95 {
                write!(f, " ({:+.1} to {:+.1} %", low * 100.0, high * 100.0)?;
                write!(f, ", {} blocks)", seen.n)?;
            }
        }
        if let Some(evidence) = &self.evidence {
            write!(f, ", evidence {evidence}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// An objective that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown objective {0:?}; choose mpki, miss_ratio, ipc or reported")]
pub struct UnknownObjective(String);

impl std::str::FromStr for Objective {
    type Err = UnknownObjective;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|objective| objective.name() == name);
        found.ok_or_else(|| UnknownObjective(name.to_owned()))
    }
}
