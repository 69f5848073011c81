//! The pictures of the README: the terminal on MADE-UP data, saved as `w` and `W` save it.
//!
//! `cargo run --package huddle-tui --example pictures` writes `docs/images/*.svg`.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::plan::Policy;
use huddle_testing::fixtures;
use huddle_tui::{App, Charset, ColourMode, Options, draw, picture};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const SIZE: (u16, u16) = (100, 25);
const ROUNDS: u64 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    std::fs::create_dir_all(&directory)?;
    let few = fixtures::Scene { vms: 8, vcpus: 2, domains: 4, cpus: 4, policy: Policy::Paper };
    let many = fixtures::Scene { vms: 16, ..few };
    for (name, scene, keys) in [("overview", few, "1"), ("sharing", many, "2m")] {
        std::fs::write(directory.join(name).with_extension("svg"), picture_of(scene, keys)?)?;
    }
    Ok(())
}

fn picture_of(scene: fixtures::Scene, keys: &str) -> Result<String, Box<dyn Error>> {
    let options = Options {
        colour: ColourMode::TrueColour,
        charset: Charset::Unicode,
        size: SIZE,
        tick: Duration::from_secs(1),
    };
    let mut app = App::new(options);
    for round in 1..=ROUNDS {
        app.on_view(fixtures::observed(scene, round), 0);
    }
    for key in keys.chars() {
        app.on_event(Event::Key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)));
    }
    let mut terminal = Terminal::new(TestBackend::new(SIZE.0, SIZE.1))?;
    terminal.draw(|frame| draw(frame, &app))?;
    Ok(picture::svg(terminal.backend().buffer()))
}
