//! What the screen shows, as text: without colours, in ASCII unless noted.

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::availability::Availability;
use huddle_model::matrix::{SharedReads, SharingMatrix};
use huddle_model::plan::Policy;
use huddle_model::rates::CounterDelta;
use huddle_model::view::View;
use huddle_testing::fixtures::{SMALL, Scene, compared, observed, unavailable, view};
use huddle_tui::{App, Charset, ColourMode, Options, Palette, Replay, Source, draw, picture};
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
fn screen(size: (u16, u16), rounds: &[View], pressed: &str) -> String {
    let mut app = app(size, Charset::Ascii);
    for round in rounds {
        app.on_view(round.clone(), 0);
    }
    keys(&mut app, pressed);
    render(&app, size)
}

fn four_vms() -> Vec<View> {
    (1..=4).map(|round| compared(SMALL, round)).collect()
}

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 60)];
const VIEWS: [(&str, &str); 6] =
    [("1", "overview"), ("2m", "sharing"), ("3", "misses"), ("4", "compare"), ("5", "ksm"), ("6", "log")];

/// Each view at each size.
fn each_view(scene: &str, rounds: &[View]) {
    for size in SIZES {
        for (key, view) in VIEWS {
            let name = format!("{view}_{scene}_{}x{}", size.0, size.1);
            insta::assert_snapshot!(name, screen(size, rounds, key));
        }
    }
}

#[test]
fn each_view_with_few_vms() {
    each_view("four_vms", &four_vms());
}

#[test]
fn each_view_without_data() {
    each_view("no_data", &[]);
}

#[test]
fn each_view_with_one_vm() {
    let scene = Scene { vms: 1, vcpus: 1, domains: 2, cpus: 1, ..SMALL };
    let rounds: Vec<_> = (1..=3).map(|round| observed(scene, round)).collect();
    each_view("one_vm", &rounds);
}

#[test]
fn each_view_with_nothing_measured() {
    each_view("unavailable", &[unavailable(1)]);
}

/// Everything but hardware counters, as on a machine without a PMU.
fn without_counters(round: u64) -> View {
    let mut view = observed(SMALL, round);
    if let Availability::Available(seen) = &mut view.observation {
        let seen = Arc::make_mut(seen);
        for vcpu in &mut seen.vcpus {
            vcpu.counters = CounterDelta::unavailable("this processor shows no PMU: a VM without vPMU");
        }
        for counted in &mut seen.events {
            counted.event =
                Availability::Unavailable("this processor shows no PMU: a VM without vPMU".into());
        }
    }
    view
}

#[test]
fn each_view_without_counters() {
    let rounds: Vec<_> = (1..=3).map(without_counters).collect();
    each_view("no_counters", &rounds);
    insta::assert_snapshot!("misses_no_counters_why", screen((80, 24), &rounds, "3e"));
}

#[test]
fn each_view_with_names_in_any_script() {
    let rounds: Vec<_> = (1..=2).map(renamed).collect();
    for size in SIZES {
        for (key, view) in VIEWS {
            let mut app = app(size, Charset::Unicode);
            for round in &rounds {
                app.on_view(round.clone(), 0);
            }
            keys(&mut app, key);
            let name = format!("{view}_unicode_{}x{}", size.0, size.1);
            insta::assert_snapshot!(name, render(&app, size));
        }
    }
}

