//! What of a snapshot is new since the one before it.

use std::sync::Arc;

use huddle_model::schema::{Rows, observation_rows, rows_of, trial_rows};
use huddle_model::snapshot::Snapshot;

/// How far a recording has come. Snapshots come once a round and once a window, and each holds the
/// latest of both, so a round, a window and a decision are recorded when they are first seen.
#[derive(Debug, Default)]
pub(super) struct Progress {
    round: Option<u64>,
    window: u64,
    decisions: usize,
}

/// A snapshot with what is new in it.
#[derive(Clone, Debug)]
pub(super) struct News {
    snapshot: Arc<Snapshot>,
    round: bool,
    window: bool,
    /// Decisions that were seen before.
    decisions_seen: usize,
}

impl Progress {
    /// What is new in `snapshot`, which is noted as seen.
    pub(super) fn news(&mut self, snapshot: Arc<Snapshot>) -> News {
        let round = self.round.replace(snapshot.round) != Some(snapshot.round);
        let number = snapshot.observation.value().map(|seen| seen.window);
        let window = number.is_some_and(|number| number > self.window);
        self.window = self.window.max(number.unwrap_or_default());
        let decisions_seen = self.decisions;
        self.decisions = snapshot.comparison.value().map_or(self.decisions, |tried| tried.decisions.len());
        News { snapshot, round, window, decisions_seen }
    }
}

impl News {
    /// The rows of what is new.
    pub(super) fn rows(&self) -> Rows {
        let Self { snapshot, round, window, decisions_seen } = self;
        let of_round = if *round { rows_of(snapshot) } else { Rows::default() };
        let of_window = match snapshot.observation.value() {
            Some(seen) if *window => observation_rows(snapshot.round, snapshot.topology.value(), seen),
            _ => Rows::default(),
        };
        let of_trials = snapshot.comparison.value().map_or_else(Rows::default, |tried| {
            trial_rows(tried, tried.decisions.get(*decisions_seen..).unwrap_or_default())
        });
        let Rows { sharing, vms, placements, decisions, ksm, events, .. } = of_round;
        Rows { sharing, vms, placements, decisions, ksm, events, trials: of_trials.trials, ..of_window }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::super::sample_observed::observed;
    use super::*;

    #[test]
    fn rounds_windows_and_decisions_are_recorded_once() {
        let mut progress = Progress::default();
        let first = Arc::new(observed(4, 2));
        let rows = progress.news(Arc::clone(&first)).rows();
        assert_eq!((rows.decisions.len(), rows.windows.len(), rows.trials.len()), (1, 1, 1));
        assert_eq!((rows.counters.len(), rows.sharing.len()), (2, 2));
        assert_eq!(progress.news(Arc::clone(&first)).rows(), Rows::default());
        // The next window in the same round.
        let mut next = Snapshot::clone(&first);
        next.observation = observed(5, 2).observation;
        let rows = progress.news(Arc::new(next)).rows();
        assert_eq!((rows.decisions.len(), rows.windows.len(), rows.trials.len()), (0, 1, 0));
        // A round in which nothing was observed.
        let rows = progress.news(Arc::new(sample::snapshot(5, 2))).rows();
        assert_eq!((rows.decisions.len(), rows.windows.len(), rows.sharing.len()), (1, 0, 2));
    }
}
