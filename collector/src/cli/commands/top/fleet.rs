//! `huddle top --fleet`: the screen of a fleet, from a file.

use std::path::Path;

use crossterm::event::EventStream;
use futures::StreamExt;
use huddle_record::read_fleet_overview;
use huddle_tui::{Action, FleetApp, Tone, picture};

use super::screen::{Taken, save};
use crate::cli::args::TopArgs;
use crate::cli::config::TopSettings;
use crate::cli::failure::Failure;
use crate::cli::log::Log;
use crate::cli::looping;
use crate::cli::signals::StopSignals;

pub(super) fn show(settings: &TopSettings, file: &Path, args: &TopArgs, log: &Log) -> Result<(), Failure> {
    let overview = read_fleet_overview(file).map_err(Failure::failed)?;
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    looping::runtime()?.block_on(async {
        // Before the terminal is taken over, so that it is always restored.
        let signals = StopSignals::listen()?;
        let Taken { mut guard, options, keys, palette } = Taken::enter(settings, args.ascii)?;
        let held = log.hold();
        let mut app = FleetApp::new(options, keys, palette, name, overview);
        let shown = async {
            let mut events = EventStream::new();
            loop {
                guard.terminal().draw(|frame| app.draw(frame)).map_err(Failure::failed)?;
                let Some(event) = events.next().await else { return Ok(()) };
                match app.on_event(&event.map_err(Failure::failed)?) {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::SaveText) => {
                        let text = picture::text(&app.render());
                        tell(&mut app, "txt", &text);
                    }
                    Some(Action::SaveSvg) => {
                        let svg = picture::svg(&app.render());
                        tell(&mut app, "svg", &svg);
                    }
                    _ => {}
                }
            }
        };
        let end = tokio::select! {
            end = shown => end,
            () = signals.wait() => Ok(()),
        };
        drop(guard);
        drop(held);
        end
    })
}

/// Saves the picture, and says where.
fn tell(app: &mut FleetApp, suffix: &str, picture: &str) {
    match save(picture, suffix) {
        Ok(done) => app.notify(Tone::Done, done),
        Err(why) => app.notify(Tone::Warning, format!("not done: {why}")),
    }
}
