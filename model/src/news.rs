//! What a snapshot holds that the one before did not: a loop publishes the same round again with every
//! window of observation, and each thing is to be recorded and logged once.

use crate::availability::Availability;
use crate::schema::{Rows, event_rows, observation_rows, rows_of, trial_rows};
use crate::snapshot::{Event, Snapshot};
use crate::trial::Decision;

/// What was taken from the snapshots so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    round: u64,
    events: usize,
    window: u64,
    decisions: usize,
}

/// What is new in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether its round is new.
    pub round: bool,
    /// Whether its window of observation is new.
    pub window: bool,
    events_from: usize,
    decisions_from: usize,
}

impl Taken {
    /// What is new in `snapshot`, which counts as taken from now on.
    pub fn take(&mut self, snapshot: &Snapshot) -> News {
        let round = snapshot.round != self.round;
        let window = snapshot.observation.value().map(|seen| seen.window);
        let decisions = snapshot.comparison.value().map_or(0, |comparison| comparison.decisions.len());
        let news = News {
            round,
            window: window.is_some_and(|window| window != self.window),
            events_from: if round { 0 } else { self.events.min(snapshot.events.len()) },
            decisions_from: self.decisions.min(decisions),
        };
        *self = Self {
            round: snapshot.round,
            events: snapshot.events.len(),
            window: window.unwrap_or(self.window),
            // A loop that tells no decisions for a while has not forgotten them.
            decisions: self.decisions.max(decisions),
        };
        news
    }
}

impl News {
    /// The new events.
    pub fn events<'a>(&self, snapshot: &'a Snapshot) -> &'a [Event] {
        snapshot.events.get(self.events_from..).unwrap_or_default()
    }

    /// The new decisions.
    pub fn decisions<'a>(&self, snapshot: &'a Snapshot) -> &'a [Decision] {
        let all = snapshot.comparison.value().map_or(&[][..], |comparison| &comparison.decisions);
        all.get(self.decisions_from..).unwrap_or_default()
    }

    /// The rows to record of what is new.
    pub fn rows(&self, snapshot: &Snapshot) -> Rows {
        let of_round = if self.round { rows_of(snapshot) } else { Rows::default() };
        let of_window = match &snapshot.observation {
            Availability::Available(seen) if self.window => observation_rows(snapshot.topology.value(), seen),
            _ => Rows::default(),
        };
        let trials = match &snapshot.comparison {
            Availability::Available(comparison) => trial_rows(comparison, self.decisions(snapshot)).trials,
            Availability::Unavailable(_) => Vec::new(),
        };
        Rows {
            sharing: of_round.sharing,
            vms: of_round.vms,
            placements: of_round.placements,
            decisions: of_round.decisions,
            ksm: of_round.ksm,
            events: event_rows(snapshot.round, self.events(snapshot)),
            trials,
            ..of_window
        }
    }
}
