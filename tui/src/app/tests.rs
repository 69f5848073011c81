use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use huddle_model::plan::Policy;

use super::*;

#[path = "../../fixtures/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod fixtures;
use fixtures::{SMALL, Scene, snapshot, unavailable};

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
    app.on_snapshot(snapshot(SMALL, 1));
    let before = log_texts(&app);
    keys(&mut app, " ");
    app.on_snapshot(snapshot(SMALL, 2));
    app.on_snapshot(snapshot(SMALL, 3));
    assert_eq!(app.shown.as_ref().unwrap().snapshot.round, 1);
    assert_eq!(app.rounds_held(), 2);
    assert_eq!(log_texts(&app), before);
    keys(&mut app, "t");
    assert!(app.is_paused());
    assert_eq!(app.shown.as_ref().unwrap().snapshot.round, 3);
    assert!(log_texts(&app).len() > before.len(), "round 3 has an event");
    keys(&mut app, " ");
    assert!(!app.is_paused());
}

#[test]
fn a_round_given_twice_is_logged_once_and_a_missed_one_is_said() {
    let mut app = app();
    app.on_snapshot(snapshot(SMALL, 1));
    let once = log_texts(&app);
    app.on_snapshot(snapshot(SMALL, 1));
    assert_eq!(log_texts(&app), once);
    app.on_snapshot(snapshot(SMALL, 4));
    let texts = log_texts(&app);
    assert!(texts.iter().any(|text| text.starts_with("2 rounds before round 4")), "{texts:?}");
}

#[test]
fn the_last_change_is_the_last_that_moved_something() {
    let mut app = app();
    app.on_snapshot(snapshot(SMALL, 1));
    app.on_snapshot(snapshot(SMALL, 2));
    let change = app.shown.as_ref().unwrap().change.clone().unwrap();
    assert_eq!((change.round, change.policy_before), (1, None));
    app.on_snapshot(snapshot(Scene { policy: Policy::Opposed, ..SMALL }, 3));
    let change = app.shown.as_ref().unwrap().change.clone().unwrap();
    assert_eq!((change.round, change.policy_before), (3, Some(Policy::Paper)));
    assert!(!change.moves.is_empty());
    app.on_snapshot(unavailable(4));
    assert_eq!(app.shown.as_ref().unwrap().change.as_ref().unwrap().round, 3);
}

#[test]
fn frames_within_domains_are_those_of_the_plan() {
    for policy in [Policy::Paper, Policy::Opposed] {
        for (vms, vcpus) in [(4, 2), (9, 3), (40, 1)] {
            let snapshot = snapshot(Scene { vms, vcpus, policy, ..SMALL }, 1);
            let overview = Overview::of(&snapshot);
            let plan = snapshot.plan.value().unwrap();
            let within = *overview.within_frames.value().unwrap();
            let planned = plan.shared_within.unwrap();
            // Each box is rounded by itself.
            assert!(within.abs_diff(planned) <= 2, "{policy} {vms}: {within} and {planned}");
            assert_eq!(overview.total_frames.value().copied(), plan.shared_total);
            assert_eq!(overview.elsewhere, 0);
        }
    }
}

#[test]
fn without_a_placement_boxes_show_where_vcpus_last_ran() {
    let overview = Overview::of(&snapshot(Scene { policy: Policy::None, ..SMALL }, 1));
    assert!(matches!(overview.basis, Basis::LastRan(_)));
    let vcpus: Vec<usize> = overview.domains.value().unwrap().iter().map(|domain| domain.vcpus).collect();
    assert_eq!(vcpus.iter().sum::<usize>(), 8);
}

#[test]
fn what_is_unavailable_keeps_its_reason() {
    let overview = Overview::of(&unavailable(1));
    assert!(overview.domains.reason().unwrap().contains("cache"));
    assert!(overview.total_frames.reason().unwrap().contains("pagemap"));
    assert_eq!(overview.within_frames.value(), None);
}

#[test]
fn the_cursor_stays_with_its_vms_through_orders_rounds_and_filters() {
    let mut app = app();
    let scene = Scene { vms: 12, ..SMALL };
    app.on_snapshot(snapshot(scene, 1));
    keys(&mut app, "2m");
    let named = |app: &App| {
        let (matrix, _) = app.shown.as_ref().unwrap().matrix().unwrap();
        let name = |at: usize| matrix.vms()[app.sharing.order[at]].name.clone();
        (name(app.sharing.cursor.0), name(app.sharing.cursor.1))
    };
    let before = named(&app);
    keys(&mut app, "s");
    assert_eq!(named(&app), before);
    app.on_snapshot(snapshot(scene, 2));
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
    app.on_snapshot(snapshot(SMALL, 1));
    let clustered = |app: &App| Arc::clone(&app.shown.as_ref().unwrap().figures.as_ref().unwrap().clustered);
    let first = clustered(&app);
    let mut same = (*snapshot(SMALL, 1)).clone();
    same.round = 2;
    app.on_snapshot(Arc::new(same));
    assert!(Arc::ptr_eq(&first, &clustered(&app)));
    app.on_snapshot(snapshot(SMALL, 3));
    assert!(!Arc::ptr_eq(&first, &clustered(&app)));
}

#[test]
fn the_mouse_selects_tabs_and_cells_and_the_wheel_scrolls() {
    let mut app = app();
    app.on_snapshot(snapshot(Scene { vms: 100, ..SMALL }, 1));
    let mouse = |app: &mut App, kind, column, row| {
        app.on_event(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
    };
    let click = MouseEventKind::Down(MouseButton::Left);
    let screen = app.screen().unwrap();
    let tab = screen.tabs().nth(1).unwrap().2;
    mouse(&mut app, click, tab.x + 1, tab.y);
    assert_eq!(app.view(), View::Sharing);
    let layout = app.sharing.layout(screen.body);
    mouse(&mut app, click, layout.cells.x + 3 * layout.cell_width, layout.cells.y + 5);
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
    app.on_snapshot(snapshot(SMALL, 1));
    assert!(app.take_dirty());
}