/// Names in other scripts, of two columns a character, and with marks that combine.
fn renamed(round: u64) -> View {
    let names = ["仮想機械一番", "машина-2", "e\u{301}te\u{301}", "ディスク蓄積装置管理用機械第四号"];
    let mut view = compared(SMALL, round);
    let round = Arc::make_mut(&mut view.round);
    let old: Vec<String> = round.vms.iter().map(|vm| vm.name.clone()).collect();
    let new = |name: &str| {
        old.iter().position(|known| known == name).map_or_else(|| name.to_owned(), |at| names[at].to_owned())
    };
    for vm in Arc::make_mut(&mut round.vms) {
        vm.name = new(&vm.name);
    }
    if let Availability::Available(plan) = &mut round.plan {
        for placed in &mut Arc::make_mut(plan).placement {
            placed.vm = new(&placed.vm);
        }
    }
    if let Availability::Available(seen) = &mut view.observation {
        let seen = Arc::make_mut(seen);
        seen.vcpus.iter_mut().for_each(|vcpu| vcpu.vm = new(&vcpu.vm));
        seen.merging.iter_mut().for_each(|row| row.vm = new(&row.vm));
    }
    let mut csv = format!(",{}\n", names.join(","));
    for name in names {
        let cells = names.map(|other| if other == name { "-" } else { "12.5" });
        csv += &format!("{name},{}\n", cells.join(","));
    }
    let matrix = SharingMatrix::from_file_text(&csv).expect("a made-up matrix is square");
    round.matrix = Availability::Available(Arc::new(matrix));
    view
}

#[test]
fn each_view_with_many_vms() {
    let scene = Scene { vms: 200, vcpus: 2, domains: 16, cpus: 8, ..SMALL };
    let rounds = [compared(scene, 1), compared(scene, 2)];
    each_view("200_vms", &rounds);
    insta::assert_snapshot!("sharing_200_vms_filtered", screen((80, 24), &rounds, "2/web\nL"));
    insta::assert_snapshot!("misses_200_vms_vcpus_filtered", screen((80, 24), &rounds, "3v/web-1\nsj"));
}

#[test]
fn each_view_too_small() {
    for (key, view) in VIEWS {
        for size in [(59, 15), (60, 14), (3, 2)] {
            let screen = screen(size, &four_vms(), key);
            let words = screen.replace(['"', '\n'], " ");
            let words: Vec<&str> = words.split_whitespace().collect();
            if size.0 > 40 {
                assert!(
                    words.join(" ").starts_with("terminal too small: needs 60x15, has "),
                    "{view} {screen}"
                );
            } else {
                assert!(screen.contains("ter"), "{view} {screen}");
            }
        }
    }
    insta::assert_snapshot!("too_small", screen((59, 15), &four_vms(), "2"));
}

#[test]
fn the_smallest_screen_holds_every_view() {
    let rounds: Vec<_> = (1..=4).map(|round| compared(SMALL, round)).collect();
    for (key, view) in VIEWS {
        insta::assert_snapshot!(format!("{view}_60x15"), screen((60, 15), &rounds, key));
    }
}

#[test]
fn a_move_is_on_the_time_axis_and_in_the_overview() {
    let apart = Scene { policy: Policy::Opposed, ..SMALL };
    let rounds: Vec<_> = (1..=12)
        .map(|round| if round <= 6 { observed(apart, round) } else { observed(SMALL, round) })
        .collect();
    insta::assert_snapshot!("misses_after_a_move", screen((80, 24), &rounds, "3[["));
    let overview = screen((80, 24), &rounds, "1");
    assert!(
        overview.contains("MPKI of all vCPUs: 3.19 before, 1.60 in 6 windows since (-49.8 %)"),
        "{overview}"
    );
}

#[test]
fn questions_choices_and_messages() {
    insta::assert_snapshot!("asked", screen((80, 24), &four_vms(), "a"));
    insta::assert_snapshot!("choosing", screen((80, 24), &four_vms(), "p"));
    let refused = screen((80, 24), &[unavailable(1)], "a");
    assert!(refused.contains("no plan: without a sharing matrix"), "{refused}");
    let mut app = app((80, 24), Charset::Ascii);
    app.on_view(observed(SMALL, 1), 0);
    app.report("dry run", (0..30).map(|line| format!("line {line} of what would be done")).collect());
    keys(&mut app, "jj");
    insta::assert_snapshot!("report", render(&app, (80, 24)));
}

