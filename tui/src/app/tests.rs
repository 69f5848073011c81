use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use huddle_model::binding::{Binding, BindingKind};
use huddle_model::plan::Policy;
use huddle_model::recording::Interruption;
use huddle_testing::fixtures::{SMALL, Scene, compared, observed, unavailable, view};

use super::*;

fn app() -> App {
    let tick = Duration::from_secs(1);
    App::new(Options { colour: ColourMode::NoColour, charset: Charset::Ascii, size: (80, 24), tick })
}

fn press(app: &mut App, code: KeyCode) -> Vec<Action> {
    app.on_event(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn keys(app: &mut App, text: &str) {
    for key in text.chars() {
        press(app, KeyCode::Char(key));
    }
}

fn log_texts(app: &App) -> Vec<String> {
    let end = app.log_end();
    (0..app.log.len(end)).map(|at| app.log.at(at, end).unwrap().text.clone()).collect()
}

#[test]
fn quitting_is_an_action_but_a_typed_q_is_not() {
    let mut app = app();
    assert_eq!(press(&mut app, KeyCode::Char('q')), [Action::Quit]);
    keys(&mut app, "6/");
    assert!(press(&mut app, KeyCode::Char('q')).is_empty());
    assert_eq!(app.log.filter, "q");
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.on_event(Event::Key(control_c)), [Action::Quit]);
}

#[test]
fn a_paused_picture_stays_and_nothing_is_lost() {
    let mut app = app();
    app.on_view(view(SMALL, 1), 0);
    let before = log_texts(&app);
    keys(&mut app, " ");
    app.on_view(view(SMALL, 2), 0);
    app.on_view(view(SMALL, 3), 0);
    assert_eq!(app.shown.as_ref().unwrap().view.round.number, 1);
    assert_eq!(app.rounds_behind(), 2);
    assert_eq!(log_texts(&app), before);
    keys(&mut app, "t");
    assert!(app.is_paused());
    assert_eq!(app.shown.as_ref().unwrap().view.round.number, 3);
    assert!(log_texts(&app).len() > before.len(), "round 3 has an event");
    keys(&mut app, " ");
    assert!(!app.is_paused());
}

#[test]
fn a_round_given_twice_is_logged_once_and_a_missed_one_too() {
    let mut app = app();
    app.on_view(view(SMALL, 1), 0);
    let once = log_texts(&app);
    app.on_view(view(SMALL, 1), 0);
    assert_eq!(log_texts(&app), once);
    app.on_view(view(SMALL, 4), 0);
    let texts = log_texts(&app);
    assert!(
        texts.iter().any(|text| text.starts_with("2 rounds before round 4 were not received")),
        "{texts:?}"
    );
}

#[test]
fn the_last_change_is_the_last_that_moved_a_vcpu() {
    let mut app = app();
    app.on_view(view(SMALL, 1), 0);
    app.on_view(view(SMALL, 2), 0);
    let change = app.shown.as_ref().unwrap().change.clone().unwrap();
    assert_eq!((change.round, change.policy_before), (1, None));
    app.on_view(view(Scene { policy: Policy::Opposed, ..SMALL }, 3), 0);
    let change = app.shown.as_ref().unwrap().change.clone().unwrap();
    assert_eq!((change.round, change.policy_before), (3, Some(Policy::Paper)));
    assert!(!change.moves.is_empty());
    app.on_view(unavailable(4), 0);
    assert_eq!(app.shown.as_ref().unwrap().change.as_ref().unwrap().round, 3);
}

#[test]
fn frames_within_domains_are_those_of_the_plan() {
    for policy in [Policy::Paper, Policy::Opposed] {
        for (vms, vcpus) in [(4, 2), (9, 3), (40, 1)] {
            let view = view(Scene { vms, vcpus, policy, ..SMALL }, 1);
            let overview = Overview::of(&view);
            let plan = view.round.plan.value().unwrap();
            let within = *overview.within_frames.value().unwrap();
            let planned = plan.shared_within.unwrap();
            // Each box is rounded separately.
            assert!(within.abs_diff(planned) <= 2, "{policy} {vms}: {within} and {planned}");
            assert_eq!(overview.total_frames.value().copied(), plan.shared_total);
            assert_eq!(overview.elsewhere, 0);
        }
    }
}

#[test]
fn a_vcpu_that_its_owner_bound_is_in_the_box_of_its_cpus() {
    let mut view = view(SMALL, 1);
    let mut round = (*view.round).clone();
    let (mut vms, plan) = ((*round.vms).clone(), round.plan.value().unwrap().clone());
    let first = plan.placement[0].clone();
    // Bound to the other domain than the plan would have it in.
    let other = plan.domains.iter().find(|domain| domain.id != first.domain).unwrap();
    let vm = vms.iter_mut().find(|vm| vm.name == first.vm).unwrap();
    let vcpu = vm.vcpus.iter_mut().find(|vcpu| vcpu.index == first.vcpu).unwrap();
    vcpu.limits.binding = Some(Binding { cpus: other.cpus.clone(), kind: BindingKind::Affinity });
    let mut plan = (*plan).clone();
    plan.placement.remove(0);
    round.plan = Availability::Available(Arc::new(plan));
    view.in_force = Arc::new(
        view.in_force
            .iter()
            .filter(|(vm, vcpu, _)| (*vm, *vcpu) != (&first.vm, first.vcpu))
            .map(|(vm, vcpu, domain)| ((vm.to_owned(), vcpu), domain))
            .collect(),
    );
    let affinity = &mut vms.iter_mut().find(|vm| vm.name == first.vm).unwrap().vcpus;
    affinity.iter_mut().find(|vcpu| vcpu.index == first.vcpu).unwrap().affinity = other.cpus.clone();
    round.vms = Arc::new(vms);
    round.in_force = Arc::clone(&view.in_force);
    view.round = Arc::new(round);
    let overview = Overview::of(&view);
    assert_eq!(overview.elsewhere, 0);
    let loads = overview.domains.value().unwrap();
    let load = loads.iter().find(|load| load.domain.id == other.id).unwrap();
    assert!(load.members.iter().any(|member| member.label.starts_with(&first.vm)), "{loads:?}");
}

#[test]
fn without_a_placement_boxes_show_where_vcpus_last_ran() {
    let overview = Overview::of(&view(Scene { policy: Policy::None, ..SMALL }, 1));
    assert!(matches!(overview.basis, Basis::NotPlaced(_)));
    let vcpus: Vec<usize> = overview.domains.value().unwrap().iter().map(|domain| domain.vcpus).collect();
    assert_eq!(vcpus.iter().sum::<usize>(), 8);
}

#[test]
fn unavailable_values_keep_their_reason() {
    let overview = Overview::of(&unavailable(1));
    assert!(overview.domains.reason().unwrap().contains("cache"));
    assert!(overview.total_frames.reason().unwrap().contains("pagemap"));
    assert_eq!(overview.within_frames.value(), None);
}

#[test]
fn the_cursor_stays_with_its_vms_through_orders_rounds_and_filters() {
    let mut app = app();
    let scene = Scene { vms: 12, ..SMALL };
    app.on_view(view(scene, 1), 0);
    keys(&mut app, "2m");
    let named = |app: &App| {
        let (matrix, _) = app.shown.as_ref().unwrap().matrix().unwrap();
        let name = |at: usize| matrix.vms()[app.sharing.order[at]].name.clone();
        (name(app.sharing.cursor.0), name(app.sharing.cursor.1))
    };
    let before = named(&app);
    keys(&mut app, "s");
    assert_eq!(named(&app), before);
    app.on_view(view(scene, 2), 0);
    assert_eq!(named(&app), before);
    keys(&mut app, "/");
    keys(&mut app, &before.0[..before.0.len() - 2]);
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.sharing.order.len(), 3);
    assert_eq!(named(&app), before);
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.sharing.order.len(), 12);
    assert_eq!(named(&app), before);
}

