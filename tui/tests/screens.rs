//! What the screen shows, as text: without colours, in ASCII unless noted.

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::availability::Availability;
use huddle_model::matrix::{SharedReads, SharingMatrix};
use huddle_model::plan::{PlanInput, PlanVm, Policy};
use huddle_model::rates::CounterDelta;
use huddle_model::summary::{ArmSteps, ShownFigures, Summary};
use huddle_model::topology::DomainId;
use huddle_model::view::View;
use huddle_testing::experiment::{self, Measured};
use huddle_testing::fixtures::{SMALL, Scene, compared, groups, observed, unavailable, view, without_vms};
use huddle_tui::{
    App, Charset, ColourMode, ExperimentResult, Options, Palette, Replay, Source, draw, picture,
};
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

/// 48 VMs in groups of four that share 30 to 65 %: whole on the screen, outlined, with the cache domain of each.
#[test]
fn groups_and_their_cache_domains() {
    for (name, policy) in [("together", Policy::Paper), ("apart", Policy::Opposed)] {
        let rounds: Vec<_> = (1..=3).map(|round| groups(policy, round)).collect();
        for (width, height) in [(80, 24), (120, 40), (200, 60)] {
            let name = format!("groups_{name}_{width}x{height}");
            insta::assert_snapshot!(name, screen((width, height), &rounds, "2m"));
        }
        let overview = screen((120, 40), &rounds, "1");
        assert!(
            overview.contains("in force since 03:06:05 UTC (0 s): 27.0 % better than before [+24.0, +30.0]"),
            "{overview}"
        );
    }
    let together = screen((120, 40), &[groups(Policy::Paper, 1)], "2");
    assert!(together.contains("48 VMs; 12 groups, each in one domain"), "{together}");
    let apart = screen((120, 40), &[groups(Policy::Opposed, 1)], "2");
    assert!(apart.contains("12 groups; 3.4 % of shared frames within domains"), "{apart}");
}

