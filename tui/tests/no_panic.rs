//! No size, view, update, key or mouse event makes the program panic.

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Policy;
use huddle_model::summary::ArmSteps;
use huddle_model::update::Update;
use huddle_model::view::View;
use huddle_testing::experiment::{self, Measured};
use huddle_testing::fixtures::{self, SMALL, Scene};
use huddle_tui::{Action, App, Charset, ColourMode, ExperimentResult, Options, Replay, Source, Speed, draw};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

#[derive(Clone, Debug)]
enum Step {
    Event(Event),
    View(View),
    Updates(Vec<Update>),
    Tick,
    Source(Source),
    Report(usize),
    /// Draws at the size that the state knows, or at a new size before its resize event.
    Draw(Option<(u16, u16)>),
}

fn key() -> impl Strategy<Value = Event> {
    use KeyCode::{
        BackTab, Backspace, Char, Down, End, Enter, Esc, Home, Left, PageDown, PageUp, Right, Tab, Up,
    };
    let named =
        [Backspace, BackTab, Down, End, Enter, Esc, Home, Left, PageDown, PageUp, Right, Tab, Up].to_vec();
    let bound: Vec<KeyCode> = "?hq123456 tTkjl/sSLmvemé漢[]+-dapRrwW,.<>yn".chars().map(Char).collect();
    let code =
        prop_oneof![prop::sample::select(named), prop::sample::select(bound), any::<char>().prop_map(Char)];
    let modifiers =
        prop::sample::select(vec![KeyModifiers::NONE, KeyModifiers::SHIFT, KeyModifiers::CONTROL]);
    (code, modifiers).prop_map(|(code, modifiers)| Event::Key(KeyEvent::new(code, modifiers)))
}

fn mouse() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![
        MouseEventKind::Down(MouseButton::Left),
        MouseEventKind::Down(MouseButton::Right),
        MouseEventKind::Moved,
        MouseEventKind::ScrollUp,
        MouseEventKind::ScrollDown,
        MouseEventKind::ScrollLeft,
        MouseEventKind::ScrollRight,
    ]);
    (kind, 0u16..310, 0u16..110).prop_map(|(kind, column, row)| {
        Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
    })
}

fn size() -> impl Strategy<Value = (u16, u16)> {
    (0u16..300, 0u16..100)
}

/// Valid views, views with parts missing, and inconsistent ones.
fn a_view() -> impl Strategy<Value = View> {
    let policy = prop::sample::select(Policy::ALL.to_vec());
    let scene =
        (0usize..40, 0u32..5, 1u32..12, 1u32..5, policy).prop_map(|(vms, vcpus, domains, cpus, policy)| {
            fixtures::Scene { vms, vcpus, domains, cpus, policy }
        });
    (scene, scene_of_names(), 0u64..50, any::<u64>(), prop::array::uniform6(0u8..3)).prop_map(
        |(scene, rates, round, at, parts)| {
            // The planner needs a vCPU in every VM; here a VM may have lost them since.
            let planned = fixtures::Scene { vcpus: scene.vcpus.max(1), ..scene };
            let mut view = match parts[4] {
                0 if round % 7 == 0 => fixtures::without_vms(round),
                0 => fixtures::view(planned, round),
                1 if round % 5 == 0 => fixtures::groups(scene.policy, round),
                1 => fixtures::observed(planned, round),
                _ => fixtures::compared(planned, round),
            };
            let nothing = fixtures::unavailable(round).round;
            let own = Arc::make_mut(&mut view.round);
            if scene.vcpus == 0 {
                Arc::make_mut(&mut own.vms).iter_mut().for_each(|vm| vm.vcpus.clear());
            }
            match parts[0] {
                0 => own.matrix = nothing.matrix.clone(),
                1 => own.matrix = Availability::Available(Arc::new(rates)),
                _ => {}
            }
            if parts[1] == 0 {
                own.topology = nothing.topology.clone();
            }
            if parts[2] == 0 {
                own.plan = nothing.plan.clone();
            }
            if parts[3] == 0 {
                own.ksm = nothing.ksm.clone();
            } else if let (1, Availability::Available(ksm)) = (parts[3], &mut own.ksm) {
                (ksm.pages_sharing, ksm.full_scans) = (at, at);
                ksm.general_profit_bytes = Some(i64::MIN);
                ksm.smart_scan = None;
            }
            if parts[4] == 0 {
                own.pinning = nothing.pinning.clone();
                view.pinning = nothing.pinning.clone();
            }
            if parts[5] == 0 {
                own.vms = Arc::default();
                (own.begin_unix_us, own.end_unix_us) = (at, at);
                if let Availability::Available(seen) = &mut view.observation {
                    let seen = Arc::make_mut(seen);
                    (seen.begin_unix_us, seen.end_unix_us, seen.window) = (at, at, at);
                }
            }
            view
        },
    )
}

