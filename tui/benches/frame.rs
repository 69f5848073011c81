//! Time of a frame at 200x60 with 256 VMs and 512 vCPUs: taking a snapshot over, and drawing each view
//! into the buffer. Prints medians, and their ratio to a baseline (writing every cell of the buffer
//! once), which carries over between machines better than times do.
//!
//! `cargo bench -p huddle-tui`; ends with status 1 when a frame takes longer than its limit.

#[path = "../fixtures/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod fixtures;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::plan::Policy;
use huddle_model::snapshot::Snapshot;
use huddle_tui::{App, Charset, ColourMode, Options, View, draw};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const SIZE: (u16, u16) = (200, 60);
const SCENE: fixtures::Scene =
    fixtures::Scene { vms: 256, vcpus: 2, domains: 32, cpus: 8, policy: Policy::Paper };
/// What a frame may take: state update and drawing.
const LIMIT: Duration = Duration::from_millis(4);
const ROUNDS: usize = 60;

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

#[allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]
fn main() -> ExitCode {
    let rounds: Vec<Arc<Snapshot>> = (1..=8).map(|round| fixtures::snapshot(SCENE, round)).collect();
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
        let word = if time <= LIMIT { "within" } else { "ABOVE" };
        is_within &= time <= LIMIT;
        println!("{what}: {time:?}, {ratio:.1} times the baseline, {word} {LIMIT:?}");
    };
    for view in View::ALL {
        let key = KeyEvent::new(KeyCode::Char(view.digit()), KeyModifiers::NONE);
        app.on_event(Event::Key(key));
        let mut next = rounds.iter().cycle();
        let full = measure(|| {
            if let Some(snapshot) = next.next() {
                app.on_snapshot(Arc::clone(snapshot));
            }
            draw_into(&mut terminal, &app);
        });
        report(&format!("{}: new round and drawing", view.name()), full);
        let drawing = measure(|| draw_into(&mut terminal, &app));
        report(&format!("{}: drawing alone", view.name()), drawing);
    }
    if is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
