//! Messages as JSON: updates without the parts that the viewer already has.
//!
//! An update of a round leaves out the parts that equal those of the previous round: `"unchanged"` for the cache
//! domains, the VMs and the plan, and `{"unchanged": {"duration_ms": ..}}` for the matrix, whose measurement
//! may have taken a different time. [`Decoder`] fills them in again.

use std::sync::Arc;

use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::event::Event;
use huddle_model::ksm::KsmState;
use huddle_model::left_out::LeftOutVms;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::Observation;
use huddle_model::pinning::Pinning;
use huddle_model::plan::Plan;
use huddle_model::recording::RecordingState;
use huddle_model::topology::Topology;
use huddle_model::trial::{Comparison, Decision};
use huddle_model::update::{Round, Update};
use huddle_model::view::View;
use huddle_model::vm::Vm;
use serde::{Deserialize, Serialize};

use super::{Answer, Hello, Message};

/// One line from the loop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// See [`Message::Hello`].
    Hello(Hello),
    /// See [`Message::View`].
    View {
        /// Steps that were missed.
        missed: u64,
        /// The view.
        state: Box<View>,
    },
    /// See [`Message::Updates`].
    Updates(Vec<LineUpdate>),
    /// See [`Message::Recording`].
    Recording(Option<RecordingState>),
    /// See [`Message::Answer`].
    Answer(Answer),
}

/// An [`Update`] without the parts that the viewer already has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineUpdate {
    /// See [`Update::Round`].
    Round(Box<LineRound>),
    /// See [`Update::Window`].
    Window(Availability<Arc<Observation>>),
    /// See [`Update::Switch`].
    Switch {
        /// See [`Update::Switch`].
        pinning: Pinning,
        /// See [`Update::Switch`].
        in_force: Arc<Assignment>,
    },
    /// See [`Update::Comparison`].
    Comparison(Availability<Arc<Comparison>>),
    /// See [`Update::Event`].
    Event(Event),
    /// See [`Update::Decision`].
    Decision(Decision),
}

/// A [`Round`] without the parts that equal those of the previous round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LineRound {
    number: u64,
    begin_unix_us: u64,
    end_unix_us: u64,
    ksm: Availability<KsmState>,
    topology: Part<Availability<Arc<Topology>>>,
    vms: Part<Arc<Vec<Vm>>>,
    left_out: Availability<LeftOutVms>,
    matrix: MatrixPart,
    plan: Part<Availability<Arc<Plan>>>,
    pinning: Pinning,
    in_force: Part<Arc<Assignment>>,
    events: Vec<Event>,
    own_cpu_us: Availability<u64>,
}

/// A part of a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part<T> {
    /// The same as in the previous round.
    Unchanged,
    /// A different one.
    New(T),
}

/// The matrix of a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MatrixPart {
    /// The same as in the previous round, except for the time that measuring took.
    Unchanged {
        /// See [`SharingMatrix::duration_ms`].
        duration_ms: Option<f64>,
    },
    /// A different one.
    New(Availability<Arc<SharingMatrix>>),
}

/// Encodes updates for viewers that have the round `before`.
pub fn encode<'a>(updates: &'a [Update], before: Option<&'a Arc<Round>>) -> Vec<LineUpdate> {
    let mut last = before;
    let mut encode = |update: &'a Update| match update {
        Update::Round(round) => {
            let encoded = LineUpdate::Round(Box::new(round_without(round, last.map(|last| &**last))));
            last = Some(round);
            encoded
        }
        Update::Window(seen) => LineUpdate::Window(seen.clone()),
        Update::Switch { pinning, in_force } => {
            LineUpdate::Switch { pinning: pinning.clone(), in_force: Arc::clone(in_force) }
        }
        Update::Comparison(comparison) => LineUpdate::Comparison(comparison.clone()),
        Update::Event(event) => LineUpdate::Event(event.clone()),
        Update::Decision(decision) => LineUpdate::Decision(decision.clone()),
    };
    updates.iter().map(&mut encode).collect()
}

fn round_without(round: &Round, before: Option<&Round>) -> LineRound {
    let Round { topology, vms, plan, .. } = round;
    let matrix = match (&round.matrix, before.map(|before| &before.matrix)) {
        (Availability::Available(now), Some(Availability::Available(known)))
            if now.same_sharing_as(known) =>
        {
            MatrixPart::Unchanged { duration_ms: now.duration_ms() }
        }
        _ => MatrixPart::New(round.matrix.clone()),
    };
    LineRound {
        number: round.number,
        begin_unix_us: round.begin_unix_us,
        end_unix_us: round.end_unix_us,
        ksm: round.ksm.clone(),
        topology: part(topology, before.is_some_and(|before| is_same(topology, &before.topology))),
        vms: part(vms, before.is_some_and(|before| Arc::ptr_eq(vms, &before.vms) || *vms == before.vms)),
        left_out: round.left_out.clone(),
        matrix,
        plan: part(plan, before.is_some_and(|before| is_same(plan, &before.plan))),
        pinning: round.pinning.clone(),
        in_force: part(&round.in_force, before.is_some_and(|before| round.in_force == before.in_force)),
        events: round.events.clone(),
        own_cpu_us: round.own_cpu_us.clone(),
    }
}

