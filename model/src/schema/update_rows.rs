//! Conversion of updates to rows of a recording.

use std::sync::Arc;

use super::{Rows, decision_row, event_rows, observation_rows, round_rows};
use crate::availability::Availability;
use crate::topology::Topology;
use crate::update::Update;

/// Context of an update's rows: the round in which it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowContext {
    round: u64,
    topology: Option<Arc<Topology>>,
}

impl RowContext {
    /// Applies updates, in the order of sending.
    pub fn follow<'a>(&mut self, updates: impl IntoIterator<Item = &'a Update>) {
        for update in updates {
            if let Update::Round(round) = update {
                self.round = round.number;
                self.topology = round.topology.value().map(Arc::clone);
            }
        }
    }

    /// Applies updates and returns their rows.
    pub fn rows<'a>(&mut self, updates: impl IntoIterator<Item = &'a Update>) -> Rows {
        let mut rows = Rows::default();
        for update in updates {
            self.follow([update]);
            match update {
                Update::Round(round) => rows.append(round_rows(round)),
                Update::Window(Availability::Available(seen)) => {
                    rows.append(observation_rows(self.topology.as_deref(), seen));
                }
                Update::Event(event) => {
                    rows.events.extend(event_rows(self.round, std::slice::from_ref(event)))
                }
                Update::Decision(decision) => rows.trials.push(decision_row(decision)),
                // The state of a trial is also in its windows and its decision.
                Update::Window(Availability::Unavailable(_))
                | Update::Switch { .. }
                | Update::Comparison(_) => {}
            }
        }
        rows
    }
}
