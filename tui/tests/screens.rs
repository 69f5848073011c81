//! What the screen shows, as text: without colours, in ASCII unless said.

#[path = "../fixtures/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod fixtures;

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use fixtures::{SMALL, Scene, snapshot, unavailable};
use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::snapshot::Snapshot;
use huddle_tui::{App, Charset, ColourMode, Options, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn app(size: (u16, u16), charset: Charset) -> App {
    App::new(Options { colour: ColourMode::NoColour, charset, size, tick: Duration::from_secs(1) })
}

fn keys(app: &mut App, text: &str) {
    for key in text.chars() {
        let code = if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
        app.on_event(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
}

fn render(app: &App, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    terminal.backend().to_string()
}

/// The screen after some rounds and keys.
fn screen(size: (u16, u16), rounds: &[Arc<Snapshot>], pressed: &str) -> String {
    let mut app = app(size, Charset::Ascii);
    for round in rounds {
        app.on_snapshot(Arc::clone(round));
    }
    keys(&mut app, pressed);
    render(&app, size)
}

fn four_vms() -> Vec<Arc<Snapshot>> {
    (1..=4).map(|round| snapshot(SMALL, round)).collect()
}

const SIZES: [(u16, u16); 2] = [(80, 24), (120, 40)];

#[test]
fn each_view_with_few_vms() {
    for size in SIZES {
        for (key, view) in [("1", "overview"), ("2m", "sharing"), ("3", "ksm"), ("4", "log")] {
            let name = format!("{view}_{}x{}", size.0, size.1);
            insta::assert_snapshot!(name, screen(size, &four_vms(), key));
        }
    }
}

#[test]
fn each_view_with_nothing_measured() {
    for (key, view) in [("1", "overview"), ("2", "sharing"), ("3", "ksm"), ("4", "log")] {
        let screen = screen((80, 24), &[unavailable(1)], key);
        insta::assert_snapshot!(format!("{view}_unavailable"), screen);
    }
}

#[test]
fn many_vms() {
    let scene = Scene { vms: 200, vcpus: 2, domains: 16, cpus: 8, ..SMALL };
    let rounds = [snapshot(scene, 1)];
    insta::assert_snapshot!("overview_200_vms", screen((80, 24), &rounds, "1"));
    insta::assert_snapshot!("sharing_200_vms", screen((80, 24), &rounds, "2m"));
    insta::assert_snapshot!("sharing_200_vms_filtered", screen((80, 24), &rounds, "2/web\nL"));
}

#[test]
fn the_help_is_that_of_the_view() {
    insta::assert_snapshot!("help", screen((80, 24), &four_vms(), "2?"));
}

#[test]
fn unicode_and_a_held_picture() {
    let mut app = app((80, 24), Charset::Unicode);
    for round in four_vms() {
        app.on_snapshot(round);
    }
    keys(&mut app, " ");
    app.on_snapshot(snapshot(SMALL, 5));
    insta::assert_snapshot!("overview_unicode_paused", render(&app, (80, 24)));
}

#[test]
fn before_the_first_round_and_too_small() {
    insta::assert_snapshot!("no_data", screen((80, 24), &[], "2"));
    insta::assert_snapshot!("too_small", screen((59, 15), &four_vms(), "2"));
}

#[test]
fn rates_without_frames_never_read_as_zero_frames() {
    let mut round = (*snapshot(SMALL, 1)).clone();
    let csv = ",a,b\na,-,40\nb,20,-\n";
    round.matrix = Availability::Available(SharingMatrix::from_file_text(csv).unwrap());
    let rounds = [Arc::new(round)];
    let sharing = screen((80, 24), &rounds, "2");
    assert!(sharing.contains("frames n/a") && sharing.contains("40.0"), "{sharing}");
    let overview = screen((80, 24), &rounds, "1");
    assert!(overview.contains("shared frames n/a") && !overview.contains(" 0 frames"), "{overview}");
}

#[test]
fn names_of_any_script_fit_and_nothing_else_is_lost() {
    let csv = ",仮想機械一番,b\u{1b}[31m\n仮想機械一番,-,40\nb\u{1b}[31m,20,-\n";
    let mut round = (*snapshot(SMALL, 1)).clone();
    round.matrix = Availability::Available(SharingMatrix::from_file_text(csv).unwrap());
    let mut app = app((80, 24), Charset::Unicode);
    app.on_snapshot(Arc::new(round));
    keys(&mut app, "2");
    let screen = render(&app, (80, 24));
    // The backend shows a blank after each character of two columns.
    assert!(screen.replace(' ', "").contains("仮想機械一番"), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen}");
}