fn part<T: Clone>(now: &T, is_known: bool) -> Part<T> {
    if is_known { Part::Unchanged } else { Part::New(now.clone()) }
}

fn is_same<T: PartialEq>(now: &Availability<Arc<T>>, known: &Availability<Arc<T>>) -> bool {
    match (now, known) {
        (Availability::Available(now), Availability::Available(known)) => {
            Arc::ptr_eq(now, known) || now == known
        }
        _ => false,
    }
}

/// Decodes lines, and fills in the parts that were left out.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The last round.
    last: Option<Arc<Round>>,
}

impl Decoder {
    /// The message of a line.
    ///
    /// # Errors
    /// A part was left out that was never sent.
    pub fn message(&mut self, line: Line) -> Result<Message, &'static str> {
        Ok(match line {
            Line::Hello(hello) => Message::Hello(hello),
            Line::View { missed, state } => {
                self.last = Some(Arc::clone(&state.round));
                Message::View { view: state, missed }
            }
            Line::Updates(updates) => {
                let updates: Result<_, _> = updates.into_iter().map(|update| self.update(update)).collect();
                Message::Updates(updates?)
            }
            Line::Recording(state) => Message::Recording(state),
            Line::Answer(answer) => Message::Answer(answer),
        })
    }

    fn update(&mut self, update: LineUpdate) -> Result<Update, &'static str> {
        Ok(match update {
            LineUpdate::Round(round) => {
                let round = complete(*round, self.last.as_deref())
                    .ok_or("a round leaves something out that was not sent before")?;
                let round = Arc::new(round);
                self.last = Some(Arc::clone(&round));
                Update::Round(round)
            }
            LineUpdate::Window(seen) => Update::Window(seen),
            LineUpdate::Switch { pinning, in_force } => Update::Switch { pinning, in_force },
            LineUpdate::Comparison(comparison) => Update::Comparison(comparison),
            LineUpdate::Event(event) => Update::Event(event),
            LineUpdate::Decision(decision) => Update::Decision(decision),
        })
    }
}

/// Fills in the parts that were left out; `None` if one of them was never sent.
fn complete(round: LineRound, before: Option<&Round>) -> Option<Round> {
    fn filled<T: Clone>(part: Part<T>, known: Option<&T>) -> Option<T> {
        match part {
            Part::New(part) => Some(part),
            Part::Unchanged => known.cloned(),
        }
    }
    Some(Round {
        number: round.number,
        begin_unix_us: round.begin_unix_us,
        end_unix_us: round.end_unix_us,
        ksm: round.ksm,
        topology: filled(round.topology, before.map(|before| &before.topology))?,
        vms: filled(round.vms, before.map(|before| &before.vms))?,
        left_out: round.left_out,
        matrix: match round.matrix {
            MatrixPart::New(matrix) => matrix,
            MatrixPart::Unchanged { duration_ms } => {
                let known = before?.matrix.value()?;
                Availability::Available(match known.duration_ms() == duration_ms {
                    true => Arc::clone(known),
                    false => Arc::new(SharingMatrix::clone(known).measured_in(duration_ms)),
                })
            }
        },
        plan: filled(round.plan, before.map(|before| &before.plan))?,
        pinning: round.pinning,
        in_force: filled(round.in_force, before.map(|before| &before.in_force))?,
        events: round.events,
        own_cpu_us: round.own_cpu_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use huddle_testing::sample_observed;

    #[test]
    fn what_is_known_is_not_sent_again_and_nothing_is_lost() {
        let mut views: Vec<View> = (1..=6).map(|round| sample_observed::observed(round, 3)).collect();
        // From the third to the fourth the VMs share the same: only the time of measuring differs.
        let same = views[2]
            .round
            .matrix
            .clone()
            .map(|matrix| Arc::new(SharingMatrix::clone(&matrix).measured_in(Some(99.0))));
        Arc::make_mut(&mut views[3].round).matrix = same;
        let mut decoder = Decoder::default();
        let (mut sent, mut seen): (Option<View>, Option<View>) = (None, None);
        for view in views {
            let updates = view.updates_since(sent.as_ref());
            let line = Line::Updates(encode(&updates, sent.as_ref().map(|sent| &sent.round)));
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(text.contains(r#""topology":"unchanged""#), sent.is_some(), "{text}");
            let is_fourth = view.round.number == 4;
            assert_eq!(text.contains(r#""matrix":{"unchanged":{"duration_ms":99.0}}"#), is_fourth, "{text}");
            let message = decoder.message(serde_json::from_str(&text).unwrap()).unwrap();
            let Message::Updates(found) = message else { panic!("{message:?}") };
            assert_eq!(found, updates);
            View::follow(&mut seen, &found);
            assert_eq!(seen.as_ref(), Some(&view));
            sent = Some(view);
        }
        let updates =
            encode(&sent.as_ref().unwrap().updates_since(None), sent.as_ref().map(|sent| &sent.round));
        assert!(Decoder::default().message(Line::Updates(updates)).is_err(), "nothing was sent before");
    }
}
