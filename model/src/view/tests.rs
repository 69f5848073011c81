use proptest::prelude::*;

use super::*;
use crate::event::EventKind;
use crate::ksm::KsmState;
use crate::left_out::LeftOutVms;
use crate::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use crate::pinning::PinOutcome;
use crate::plan::{PlanInput, Policy};
use crate::stats::Estimate;
use crate::topology::{DomainId, Topology};
use crate::trial::{Objective, Outcome, Phase};

/// What the loop does next.
#[derive(Clone, Debug)]
enum Does {
    /// A round, in which two VMs share so many frames.
    Round {
        shared: u64,
        pinning: Pinning,
        events: usize,
    },
    Window,
    Switch(Pinning),
    Try(u32),
    Happen,
    Decide,
}

/// A loop with synthetic figures, with the updates of the engine.
#[derive(Default)]
struct Loop {
    rounds: u64,
    windows: u64,
    others: u64,
    last: Option<Arc<Round>>,
}

impl Loop {
    fn event(&mut self) -> Event {
        self.others += 1;
        Event { at_unix_us: self.others, kind: EventKind::Note, vm: None, message: self.others.to_string() }
    }

    fn step(&mut self, does: &Does) -> Update {
        match does {
            Does::Round { shared, pinning, events } => {
                self.rounds += 1;
                let events = (0..*events).map(|_| self.event()).collect();
                let round = round(self.rounds, *shared, pinning.clone(), events);
                let round = Arc::new(match &self.last {
                    Some(last) => round.sharing_parts_with(last),
                    None => round,
                });
                self.last = Some(Arc::clone(&round));
                Update::Round(round)
            }
            Does::Window => {
                self.windows += 1;
                Update::Window(Availability::Available(Arc::new(window(self.windows, self.rounds))))
            }
            Does::Switch(pinning) => {
                self.others += 1;
                Update::Switch { pinning: pinning.clone(), in_force: in_force(self.others % 3) }
            }
            Does::Try(block) => Update::Comparison(Availability::Available(Arc::new(Comparison {
                objective: Objective::Mpki,
                phase: Phase::Trial { block: *block, blocks: 12 },
                arms: Vec::new(),
            }))),
            Does::Happen => Update::Event(self.event()),
            Does::Decide => {
                self.others += 1;
                Update::Decision(Decision {
                    at_unix_us: self.others,
                    round: self.rounds,
                    objective: Objective::Mpki,
                    proposal: self.others.to_string(),
                    expected_change: Some(0.1),
                    observed_change: Some(Estimate { n: 8, median: 0.2, ci95: Some([0.1, 0.3]) }),
                    trial: None,
                    evidence: None,
                    outcome: Outcome::Kept,
                    reason: "made up".into(),
                })
            }
        }
    }
}

fn round(number: u64, shared: u64, pinning: Pinning, events: Vec<Event>) -> Round {
    let vm = |name: &str| MatrixVm {
        memory: Some(MemoryUse { frames_used: 100, ..MemoryUse::default() }),
        ..MatrixVm::named(name)
    };
    let matrix = SharingMatrix::measured(
        Method::Merged,
        vec![vm("a"), vm("b")],
        &[vec![0, shared], vec![0, 0]],
        number as f64,
        1.0,
    );
    let topology = Topology::from_json(r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[2]}]}"#)
        .expect("a synthetic topology is valid");
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]));
    Round {
        number,
        begin_unix_us: number * 10,
        end_unix_us: number * 10 + 5,
        ksm: Availability::Available(KsmState { full_scans: number, ..KsmState::default() }),
        topology: Availability::Available(Arc::new(topology)),
        vms: Arc::default(),
        left_out: Availability::Available(LeftOutVms::default()),
        matrix: Availability::Available(Arc::new(matrix)),
        plan: Availability::Available(Arc::new(plan)),
        pinning,
        in_force: in_force(number % 2),
        events,
        own_cpu_us: Availability::Available(number),
    }
}

fn in_force(domain: u64) -> Arc<Assignment> {
    Arc::new([(("a".to_owned(), 0), DomainId(domain as u32))].into_iter().collect())
}

