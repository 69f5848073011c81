//! Input from the loop: updates, or a whole view at the start or where updates are missing.

use std::collections::HashSet;
use std::sync::Arc;

use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::pinning::Pinning;
use huddle_model::trial::{Decision, Phase};
use huddle_model::update::{Round, Update};
use huddle_model::view::View as LoopView;

use super::change::{self, Change};
use super::ksm_history::KsmHistory;
use super::metric::WindowFigures;
use super::overview::Overview;
use super::series::History;
use super::sharing::MatrixFigures;
use super::{App, Picture, moment};

/// Why there is no window yet.
const NO_WINDOW: &str = "no window of observation has ended yet";

impl App {
    /// Applies the updates of one step of the loop. Missed rounds are logged. While paused the picture stays,
    /// and nothing is lost.
    pub fn on_updates(&mut self, updates: &[Update]) {
        self.take(updates, false);
    }

    /// Applies a complete view, where single updates are missing: `missed` steps of the loop did not arrive
    /// one by one. Known events are not logged again. A view of an earlier time (a replay sought back) clears
    /// log and charts, and so does another arm of an experiment, which no time connects with the one before.
    pub fn on_view(&mut self, view: LoopView, missed: u64) {
        // A live loop's clock may be set back: that alone is no reason to clear.
        let is_back = self.source.replay().is_some()
            && self.latest.as_ref().is_some_and(|before| moment(&view) < before.moment());
        if is_back || self.is_experiment() {
            self.clear_history();
        }
        if missed > 0 {
            let text = format!("{missed} steps of the loop were not received one by one");
            self.log.push(moment(&view), "missed", None, text);
        }
        let known = self.latest.as_ref().map(|latest| &latest.view).filter(|known| view.follows(known));
        let updates = view.updates_since(known);
        let is_discontinuous = known.is_none();
        self.take(&updates, is_discontinuous);
    }

    /// `is_discontinuous`: they do not continue the previous state.
    fn take(&mut self, updates: &[Update], mut is_discontinuous: bool) {
        self.ticks_since_update = 0;
        self.is_dirty = true;
        let mut picture = self.latest.take();
        let before = picture.as_ref().map(|picture| (picture.view.clone(), Arc::clone(&picture.overview)));
        for update in updates {
            match (update, &mut picture) {
                (Update::Round(round), _) => {
                    picture = Some(self.take_round(picture.take(), round, is_discontinuous));
                    is_discontinuous = false;
                }
                (update, Some(picture)) => {
                    picture.view.apply(update);
                    self.take_other(picture, update);
                }
                // There is nothing to show before the first round.
                (_, None) => {}
            }
        }
        let Some(mut picture) = picture else { return };
        picture.overview = match before {
            Some((view, overview)) if is_overview_same(&view, &picture.view) => overview,
            _ => Arc::new(Overview::of(&picture.view)),
        };
        picture.log_end = self.log.end();
        picture.ksm_end = self.ksm_history.end();
        let is_due = self.is_due(&picture.view);
        self.latest = Some(picture);
        if self.shown.is_none() || (is_due && !self.is_paused) {
            self.show_latest();
        }
    }

    fn take_round(&mut self, before: Option<Picture>, round: &Arc<Round>, is_discontinuous: bool) -> Picture {
        self.note_missed(before.as_ref().map(|before| before.view.round.number), round);
        for event in &round.events {
            self.log.push(
                event.at_unix_us,
                event.kind.name(),
                event.vm.as_ref().map(|vm| vm.name.clone()),
                event.message.clone(),
            );
        }
        let mut change = before.as_ref().and_then(|before| before.change.clone());
        // An arm of an experiment changes nothing, and its reasons are among its events.
        if !self.is_experiment()
            && let Some(new) = change::change(self.last_plan.as_deref(), round)
        {
            self.log_reasons(&new);
            self.history.mark(new.at_unix_us, new.label());
            change = Some(Arc::new(new));
        }
        if let Some(plan) = round.plan.value().filter(|plan| plan.waiting.is_none()) {
            self.last_plan = Some(Arc::clone(plan));
        }
        self.ksm_history.push(round);
        let figures = round.matrix.value().map(|matrix| {
            let known = before.as_ref().and_then(Picture::matrix);
            MatrixFigures::of(matrix, known)
        });
        let known = before.as_ref().map(|before| Arc::clone(&before.overview));
        let (view, window) = match before {
            Some(before) if !is_discontinuous => {
                let mut view = before.view;
                view.apply(&Update::Round(Arc::clone(round)));
                (view, before.window)
            }
            _ => (LoopView::new(Arc::clone(round)), Availability::Unavailable(NO_WINDOW.to_owned())),
        };
        // It is computed again once all updates of the step are applied, as are the ends.
        let overview = known.unwrap_or_else(|| Arc::new(Overview::of(&view)));
        Picture { view, overview, figures, change, window, log_end: 0, ksm_end: 0 }
    }