/// A matrix of rates only, with names in any script.
fn scene_of_names() -> impl Strategy<Value = SharingMatrix> {
    prop::collection::btree_set("[a-z漢é]{1,40}", 1..6).prop_map(|names| {
        let names: Vec<String> = names.into_iter().collect();
        let mut csv = format!(",{}\n", names.join(","));
        for name in &names {
            let cells: Vec<&str> =
                names.iter().map(|other| if other == name { "-" } else { "12.5" }).collect();
            csv += &format!("{name},{}\n", cells.join(","));
        }
        SharingMatrix::from_file_text(&csv).expect("a made-up matrix is square")
    })
}

fn source() -> impl Strategy<Value = Source> {
    let result = (1usize..5, any::<bool>(), any::<bool>()).prop_map(|(vms, has_counters, is_simulated)| {
        let measured = if has_counters { Measured::Counters } else { Measured::Times };
        let scene = Scene { vms, ..SMALL };
        let ArmSteps { arms, simulated, .. } =
            ArmSteps::of(experiment::result(scene, measured, is_simulated)).expect("it has arms");
        Arc::new(ExperimentResult { arms, simulated })
    });
    let position = prop_oneof![any::<usize>(), 0usize..6];
    let parts = (position, any::<usize>(), any::<(u64, u64)>(), any::<bool>(), prop::option::of(result));
    let replay = parts.prop_map(|(position, length, span_unix_us, is_playing, experiment)| {
        Source::Replay(Replay {
            name: "run".into(),
            position,
            length,
            span_unix_us,
            is_playing,
            speed: Speed::ONE,
            experiment,
        })
    });
    let attached = prop::option::of("[a-z漢]{0,30}")
        .prop_map(|lost| Source::Attached { to: "/run/huddle.sock".into(), lost });
    prop_oneof![Just(Source::Live), attached, replay]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => key().prop_map(Step::Event),
        2 => mouse().prop_map(Step::Event),
        1 => size().prop_map(|(width, height)| Step::Event(Event::Resize(width, height))),
        2 => a_view().prop_map(Step::View),
        2 => (a_view(), any::<bool>()).prop_map(|(view, has_round)| {
            Step::Updates(view.updates_since(None).into_iter().skip(usize::from(!has_round)).collect())
        }),
        1 => Just(Step::Tick),
        1 => source().prop_map(Step::Source),
        1 => (0usize..200).prop_map(Step::Report),
        3 => prop::option::of(size()).prop_map(Step::Draw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(
        start in size(),
        steps in prop::collection::vec(step(), 1..40),
        colour in prop::sample::select(vec![
            ColourMode::TrueColour, ColourMode::Indexed256, ColourMode::Ansi16, ColourMode::NoColour,
        ]),
        is_ascii: bool,
    ) {
        let charset = if is_ascii { Charset::Ascii } else { Charset::Unicode };
        let mut app = App::new(Options { colour, charset, size: start, tick: Duration::from_secs(1) });
        let mut known = start;
        let mut replayed: Option<usize> = None;
        for step in steps {
            match step {
                Step::Event(event) => {
                    if let Event::Resize(width, height) = event {
                        known = (width, height);
                    }
                    for action in app.on_event(event) {
                        if let (Action::Seek { position }, Some(length)) = (action, replayed) {
                            prop_assert!(position < length.max(1));
                        }
                    }
                }
                Step::View(view) => app.on_view(view, 0),
                Step::Updates(updates) => app.on_updates(&updates),
                Step::Tick => app.on_tick(),
                Step::Source(source) => {
                    replayed = match &source {
                        Source::Replay(replay) => Some(replay.length),
                        _ => None,
                    };
                    app.set_source(source);
                }
                Step::Report(lines) => app.report("lines", vec!["a line".into(); lines]),
                Step::Draw(size) => {
                    let (width, height) = size.unwrap_or(known);
                    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                    terminal.draw(|frame| draw(frame, &app)).unwrap();
                    if is_ascii {
                        let cells = terminal.backend().buffer().content();
                        prop_assert!(cells.iter().all(|cell| cell.symbol().is_ascii()));
                    }
                }
            }
        }
    }
}