fn window(window: u64, round: u64) -> Observation {
    Observation {
        window,
        round,
        trial: None,
        vms: Vec::new(),
        begin_unix_us: window,
        end_unix_us: window + 1,
        vcpus: Vec::new(),
        merging: Vec::new(),
        occupancy: Availability::Unavailable("none".into()),
        reported: Vec::new(),
        events: Vec::new(),
        programs: Vec::new(),
        losses: Availability::Unavailable("none".into()),
        own_cpu_us: Availability::Available(1),
        reading_cpu_us: Availability::Available(1),
    }
}

fn pinning() -> impl Strategy<Value = Pinning> {
    prop_oneof![
        (0u32..3).prop_map(|changed| Pinning::Done(PinOutcome { changed, unchanged: 1, skipped: 0 })),
        Just(Pinning::DryRun),
        Just(Pinning::NoPlan("no matrix".into())),
        Just(Pinning::Failed("not root".into())),
    ]
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        (0u64..3, pinning(), 0usize..3).prop_map(|(shared, pinning, events)| Does::Round {
            shared,
            pinning,
            events
        }),
        Just(Does::Window),
        pinning().prop_map(Does::Switch),
        (1u32..12).prop_map(Does::Try),
        Just(Does::Happen),
        Just(Does::Decide),
    ]
}

fn updates_of(first: u64, then: &[Does]) -> Vec<Update> {
    let mut of = Loop::default();
    let first = Does::Round { shared: first, pinning: Pinning::DryRun, events: 1 };
    std::iter::once(&first).chain(then).map(|does| of.step(does)).collect()
}

fn seen(updates: &[Update]) -> View {
    let mut view = None;
    View::follow(&mut view, updates);
    view.expect("a round came first")
}

proptest! {
    #[test]
    fn late_readers_see_the_same_as_all_others(first in 0u64..3, then in prop::collection::vec(does(), 0..40), at in any::<prop::sample::Index>()) {
        let updates = updates_of(first, &then);
        let at = 1 + at.index(updates.len());
        let whole = seen(&updates);

        // One whole view, through JSON, and then the updates.
        let text = serde_json::to_string(&seen(&updates[..at])).unwrap();
        let mut late: View = serde_json::from_str(&text).unwrap();
        updates[at..].iter().for_each(|update| late.apply(update));
        prop_assert_eq!(&late, &whole);

        // Nothing but the updates that make a whole view.
        prop_assert_eq!(&seen(&whole.updates_since(None)), &whole);

        // A reader that fell behind and receives missed updates at once.
        let behind = seen(&updates[..at]);
        prop_assert!(whole.follows(&behind));
        let mut caught_up = behind.clone();
        whole.updates_since(Some(&behind)).iter().for_each(|update| caught_up.apply(update));
        prop_assert_eq!(&caught_up, &whole);
        prop_assert!(whole.updates_since(Some(&whole)).is_empty());
    }
}

#[test]
fn rounds_that_change_no_sharing_have_one_matrix_and_one_topology() {
    let round = |shared| Does::Round { shared, pinning: Pinning::DryRun, events: 0 };
    let rounds: Vec<_> = updates_of(2, &[round(2), round(1)])
        .into_iter()
        .map(|update| match update {
            Update::Round(round) => round,
            other => panic!("{other:?}"),
        })
        .collect();
    let topology = |at: usize| rounds[at].topology.value().unwrap();
    let plan = |at: usize| rounds[at].plan.value().unwrap();
    let matrix = |at: usize| rounds[at].matrix.value().unwrap();
    assert!(Arc::ptr_eq(topology(0), topology(2)) && Arc::ptr_eq(plan(0), plan(1)));
    assert!(!Arc::ptr_eq(plan(1), plan(2)), "its figures of frames differ");
    // Only the duration of the measurement differs.
    assert!(matrix(0) != matrix(1) && matrix(0).same_sharing_as(matrix(1)));
    assert!(!matrix(1).same_sharing_as(matrix(2)));
}

#[test]
fn a_restarted_loop_is_not_the_same() {
    let before =
        seen(&updates_of(1, &[Does::Decide, Does::Round { shared: 1, pinning: Pinning::DryRun, events: 0 }]));
    let restarted = seen(&updates_of(1, &[]));
    assert!(!restarted.follows(&before));
    assert_eq!(restarted.updates_since(Some(&before)), restarted.updates_since(None));
}