#[test]
fn clustering_is_done_once_for_equal_rates() {
    let mut app = app();
    app.on_view(view(SMALL, 1), 0);
    let clustered = |app: &App| Arc::clone(&app.shown.as_ref().unwrap().figures.as_ref().unwrap().clustered);
    let first = clustered(&app);
    let mut same = view(SMALL, 1);
    Arc::make_mut(&mut same.round).number = 2;
    app.on_view(same, 0);
    assert!(Arc::ptr_eq(&first, &clustered(&app)));
    app.on_view(view(SMALL, 3), 0);
    assert!(!Arc::ptr_eq(&first, &clustered(&app)));
}

#[test]
fn the_mouse_selects_tabs_and_cells_and_the_wheel_scrolls() {
    let mut app = app();
    app.on_view(view(Scene { vms: 100, ..SMALL }, 1), 0);
    let mouse = |app: &mut App, kind, column, row| {
        app.on_event(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
    };
    let click = MouseEventKind::Down(MouseButton::Left);
    let screen = app.screen().unwrap();
    let tab = screen.tabs().nth(1).unwrap().2;
    mouse(&mut app, click, tab.x + 1, tab.y);
    assert_eq!(app.view(), View::Sharing);
    let layout = app.sharing.layout(screen.body);
    mouse(&mut app, click, layout.cell((0, 0), 5, 3).x, layout.cell((0, 0), 5, 3).y);
    assert_eq!(app.sharing.cursor, (5, 3));
    for _ in 0..50 {
        mouse(&mut app, MouseEventKind::ScrollDown, layout.cells.x, layout.cells.y);
    }
    assert_eq!(app.sharing.cursor, (99, 3));
    assert_eq!(app.sharing.top(&layout).0, 100 - layout.visible_rows());
    mouse(&mut app, MouseEventKind::ScrollUp, layout.cells.x, layout.cells.y);
    assert_eq!(app.sharing.cursor, (96, 3));
}

#[test]
fn help_opens_and_closes_and_other_keys_act() {
    let mut app = app();
    keys(&mut app, "?");
    assert!(app.help.is_some());
    press(&mut app, KeyCode::Esc);
    assert!(app.help.is_none());
    keys(&mut app, "h5");
    assert_eq!((app.help, app.view()), (None, View::Ksm));
}

#[test]
fn only_what_changes_the_screen_asks_for_drawing() {
    let mut app = app();
    assert!(app.take_dirty());
    assert!(!app.take_dirty());
    press(&mut app, KeyCode::F(9));
    assert!(!app.take_dirty());
    app.on_tick();
    assert!(app.take_dirty());
    app.on_view(view(SMALL, 1), 0);
    assert!(app.take_dirty());
}

#[test]
fn changes_of_the_host_are_confirmed_first_and_can_be_declined() {
    let mut app = app();
    app.on_view(observed(SMALL, 1), 0);
    for (key, action) in [('a', Action::ApplyPlan { dry_run: false }), ('R', Action::Restore)] {
        for no in ['n', '\u{1b}'] {
            assert!(press(&mut app, KeyCode::Char(key)).is_empty());
            let declined = if no == 'n' { KeyCode::Char('n') } else { KeyCode::Esc };
            assert!(press(&mut app, declined).is_empty());
            assert!(press(&mut app, KeyCode::Char('y')).is_empty(), "no question is open any more");
        }
        press(&mut app, KeyCode::Char(key));
        for other in "q aR ?1/".chars() {
            assert!(press(&mut app, KeyCode::Char(other)).is_empty(), "{other} is not an answer");
            press(&mut app, KeyCode::Char(key));
        }
        assert_eq!(press(&mut app, KeyCode::Char('y')), [action]);
    }
    press(&mut app, KeyCode::Char('p'));
    press(&mut app, KeyCode::Down);
    assert!(press(&mut app, KeyCode::Enter).is_empty(), "chosen, and asked about");
    assert_eq!(press(&mut app, KeyCode::Char('y')), [Action::SetPolicy(Policy::ALL[1])]);
    assert_eq!(press(&mut app, KeyCode::Char('d')), [Action::ApplyPlan { dry_run: true }]);
}

#[test]
fn impossible_actions_show_a_reason_and_no_question() {
    let mut app = app();
    let notice = |app: &mut App, key| {
        assert!(press(app, KeyCode::Char(key)).is_empty());
        assert_eq!(app.overlay, None);
        app.notice.clone().map(|(_, text)| text).unwrap_or_default()
    };
    assert!(notice(&mut app, 'a').contains("no round has ended"));
    app.on_view(observed(SMALL, 1), 0);
    app.refuse(Capability::Apply, "the loop was started with --dry-run");
    assert!(notice(&mut app, 'a').contains("--dry-run"));
    app.allow(Capability::Apply);
    press(&mut app, KeyCode::Char('a'));
    assert!(app.overlay.is_some());
    press(&mut app, KeyCode::Char('n'));
    let attached = |lost: Option<&str>| Source::Attached {
        to: "/run/huddle.sock".into(),
        lost: lost.map(str::to_owned),
    };
    app.set_source(attached(Some("the loop has ended")));
    for key in ['a', 'p', 'R', 'r'] {
        assert!(notice(&mut app, key).contains("not connected to a loop"), "{key}");
    }
    assert_eq!(press(&mut app, KeyCode::Char('d')), [Action::ApplyPlan { dry_run: true }], "changes nothing");
    app.set_source(attached(None));
    assert_eq!(press(&mut app, KeyCode::Char('r')), [Action::StartRecording]);
    app.set_source(Source::Replay(Replay::default()));
    for key in ['a', 'd', 'p', 'R', 'r', 'K'] {
        assert!(notice(&mut app, key).contains("a replay cannot change the host"), "{key}");
    }
    app.set_source(Source::Live);
    assert_eq!(press(&mut app, KeyCode::Char('w')), [Action::SaveText]);
    assert!(notice(&mut app, '.').contains("only a replay"));
}

#[test]
fn recording_starts_and_stops_with_one_key() {
    let mut app = app();
    assert_eq!(press(&mut app, KeyCode::Char('r')), [Action::StartRecording]);
    app.set_recording(Some(RecordingState::of("/tmp/run")));
    assert_eq!(press(&mut app, KeyCode::Char('r')), [Action::StopRecording]);
    assert_eq!(press(&mut app, KeyCode::Char('K')), [Action::SaveLast], "whether or not it records");
}

#[test]
fn a_recording_that_cannot_be_written_is_shown_until_it_can() {
    let mut app = app();
    let bottom = |app: &App| crate::picture::text(&crate::render(app)).lines().last().unwrap().to_owned();
    app.set_recording(Some(RecordingState::of("/tmp/run")));
    assert!(bottom(&app).contains("REC /tmp/run"), "{}", bottom(&app));
    let interruption = Interruption { since_unix_us: 1_700_000_000_000_000, reason: "no space left".into() };
    app.set_recording(Some(RecordingState { dir: "/tmp/run".into(), interrupted: Some(interruption) }));
    assert!(app.take_dirty());
    assert!(bottom(&app).contains("NOT RECORDING since 22:13:20: no space left"), "{}", bottom(&app));
    assert_eq!(press(&mut app, KeyCode::Char('r')), [Action::StopRecording]);
    app.set_recording(Some(RecordingState::of("/tmp/run")));
    assert!(bottom(&app).contains("REC /tmp/run"));
}

#[test]
fn a_replay_is_played_stepped_and_sought_within_its_length() {
    let mut app = app();
    let replay = Replay { position: 5, length: 30, ..Replay::default() };
    app.set_source(Source::Replay(replay));
    let mut key = |code| press(&mut app, code);
    assert_eq!(key(KeyCode::Char(' ')), [Action::Play]);
    assert_eq!(key(KeyCode::Char(' ')), [Action::Pause]);
    assert_eq!(key(KeyCode::Char('t')), [Action::Step]);
    assert_eq!(key(KeyCode::Char('+')), [Action::SetSpeed(Speed::ONE.faster())]);
    let mut sought = |code| match press(&mut app, code).as_slice() {
        [Action::Seek { position }] => *position,
        other => panic!("{other:?}"),
    };
    assert_eq!(sought(KeyCode::Char('T')), 4);
    assert_eq!(sought(KeyCode::Char('.')), 7);
    assert_eq!(sought(KeyCode::Char('>')), 29);
    assert_eq!(sought(KeyCode::Char('.')), 29);
    assert_eq!(sought(KeyCode::Char('<')), 0);
    assert_eq!(sought(KeyCode::Char('T')), 0);
    let click = MouseEvent {
        kind: MouseEventKind::Down(MouseButton::Left),
        column: 79,
        row: 1,
        modifiers: KeyModifiers::NONE,
    };
    assert_eq!(app.on_event(Event::Mouse(click)), [Action::Seek { position: 29 }]);
}

#[test]
fn a_replay_that_goes_back_clears_log_and_charts() {
    let mut app = app();
    app.set_source(Source::Replay(Replay { length: 9, ..Replay::default() }));
    for round in 1..=6 {
        app.on_view(compared(SMALL, round), 0);
    }
    app.on_view(compared(SMALL, 2), 0);
    assert_eq!(app.shown.as_ref().unwrap().view.round.number, 2);
    let failures = log_texts(&app).iter().filter(|text| text.contains("pagemap")).count();
    assert_eq!(failures, 0, "round 3 has not happened yet");
    let decisions = log_texts(&app).iter().filter(|text| text.contains("paper, 6 vCPUs")).count();
    assert_eq!(decisions, 1);
}

#[test]
fn windows_of_the_same_round_are_new_and_their_events_are_logged_once() {
    let mut app = app();
    app.on_view(observed(SMALL, 3), 0);
    let logged = log_texts(&app).len();
    let mut next = observed(SMALL, 3);
    let Availability::Available(seen) = &mut next.observation else { panic!("the fixture is observed") };
    let seen = Arc::make_mut(seen);
    seen.window += 1;
    (seen.begin_unix_us, seen.end_unix_us) = (seen.end_unix_us, seen.end_unix_us + 1_000_000);
    let event = huddle_model::event::Event { message: "while observing".into(), ..next.events[0].clone() };
    Arc::make_mut(&mut next.events).push(event);
    app.on_view(next.clone(), 0);
    app.on_view(next, 0);
    assert_eq!(log_texts(&app).len(), logged + 1);
    let window = app.shown.as_ref().unwrap().window.value().unwrap().window;
    assert_eq!(window, 4);
}

#[test]
fn misses_are_ordered_filtered_and_followed() {
    let mut app = app();
    app.on_view(observed(Scene { vms: 12, ..SMALL }, 1), 0);
    keys(&mut app, "3");
    let names = |app: &App| app.miss_rows().iter().map(|row| row_label(row)).collect::<Vec<_>>();
    let figure = |app: &App, metric: metric::Metric| {
        app.miss_rows().iter().map(|row| *metric.of(&row.figures).value().unwrap()).collect::<Vec<_>>()
    };
    assert!(figure(&app, metric::Metric::MissesPerS).is_sorted_by(|a, b| a >= b));
    keys(&mut app, "S");
    assert!(figure(&app, metric::Metric::MissesPerS).is_sorted());
    keys(&mut app, "jj");
    let position = |app: &App| app.misses.table.position(app.miss_rows().iter().map(|row| misses::key(row)));
    let selected = names(&app)[2].clone();
    keys(&mut app, "s");
    assert!(figure(&app, metric::Metric::Ipc).is_sorted_by(|a, b| a >= b));
    assert_eq!(names(&app)[position(&app)], selected);
    // CPU time, the part in the own domain, and again from the name.
    keys(&mut app, "sss");
    assert!(names(&app).is_sorted());
    keys(&mut app, "v/db");
    press(&mut app, KeyCode::Enter);
    assert_eq!(names(&app)[..2], ["db-1[0]", "db-1[1]"]);
    assert!(names(&app).iter().all(|name| name.starts_with("db-")));
}

#[test]
fn the_mouse_orders_and_selects_in_tables() {
    let mut app = app();
    app.on_view(observed(Scene { vms: 12, ..SMALL }, 1), 0);
    keys(&mut app, "3");
    let layout = app.misses_layout(app.screen().unwrap().body);
    let mut click = |column, row| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        app.on_event(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
        let rows = app.miss_rows();
        (app.miss_order(), app.misses.table.position(rows.iter().map(|row| misses::key(row))))
    };
    let (_, x, _) = layout.columns[2];
    assert_eq!(click(x + 3, layout.table.y).0, misses::MissColumn::Metric(metric::Metric::Mpki));
    assert_eq!(click(x, layout.table.y + 4).1, 3);
}

#[test]
fn load_is_the_cpu_time_of_vcpus_over_that_of_the_domain() {
    let view = observed(SMALL, 1);
    let seen = view.observation.value().unwrap();
    let topology = view.round.topology.value().map(|topology| &**topology);
    let figures = WindowFigures::of(seen, topology, &view.in_force);
    for domain in &figures.domains {
        // Four vCPUs that ran 0.7 s each, on four CPUs, in a second.
        let busy = domain.busy.value().unwrap();
        assert!((busy.part - 0.7).abs() < 1e-9 && !busy.is_least, "{busy:?}");
        assert!((domain.figures.run.value().unwrap() - 2.8).abs() < 1e-9);
    }
    let mut partly = huddle_model::observation::Observation::clone(seen);
    partly.vcpus[0].residency = Availability::Unavailable("the thread ended".into());
    let figures = WindowFigures::of(&partly, topology, &view.in_force);
    assert!(figures.domains.iter().all(|domain| domain.busy.value().unwrap().is_least));
    // A chart has no sign for "at least".
    assert!(figures.domains.iter().all(|domain| domain.figures.run.value().is_none()));
    partly.vcpus.iter_mut().for_each(|vcpu| {
        vcpu.residency = Availability::Unavailable("no BPF".into());
    });
    let figures = WindowFigures::of(&partly, topology, &view.in_force);
    assert!(figures.domains.iter().all(|domain| domain.busy.reason() == Some("no BPF")));
}

#[test]
fn the_interval_holds_pictures_back_but_no_event() {
    let mut app = app();
    app.on_view(observed(SMALL, 1), 0);
    keys(&mut app, "--");
    assert_eq!(app.interval_s(), 5);
    app.on_view(observed(SMALL, 2), 0);
    assert_eq!(app.shown.as_ref().unwrap().view.round.number, 1);
    app.on_view(observed(SMALL, 3), 0);
    app.on_view(observed(SMALL, 4), 0);
    assert_eq!(app.shown.as_ref().unwrap().view.round.number, 4);
    assert!(log_texts(&app).iter().any(|text| text.contains("pagemap")), "round 3 was logged");
}

/// The updates between successive views, as a loop sends them.
fn updates_between(views: &[LoopView]) -> Vec<Vec<huddle_model::update::Update>> {
    let before = std::iter::once(None).chain(views.iter().map(Some));
    before.zip(views).map(|(before, view)| view.updates_since(before)).collect()
}

#[test]
fn updates_show_the_same_as_a_whole_view_and_gaps_are_logged() {
    let views: Vec<LoopView> = (1..=5).map(|round| compared(SMALL, round)).collect();
    let (mut one_by_one, mut late) = (app(), app());
    for updates in updates_between(&views) {
        one_by_one.on_updates(&updates);
        assert!(one_by_one.shown.is_some());
    }
    late.on_updates(&updates_between(&views)[0]);
    late.on_view(views[4].clone(), 3);
    let shown = |app: &App| app.shown.as_ref().unwrap().view.clone();
    assert_eq!((shown(&one_by_one), shown(&late)), (views[4].clone(), views[4].clone()));
    let overview = |app: &App| Overview::clone(&app.shown.as_ref().unwrap().overview);
    assert_eq!(overview(&one_by_one), overview(&late));
    let texts = log_texts(&late);
    for start in ["3 steps of the loop were not received", "3 rounds before round 5 were not received"] {
        assert!(texts.iter().any(|text| text.starts_with(start)), "{texts:?}");
    }
    assert!(!log_texts(&one_by_one).iter().any(|text| text.contains("not received")));
    // A loop that restarted at the same socket.
    late.on_view(compared(SMALL, 1), 0);
    assert_eq!(shown(&late), views[0]);
    assert!(log_texts(&late).iter().any(|text| text.starts_with("the loop restarted")));
}