    /// An update other than a round.
    fn take_other(&mut self, picture: &mut Picture, update: &Update) {
        match update {
            Update::Window(_) => picture.window = self.window(&picture.view),
            Update::Event(event) => {
                self.log.push(
                    event.at_unix_us,
                    event.kind.name(),
                    event.vm.as_ref().map(|vm| vm.name.clone()),
                    event.message.clone(),
                );
            }
            Update::Decision(decision) => self.log_decision(decision),
            Update::Round(_) | Update::Switch { .. } | Update::Comparison(_) => {}
        }
    }

    /// The figures of a new window, which are added to the history.
    fn window(&mut self, view: &LoopView) -> Availability<Arc<WindowFigures>> {
        let seen = match &view.observation {
            Availability::Available(seen) => seen,
            Availability::Unavailable(reason) => return Availability::Unavailable(reason.clone()),
        };
        let arm = seen.trial.as_ref().map(|trial| trial.arm.clone());
        if arm != self.last_arm {
            let label = arm.as_ref().map_or_else(|| "end of the trial".into(), |arm| format!("arm {arm}"));
            self.history.mark(seen.begin_unix_us, label);
            self.last_arm = arm;
        }
        let figures =
            WindowFigures::of(seen, view.round.topology.value().map(|topology| &**topology), &view.in_force);
        self.history.push(&figures);
        Availability::Available(Arc::new(figures))
    }

    /// Whether the picture may be replaced yet.
    fn is_due(&self, view: &LoopView) -> bool {
        let interval_us = self.interval_s() * 1_000_000;
        let shown = self.shown.as_ref().map_or(0, Picture::moment);
        // A replay shows every step; a time that goes back shows at once.
        self.source.replay().is_some() || moment(view).abs_diff(shown) >= interval_us
    }

    /// Clears log and charts: a replay went back.
    fn clear_history(&mut self) {
        self.log.clear();
        self.history = History::default();
        self.ksm_history = KsmHistory::default();
        self.latest = None;
        self.last_plan = None;
        self.last_arm = None;
    }

    fn note_missed(&mut self, last_round: Option<u64>, round: &Round) {
        // Its rounds are arms, none of which comes before another one.
        if self.is_experiment() {
            return;
        }
        let number = round.number;
        let text = match last_round {
            Some(last) if number > last + 1 => {
                let missed = number - last - 1;
                format!("{missed} rounds before round {number} were not received")
            }
            Some(last) if number < last => format!("the loop restarted: round {number} after round {last}"),
            None if number > 1 => format!("joined at round {number}; what happened before is not shown"),
            _ => return,
        };
        self.log.push(round.end_unix_us, "missed", None, text);
    }

    /// Logs those reasons of a change that the previous plan did not have.
    fn log_reasons(&mut self, change: &Change) {
        let before = self.last_plan.clone();
        let known: HashSet<&str> = before.iter().flat_map(|plan| &plan.reasons).map(String::as_str).collect();
        for reason in change.reasons.iter().filter(|reason| !known.contains(reason.as_str())) {
            self.log.push(change.at_unix_us, "reason", None, reason.clone());
        }
    }

    fn log_decision(&mut self, decision: &Decision) {
        self.log.push(decision.at_unix_us, "decision", None, decision.to_string());
    }
}

/// A cheap test of whether both have the same overview.
fn is_overview_same(one: &LoopView, other: &LoopView) -> bool {
    fn depends_on(view: &LoopView) -> (&Pinning, &Assignment, Option<bool>) {
        let is_tried =
            view.comparison.value().map(|comparison| matches!(comparison.phase, Phase::Trial { .. }));
        (&view.pinning, &view.in_force, is_tried)
    }
    Arc::ptr_eq(&one.round, &other.round) && depends_on(one) == depends_on(other)
}
