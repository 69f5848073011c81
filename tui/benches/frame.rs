//! Time of a frame at 200x60 with 256 VMs and 512 vCPUs, and with 1,000 VMs and 2,000 vCPUs: applying a round, and drawing
//! each view into the buffer. Prints medians, and their ratio to a baseline (writing every cell of the buffer
//! once), which is comparable between machines better than times do.
//!
//! `cargo bench -p huddle-tui`; ends with status 1 when a frame takes longer than its limit.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::plan::Policy;
use huddle_model::view::View;
use huddle_testing::fixtures;
use huddle_tui::{App, Charset, ColourMode, Options, View as Tab, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const SIZE: (u16, u16) = (200, 60);
/// A host, and what a frame may take on it.
struct Case {
    scene: fixtures::Scene,
    /// Rounds before anything is timed, so that charts cost what they cost after hours, or some time.
    rounds_before: u64,
    /// For state update and drawing.
    limit: Duration,
}
const CASES: [Case; 2] = [
    Case {
        scene: fixtures::Scene { vms: 256, vcpus: 2, domains: 32, cpus: 8, policy: Policy::Paper },
        rounds_before: 900,
        limit: Duration::from_millis(4),
    },
    // New rates of half a million pairs are ordered in groups anew: at most a tenth of the second between two rounds.
    Case {
        scene: fixtures::Scene { vms: 1000, vcpus: 2, domains: 32, cpus: 32, policy: Policy::Paper },
        rounds_before: 40,
        limit: Duration::from_millis(100),
    },
];
/// What an idle screen may take of a core, at one tick a second.
const IDLE_LIMIT: f64 = 0.01;
const ROUNDS: usize = 60;

/// One of `rounds` as if it were the round with this number, two seconds after the one before.
fn later(rounds: &[View], round: u64) -> View {
    let mut view = rounds[(round - 1) as usize % rounds.len()].clone();
    let own = Arc::make_mut(&mut view.round);
    let shift_us = (round - own.number) * 2_000_000;
    own.number = round;
    own.begin_unix_us += shift_us;
    own.end_unix_us += shift_us;
    if let huddle_model::availability::Availability::Available(seen) = &mut view.observation {
        let seen = Arc::make_mut(seen);
        (seen.window, seen.round) = (round, round);
        seen.begin_unix_us += shift_us;
        seen.end_unix_us += shift_us;
    }
    view
}

/// A deep copy that shares no data with the view, so that dropping it frees all its parts.
fn apart(view: &View) -> View {
    let mut view = view.clone();
    let round = Arc::make_mut(&mut view.round);
    if let huddle_model::availability::Availability::Available(matrix) = &mut round.matrix {
        *matrix = Arc::new(matrix.weighted(|_| 1.0));
    }
    Arc::make_mut(&mut round.vms);
    view
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Median of `ROUNDS` runs after a few to warm up.
fn measure(mut run: impl FnMut()) -> Duration {
    let mut once = || {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    for _ in 0..5 {
        once();
    }
    median((0..ROUNDS).map(|_| once()).collect())
}

fn draw_into(terminal: &mut Terminal<TestBackend>, app: &App) {
    terminal.current_buffer_mut().reset();
    draw(&mut terminal.get_frame(), app);
    black_box(terminal.current_buffer_mut());
}

fn main() -> ExitCode {
    let within = CASES.map(|case| run(&case));
    if within.into_iter().all(|is_within| is_within) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether all of a case is within its limits.
#[allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]
fn run(case: &Case) -> bool {
    let Case { scene, rounds_before, limit } = case;
    println!("{} VMs with {} vCPUs each", scene.vms, scene.vcpus);
    let rounds: Vec<View> = (1..=8).map(|round| fixtures::compared(*scene, round)).collect();
    let options = Options {
        colour: ColourMode::TrueColour,
        charset: Charset::Unicode,
        size: SIZE,
        tick: Duration::from_secs(1),
    };
    let mut app = App::new(options);
    let Ok(mut terminal) = Terminal::new(TestBackend::new(SIZE.0, SIZE.1));
    let baseline = measure(|| {
        let buffer = terminal.current_buffer_mut();
        buffer.reset();
        for y in 0..SIZE.1 {
            for x in 0..SIZE.0 {
                buffer[(x, y)].set_char('x');
            }
        }
        black_box(buffer);
    });
    println!("baseline, every cell written once: {baseline:?}");

    let mut is_within = true;
    let mut report = |what: &str, time: Duration| {
        let ratio = time.as_secs_f64() / baseline.as_secs_f64();
        let word = if time <= *limit { "within" } else { "ABOVE" };
        is_within &= time <= *limit;
        println!("{what}: {time:?}, {ratio:.1} times the baseline, {word} {limit:?}");
    };
    let mut busiest = Duration::ZERO;
    for round in 1..=*rounds_before {
        app.on_view(later(&rounds, round), 0);
    }
    let mut at = *rounds_before;
    for tab in Tab::ALL {
        let key = KeyEvent::new(KeyCode::Char(tab.digit()), KeyModifiers::NONE);
        app.on_event(Event::Key(key));
        // Kept until after: dropping a view is measured apart, below.
        let kept: Vec<View> = (at + 1..=at + 5 + ROUNDS as u64).map(|round| later(&rounds, round)).collect();
        at += kept.len() as u64;
        let mut next = kept.iter();
        let full = measure(|| {
            if let Some(view) = next.next() {
                app.on_view(view.clone(), 0);
            }
            draw_into(&mut terminal, &app);
        });
        busiest = busiest.max(full);
        report(&format!("{}: new round and drawing", tab.name()), full);
        let drawing = measure(|| draw_into(&mut terminal, &app));
        report(&format!("{}: drawing alone", tab.name()), drawing);
    }
    // Copies of many more VMs would need gigabytes.
    if scene.vms <= 256 {
        let mut copies: Vec<View> = (0..ROUNDS + 5).map(|_| apart(&rounds[0])).collect();
        let dropping = measure(|| drop(copies.pop()));
        println!("dropping a view, where this is its last reader: {dropping:?}");
    }
    println!("at 1 Hz, a new round and a drawing a second: {:.2} % of a core", busiest.as_secs_f64() * 100.0);
    app.take_dirty();
    let idle = measure(|| {
        app.on_tick();
        if app.take_dirty() {
            draw_into(&mut terminal, &app);
        }
    });
    let part = idle.as_secs_f64();
    is_within &= part < IDLE_LIMIT;
    let word = if part < IDLE_LIMIT { "within" } else { "ABOVE" };
    println!("idle, a tick a second: {:.2} % of a core, {word} {:.0} %", part * 100.0, IDLE_LIMIT * 100.0);
    is_within
}