/// Where the plan has an estimate of misses, the panel has that of the pair under the cursor.
#[test]
fn the_panel_of_a_pair_says_what_it_would_gain_together() {
    let mut round = view(SMALL, 1);
    let own = Arc::make_mut(&mut round.round);
    let (matrix, topology) = (own.matrix.value().unwrap(), own.topology.value().unwrap());
    // Each VM is in both domains now.
    let vm = PlanVm {
        working_set_bytes: Some(60 << 20),
        current: vec![Some(DomainId(0)), Some(DomainId(1))],
        ..PlanVm::default()
    };
    let plan = Policy::Paper.plan(&PlanInput::new(matrix, topology, &vec![vm; 4]));
    assert!(plan.expected.as_ref().unwrap().misses.is_some(), "{plan:?}");
    own.plan = Availability::Available(Arc::new(plan));
    let rounds = [round];
    let words = |pressed| {
        let screen = screen((200, 60), &rounds, pressed);
        // The panel is at the right; its lines are joined.
        let panel: Vec<String> = screen.lines().map(|line| line.chars().skip(150).collect()).collect();
        panel.join(" ").replace(['|', '"'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let pair = words("2m");
    assert!(pair.contains("db-1 and db-2 share 8,089 frames"), "{pair}");
    assert!(pair.contains("together, as now, they save up to 31.6 MiB of cache (estimate)"), "{pair}");
    assert!(pair.contains("estimated misses of 1000 reads: db-1 "), "{pair}");
    let apart = words("2");
    assert!(apart.contains("web-1 and web-2"), "{apart}");
    let across = words("2\u{6c}");
    assert!(across.contains("web-1 is in domain 1, db-1 in domain 0"), "{across}");
    assert!(across.contains("of cache, none of it now (estimate)"), "{across}");
}

/// The scale ends at the highest rate, or at 100 %.
#[test]
fn the_end_of_the_scale_has_its_value() {
    for (keys, end) in [("2", "@@ 64.0 %"), ("2L", "@@ 100.0 %"), ("2LL", "@@ 64.0 %")] {
        let screen = screen((80, 24), &[groups(Policy::Paper, 1)], keys);
        assert!(screen.contains(end), "{screen}");
    }
}

#[test]
fn without_a_vm_the_terminal_says_what_would_make_one_appear() {
    let rounds: Vec<_> = (1..=2).map(without_vms).collect();
    for (width, height) in [(60, 15), (80, 24), (120, 40)] {
        for (key, view) in [("1", "overview"), ("2", "sharing"), ("3", "misses")] {
            let screen = screen((width, height), &rounds, key);
            let words: Vec<&str> = screen.split_whitespace().collect();
            let words = words.join(" ");
            assert!(words.contains("No VM was found yet"), "{view} {screen}");
            assert!(height < 24 || words.contains("huddle top --vm NAME=PID"), "{view} {screen}");
            assert!(
                height < 24 || words.contains("3 processes or domains look like a VM"),
                "{view} {screen}"
            );
        }
        insta::assert_snapshot!(
            format!("overview_no_vms_{width}x{height}"),
            screen((width, height), &rounds, "1")
        );
    }
    insta::assert_snapshot!("misses_no_vms_80x24", screen((80, 24), &rounds, "3"));
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

/// The screen of one arm of an experiment's result, after keys.
fn result_screen(size: (u16, u16), result: Summary<ShownFigures>, position: usize, pressed: &str) -> String {
    let ArmSteps { arms, views, simulated } = ArmSteps::of(result).expect("a made-up result has arms");
    let experiment = Some(Arc::new(ExperimentResult { arms, simulated }));
    let mut app = app(size, Charset::Ascii);
    for step in 0..=position {
        app.set_source(Source::Replay(Replay {
            name: "microbench-1".into(),
            position: step,
            length: views.len(),
            experiment: experiment.clone(),
            ..Replay::default()
        }));
        app.on_view(views[step].clone(), 0);
    }
    keys(&mut app, pressed);
    render(&app, size)
}

const RESULT_SIZES: [(u16, u16); 2] = [(80, 24), (120, 40)];

#[test]
fn an_experiment_with_simulated_misses_only() {
    let result = || experiment::result(SMALL, Measured::Times, true);
    for size in RESULT_SIZES {
        for (position, arm) in ["recommended", "opposed", "not_merged", "kernel", "random"].iter().enumerate()
        {
            for (key, view) in [("1", "overview"), ("3", "misses")] {
                let screen = result_screen(size, result(), position, key);
                assert!(screen.contains(&format!("arm {arm}, {} of 5", position + 1)), "{screen}");
                if position < 2 {
                    insta::assert_snapshot!(format!("result_{view}_{arm}_{}x{}", size.0, size.1), screen);
                }
            }
        }
    }
    insta::assert_snapshot!("result_misses_60x15", result_screen((60, 15), result(), 4, "3"));
    insta::assert_snapshot!("result_overview_kernel", result_screen((80, 24), result(), 3, "1"));
    insta::assert_snapshot!("result_log", result_screen((80, 24), result(), 2, "6"));
    insta::assert_snapshot!("result_misses_why", result_screen((80, 24), result(), 1, "3e"));
    let filtered = result_screen((80, 24), result(), 0, "3/db\nj");
    assert!(filtered.contains(">db-2") && !filtered.contains("web-1"), "{filtered}");
}

/// The name of an arm never stands beside the placement of another one, however soon a key comes.
#[test]
fn the_arm_shown_is_that_of_the_picture() {
    let ArmSteps { arms, views, simulated } =
        ArmSteps::of(experiment::result(SMALL, Measured::Times, true)).unwrap();
    let experiment = Some(Arc::new(ExperimentResult { arms, simulated }));
    let source = |position| {
        Source::Replay(Replay { position, length: 5, experiment: experiment.clone(), ..Replay::default() })
    };
    let mut app = app((80, 24), Charset::Ascii);
    app.set_source(source(0));
    app.on_view(views[0].clone(), 0);
    // The position is there before its view, by the source or by a key.
    app.set_source(source(1));
    keys(&mut app, ">");
    let before = render(&app, (80, 24));
    assert!(before.contains("arm recommended, 1 of 5") && before.contains("policy paper"), "{before}");
    app.on_view(views[1].clone(), 0);
    let after = render(&app, (80, 24));
    assert!(after.contains("arm opposed, 2 of 5") && after.contains("policy opposed"), "{after}");
    keys(&mut app, "6");
    let log = render(&app, (80, 24));
    assert!(!log.contains("missed") && !log.contains("joined"), "{log}");
}

#[test]
fn measured_misses_are_never_mixed_with_simulated_ones() {
    for size in RESULT_SIZES {
        let screen = result_screen(size, experiment::result(SMALL, Measured::Counters, true), 1, "3");
        let label = screen.find("SIMULATED with model paper, not measured").unwrap();
        // What is above the label was measured: misses per second of VMs, and no simulated figure.
        assert!(screen[..label].contains("MPKI") && !screen[..label].contains("of 1000 reads"), "{screen}");
        insta::assert_snapshot!(format!("result_misses_counters_{}x{}", size.0, size.1), screen);
        let screen = result_screen(size, experiment::result(SMALL, Measured::Nothing, true), 0, "3");
        assert!(
            screen.contains("measured misses: n/a: nothing was timed") && !screen.contains("MPKI"),
            "{screen}"
        );
        let screen = result_screen(size, experiment::result(SMALL, Measured::Counters, false), 0, "3");
        assert!(screen.contains("SIMULATED misses") && screen.contains("no cache was simulated"), "{screen}");
    }
    let neither = result_screen((80, 24), experiment::result(SMALL, Measured::Times, false), 0, "3");
    assert!(neither.contains("misses/s, IPC n/a: this processor shows no PMU"), "{neither}");
    assert!(!neither.contains("of 1000 reads"), "{neither}");
    // Without misses there is still how long and where VMs ran.
    assert!(neither.contains("CPU time") && neither.contains("own domain"), "{neither}");
    insta::assert_snapshot!("result_misses_neither", neither);
}

#[test]
fn many_vms_of_a_simulation_scroll() {
    let scene = Scene { vms: 200, vcpus: 1, domains: 16, cpus: 8, ..SMALL };
    let pressed = format!("3{}", "j".repeat(60));
    let screen = result_screen((80, 24), experiment::result(scene, Measured::Nothing, true), 0, &pressed);
    insta::assert_snapshot!("result_misses_200_vms", screen);
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
