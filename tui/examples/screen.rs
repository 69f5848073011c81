//! One screen on MADE-UP data as SVG on standard output, to look at views in other sizes and colours.
//!
//! `cargo run --package huddle-tui --example screen -- SCENE WIDTHxHEIGHT COLOURS KEYS`: the scene is `groups`, `apart`,
//! `few`, `many`, `no-pmu` or `no-vms`; colours are `true`, `256`, `16`, `none` or `ascii`.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::availability::Availability;
use huddle_model::plan::Policy;
use huddle_model::rates::CounterDelta;
use huddle_model::view::View;
use huddle_testing::fixtures::{self, SMALL, Scene};
use huddle_tui::{App, Charset, ColourMode, Options, picture, render};

const ROUNDS: u64 = 40;
const USAGE: &str = "give SCENE WIDTHxHEIGHT COLOURS KEYS, as in `groups 120x40 256 2m`";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scene, size, colours, keys] = &arguments[..] else { return Err(USAGE.into()) };
    let (width, height) = size.split_once('x').ok_or(USAGE)?;
    let (colour, charset) = match &**colours {
        "true" => (ColourMode::TrueColour, Charset::Unicode),
        "256" => (ColourMode::Indexed256, Charset::Unicode),
        "16" => (ColourMode::Ansi16, Charset::Unicode),
        "none" => (ColourMode::NoColour, Charset::Unicode),
        "ascii" => (ColourMode::NoColour, Charset::Ascii),
        _ => return Err(USAGE.into()),
    };
    let size = (width.parse()?, height.parse()?);
    let mut app = App::new(Options { colour, charset, size, tick: Duration::from_secs(1) });
    for round in 1..=ROUNDS {
        app.on_view(view(scene, round)?, 0);
    }
    for key in keys.chars() {
        app.on_event(Event::Key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)));
    }
    std::io::stdout().write_all(picture::svg(&render(&app)).as_bytes())?;
    Ok(())
}

fn view(scene: &str, round: u64) -> Result<View, Box<dyn Error>> {
    let many = Scene { vms: 1000, vcpus: 2, domains: 32, cpus: 32, policy: Policy::Paper };
    Ok(match scene {
        "groups" => fixtures::groups(Policy::Paper, round),
        "apart" => fixtures::groups(Policy::Opposed, round),
        "few" => fixtures::compared(SMALL, round),
        "many" => fixtures::compared(many, round),
        "no-pmu" => without_counters(fixtures::groups(Policy::Paper, round)),
        "no-vms" => fixtures::without_vms(round),
        _ => return Err(USAGE.into()),
    })
}

fn without_counters(mut view: View) -> View {
    if let Availability::Available(seen) = &mut view.observation {
        for vcpu in &mut Arc::make_mut(seen).vcpus {
            vcpu.counters = CounterDelta::unavailable("this processor shows no PMU: a VM without vPMU");
        }
    }
    view
}
