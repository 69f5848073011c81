//! The state of the loop, for readers that join late.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assignment::Assignment;
use crate::availability::Availability;
use crate::event::Event;
use crate::observation::Observation;
use crate::pinning::Pinning;
use crate::trial::{Comparison, Decision};
use crate::update::{Round, Update};

/// The sum of all updates. Copies share all parts, so one costs a few pointers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The last round.
    pub round: Arc<Round>,
    /// Whether affinities match the placement in effect: as of the round, or of the last switch of a trial
    /// since.
    pub pinning: Pinning,
    /// The vCPUs that huddle has bound to a domain, as of the same time.
    pub in_force: Arc<Assignment>,
    /// The observation of the last window.
    pub observation: Availability<Arc<Observation>>,
    /// The state of trials.
    pub comparison: Availability<Arc<Comparison>>,
    /// All decisions, oldest first.
    pub decisions: Arc<Vec<Decision>>,
    /// Events of the last round and since.
    pub events: Arc<Vec<Event>>,
}

impl View {
    /// The view after a first round, without other updates.
    pub fn new(round: Arc<Round>) -> Self {
        let not_yet = "not received from the loop yet";
        Self {
            pinning: round.pinning.clone(),
            in_force: Arc::clone(&round.in_force),
            observation: Availability::Unavailable(not_yet.to_owned()),
            comparison: Availability::Unavailable(not_yet.to_owned()),
            decisions: Arc::default(),
            events: Arc::new(round.events.clone()),
            round,
        }
    }

    /// Applies one update.
    pub fn apply(&mut self, update: &Update) {
        match update {
            Update::Round(round) => {
                self.pinning = round.pinning.clone();
                self.in_force = Arc::clone(&round.in_force);
                self.events = Arc::new(round.events.clone());
                self.round = Arc::clone(round);
            }
            Update::Window(observation) => self.observation = observation.clone(),
            Update::Switch { pinning, in_force } => {
                self.pinning = pinning.clone();
                self.in_force = Arc::clone(in_force);
            }
            Update::Comparison(comparison) => self.comparison = comparison.clone(),
            Update::Event(event) => Arc::make_mut(&mut self.events).push(event.clone()),
            Update::Decision(decision) => Arc::make_mut(&mut self.decisions).push(decision.clone()),
        }
    }

    /// Applies updates to a view that may not exist yet: it starts with the first round, and earlier updates
    /// are left out.
    pub fn follow<'a>(view: &mut Option<Self>, updates: impl IntoIterator<Item = &'a Update>) {
        for update in updates {
            match (&mut *view, update) {
                (Some(view), update) => view.apply(update),
                (none, Update::Round(round)) => *none = Some(Self::new(Arc::clone(round))),
                (None, _) => {}
            }
        }
    }

    /// Whether it is of the same loop as `before`, and not earlier.
    pub fn follows(&self, before: &Self) -> bool {
        let (now, then) = (&self.round, &before.round);
        let is_later = if self.is_same_round(before) {
            self.events.starts_with(&before.events)
        } else {
            now.number > then.number
        };
        is_later && self.decisions.starts_with(&before.decisions)
    }

    fn is_same_round(&self, other: &Self) -> bool {
        let (now, then) = (&self.round, &other.round);
        Arc::ptr_eq(now, then) || (now.number, now.begin_unix_us) == (then.number, then.begin_unix_us)
    }

    /// Updates that lead from `before` to this view. With `None`, or a view that this one does not follow,
    /// they start with the round, for a reader without a view.
    pub fn updates_since(&self, before: Option<&Self>) -> Vec<Update> {
        let before = before.filter(|before| self.follows(before));
        let round = || Update::Round(Arc::clone(&self.round));
        let Some(before) = before else {
            let mut updates = vec![round()];
            self.others_since(&Self::new(Arc::clone(&self.round)), &mut updates);
            return updates;
        };
        let (mut updates, mut then) = (Vec::new(), before.clone());
        if !self.is_same_round(before) {
            // A window that ended in a round had the previous placement, and comes before the round.
            let is_earlier = self.observation.value().is_some_and(|seen| seen.round < self.round.number);
            if is_earlier && !is_same(&self.observation, &before.observation) {
                updates.push(Update::Window(self.observation.clone()));
                then.observation = self.observation.clone();
            }
            updates.push(round());
            then.apply(&round());
        }
        self.others_since(&then, &mut updates);
        updates
    }

    /// Updates between rounds, in the order of the loop.
    fn others_since(&self, before: &Self, updates: &mut Vec<Update>) {
        if !is_same(&self.observation, &before.observation) {
            updates.push(Update::Window(self.observation.clone()));
        }
        if self.pinning != before.pinning || self.in_force != before.in_force {
            let (pinning, in_force) = (self.pinning.clone(), Arc::clone(&self.in_force));
            updates.push(Update::Switch { pinning, in_force });
        }
        if !is_same(&self.comparison, &before.comparison) {
            updates.push(Update::Comparison(self.comparison.clone()));
        }
        updates.extend(self.events[before.events.len()..].iter().cloned().map(Update::Event));
        updates.extend(self.decisions[before.decisions.len()..].iter().cloned().map(Update::Decision));
    }
}

/// Whether both are equal; shared memory is not compared.
fn is_same<T: PartialEq>(one: &Availability<Arc<T>>, other: &Availability<Arc<T>>) -> bool {
    match (one, other) {
        (Availability::Available(one), Availability::Available(other)) => {
            Arc::ptr_eq(one, other) || one == other
        }
        (Availability::Unavailable(one), Availability::Unavailable(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