#[test]
fn the_heatmap_shows_what_is_read() {
    let mut round = view(SMALL, 1);
    let matrix = round.round.matrix.value().unwrap();
    let quarter: Vec<Vec<u64>> =
        (0..4).map(|i| (0..4).map(|j| matrix.shared_frames(i, j).unwrap() / 4).collect()).collect();
    let in_kvm = |vm: usize| (vm == 3).then(|| "it runs in KVM".to_owned());
    let reads = SharedReads::new(&quarter, None, 100, (0..4).map(in_kvm).collect());
    let matrix = SharingMatrix::clone(matrix).with_reads(reads);
    Arc::make_mut(&mut round.round).matrix = Availability::Available(Arc::new(matrix));
    insta::assert_snapshot!("reads_80x24", screen((80, 24), std::slice::from_ref(&round), "2e"));
    insta::assert_snapshot!("reads_200x60", screen((200, 60), std::slice::from_ref(&round), "2em"));
    // A matrix without reads shows that there are none.
    insta::assert_snapshot!("no_reads_80x24", screen((80, 24), &[view(SMALL, 1)], "2e"));
}

#[test]
fn a_replay_shows_its_state() {
    let mut app = app((80, 24), Charset::Ascii);
    app.set_source(Source::Replay(Replay {
        name: "run-7".into(),
        position: 4,
        length: 10,
        is_playing: true,
        ..Replay::default()
    }));
    app.on_view(compared(SMALL, 5), 0);
    insta::assert_snapshot!("replay", render(&app, (80, 24)));
}

#[test]
fn the_help_is_specific_to_the_view() {
    insta::assert_snapshot!("help", screen((80, 24), &four_vms(), "2?"));
}

#[test]
fn unicode_and_a_paused_display() {
    let mut app = app((80, 24), Charset::Unicode);
    for round in four_vms() {
        app.on_view(round, 0);
    }
    keys(&mut app, " ");
    app.on_view(view(SMALL, 5), 0);
    insta::assert_snapshot!("overview_unicode_paused", render(&app, (80, 24)));
}

fn with_matrix(csv: &str) -> View {
    let mut view = view(SMALL, 1);
    let matrix = SharingMatrix::from_file_text(csv).expect("it is well-formed");
    Arc::make_mut(&mut view.round).matrix = Availability::Available(Arc::new(matrix));
    view
}

#[test]
fn rates_without_frames_never_read_as_zero_frames() {
    let rounds = [with_matrix(",a,b\na,-,40\nb,20,-\n")];
    let sharing = screen((80, 24), &rounds, "2");
    assert!(sharing.contains("frames n/a") && sharing.contains("40.0"), "{sharing}");
    let overview = screen((80, 24), &rounds, "1");
    assert!(overview.contains("shared frames n/a") && !overview.contains(" 0 frames"), "{overview}");
}

#[test]
fn names_in_any_script_fit_and_nothing_else_is_lost() {
    let csv = ",仮想機械一番,b\u{1b}[31m\n仮想機械一番,-,40\nb\u{1b}[31m,20,-\n";
    let mut app = app((80, 24), Charset::Unicode);
    app.on_view(with_matrix(csv), 0);
    keys(&mut app, "2");
    let screen = render(&app, (80, 24));
    // The backend shows a blank after each character of two columns.
    assert!(screen.replace(' ', "").contains("仮想機械一番"), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen}");
}

#[test]
fn the_saved_picture_equals_the_screen() {
    let mut pictures = std::collections::HashSet::new();
    for palette in Palette::ALL {
        let options = Options {
            colour: ColourMode::TrueColour,
            charset: Charset::Unicode,
            size: (80, 24),
            tick: Duration::from_secs(1),
        };
        let mut app = App::new(options);
        app.set_palette(palette);
        app.on_view(renamed(1), 0);
        keys(&mut app, "2");
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &app)).unwrap();
        assert_eq!(&huddle_tui::render(&app), terminal.backend().buffer());
        let text = picture::text(&huddle_tui::render(&app));
        assert_eq!(text.lines().count(), 24);
        assert!(text.contains("仮想機械一番"), "{text}");
        let svg = picture::svg(&huddle_tui::render(&app));
        assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
        pictures.insert(svg);
    }
    assert_eq!(pictures.len(), Palette::ALL.len(), "each palette has its own colours");
}
