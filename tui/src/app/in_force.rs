//! Which placement is in force, since when, and how much better it is than the one before.

use huddle_model::pinning::Pinning;
use huddle_model::stats::Estimate;
use huddle_model::trial::{Decision, Outcome, Phase};

use super::Picture;

/// What is in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum InForce {
    /// huddle has bound no vCPU; why.
    Nothing(String),
    /// A trial runs: in which block, and of which arm if that is known.
    Trial { phase: String, arm: Option<String> },
    /// A placement.
    Placed {
        /// What it is: the proposal that was kept, or the policy.
        what: String,
        /// In microseconds since the Unix epoch; `None`: since before the first round that was seen.
        since_unix_us: Option<u64>,
        /// The decision of its trial.
        gain: Gain,
    },
}

/// How much better a placement is than the one before.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Gain {
    /// By its trial; positive is better.
    Seen(Estimate),
    /// Its trial has no figure.
    NotSeen,
    /// It was pinned without a trial.
    NotTried,
}

impl InForce {
    pub(crate) fn of(picture: &Picture) -> Self {
        let view = &picture.view;
        let comparison = view.comparison.value();
        if let Some(phase) = comparison.map(|comparison| &comparison.phase)
            && matches!(phase, Phase::Trial { .. } | Phase::Recorded(Some(_)))
        {
            let seen = view.observation.value().and_then(|seen| seen.trial.as_ref());
            let arm = seen.map(|trial| trial.arm.clone()).filter(|_| matches!(phase, Phase::Trial { .. }));
            return Self::Trial { phase: phase.to_string(), arm };
        }
        let plan = view.round.plan.value();
        if view.in_force.is_empty() {
            let waiting = plan.and_then(|plan| plan.waiting.clone());
            let why = match (&view.pinning, waiting) {
                (_, Some(waiting)) => waiting,
                (Pinning::Done(_), None) if comparison.is_some() => "no proposal was kept so far".to_owned(),
                (Pinning::Done(_), None) => "no vCPU is bound".to_owned(),
                (pinning, None) => pinning.reason().unwrap_or_default().to_owned(),
            };
            return Self::Nothing(why);
        }
        let is_kept = |decision: &&Decision| decision.outcome == Outcome::Kept;
        if let Some(kept) = view.decisions.iter().rev().find(is_kept).filter(|_| comparison.is_some()) {
            return Self::Placed {
                what: kept.proposal.clone(),
                since_unix_us: Some(kept.at_unix_us),
                gain: kept.observed_change.map_or(Gain::NotSeen, Gain::Seen),
            };
        }
        let pinned = picture.change.as_ref().filter(|change| change.pinning.outcome().is_some());
        Self::Placed {
            what: plan.map_or_else(|| "a placement".to_owned(), |plan| format!("policy {}", plan.policy)),
            since_unix_us: pinned.map(|change| change.at_unix_us),
            gain: Gain::NotTried,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use huddle_model::availability::Availability;
    use huddle_model::plan::Policy;
    use huddle_model::view::View;
    use huddle_testing::fixtures::{SMALL, compared, groups, observed};

    use super::*;
    use crate::{App, Charset, ColourMode, Options};

    fn shown(views: &[View]) -> InForce {
        let tick = Duration::from_secs(1);
        let (colour, charset) = (ColourMode::NoColour, Charset::Ascii);
        let mut app = App::new(Options { colour, charset, size: (80, 24), tick });
        for view in views {
            app.on_view(view.clone(), 0);
        }
        InForce::of(app.shown.as_ref().unwrap())
    }

    #[test]
    fn a_kept_proposal_is_in_force_since_its_decision_with_what_its_trial_saw() {
        let view = groups(Policy::Paper, 5);
        let kept = view.decisions.iter().find(|decision| decision.outcome == Outcome::Kept).unwrap();
        let InForce::Placed { what, since_unix_us, gain } = shown(std::slice::from_ref(&view)) else {
            panic!()
        };
        assert_eq!((what, since_unix_us), (kept.proposal.clone(), Some(kept.at_unix_us)));
        assert_eq!(gain, Gain::Seen(kept.observed_change.unwrap()));
    }

    /// A kept proposal that was undone since is not in force, whatever was decided.
    #[test]
    fn nothing_is_in_force_after_everything_was_restored() {
        let mut view = groups(Policy::Paper, 5);
        view.in_force = Arc::default();
        view.pinning = Pinning::DryRun;
        assert_eq!(shown(&[view]), InForce::Nothing(Pinning::DryRun.reason().unwrap().to_owned()));
    }

    #[test]
    fn while_a_trial_runs_nothing_is_decided() {
        assert!(matches!(shown(&[compared(SMALL, 1)]), InForce::Trial { arm: None, .. }));
    }

    #[test]
    fn without_trials_a_placement_is_in_force_since_it_was_pinned_and_not_tried() {
        let first = observed(SMALL, 1);
        let since = first.round.end_unix_us;
        let InForce::Placed { what, since_unix_us, gain } = shown(&[first, observed(SMALL, 2)]) else {
            panic!()
        };
        assert_eq!((&*what, since_unix_us, gain), ("policy paper", Some(since), Gain::NotTried));
        // Who joins later does not know since when.
        let InForce::Placed { since_unix_us, .. } = shown(&[observed(SMALL, 9)]) else { panic!() };
        assert_eq!(since_unix_us, None);
    }

    #[test]
    fn a_loop_that_pins_nothing_says_why() {
        let mut view = observed(SMALL, 1);
        view.in_force = Arc::default();
        let round = Arc::make_mut(&mut view.round);
        round.plan = Availability::Unavailable("no matrix".to_owned());
        (round.pinning, view.pinning) =
            (Pinning::NoPlan("no matrix".to_owned()), Pinning::NoPlan("no matrix".to_owned()));
        assert_eq!(shown(&[view]), InForce::Nothing("no matrix".to_owned()));
    }
}
