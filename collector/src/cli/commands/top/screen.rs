//! The screen: draws, takes keys, and carries out the user's actions.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::anyhow;
use crossterm::event::EventStream;
use futures::StreamExt;
use huddle_model::recording::RecordingState;
use huddle_model::update::Step;
use huddle_model::view::View;
use huddle_tui::terminal::TerminalGuard;
use huddle_tui::{
    Action, App, Capability, Charset, ColourEnv, ColourMode, KeyMap, LocaleEnv, Options, Palette, Source,
    Tone, draw, picture, render,
};

use super::dry_run::moves;
use crate::cli::config::TopSettings;
use crate::cli::failure::Failure;
use crate::cli::names::new_name;

/// How often the age of the picture is drawn again.
const TICK: Duration = Duration::from_secs(1);

/// The source of what a screen shows.
pub(super) trait Feed: Send {
    /// What cannot be done here, with the reason.
    fn refusals(&self) -> Vec<(Capability, String)>;

    /// The next message; `None` at the end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<FeedMessage>> + Send;

    /// Starts an action of the user; its outcome comes in a later message.
    ///
    /// # Errors
    /// One sentence: why it cannot be done. Nothing was changed then.
    fn act(&mut self, action: Action) -> impl Future<Output = Result<(), String>> + Send;
}

/// A message to the screen.
pub(super) enum FeedMessage {
    /// The updates of a step of the loop.
    Updates(Step),
    /// The complete view, at the begin and when steps were missed.
    View {
        view: Box<View>,
        /// Steps that were missed.
        missed: u64,
    },
    Source(Source),
    /// What cannot be done from now on; everything else can.
    Refusals(Vec<(Capability, String)>),
    /// The state of the recording.
    Recording(Option<RecordingState>),
    /// A notice for the user.
    Notice(String),
    /// The outcome of an action.
    Answer(Result<String, String>),
}

/// A terminal that was taken over; it is restored when this is dropped.
pub(super) struct Screen {
    guard: TerminalGuard,
    app: App,
}

/// A terminal that was taken over, and how to draw on it; it is restored when the guard is dropped.
pub(super) struct Taken {
    pub(super) guard: TerminalGuard,
    pub(super) options: Options,
    pub(super) keys: KeyMap,
    pub(super) palette: Palette,
}

impl Taken {
    /// Takes the terminal over.
    pub(super) fn enter(settings: &TopSettings, ascii: bool) -> Result<Self, Failure> {
        let (keys, palette) =
            (settings.keys().map_err(Failure::usage)?, settings.palette().map_err(Failure::usage)?);
        let guard = TerminalGuard::enter(huddle_record::is_guarded).map_err(|error| match error.kind() {
            ErrorKind::Unsupported => Failure::host(anyhow!("{error}")),
            _ => Failure::failed(error),
        })?;
        let options = Options {
            colour: colour_mode(),
            charset: if ascii || settings.ascii { Charset::Ascii } else { charset() },
            size: guard.size().map_err(Failure::failed)?,
            tick: TICK,
        };
        Ok(Self { guard, options, keys, palette })
    }
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn enter(settings: &TopSettings, ascii: bool) -> Result<Self, Failure> {
        let Taken { guard, options, keys, palette } = Taken::enter(settings, ascii)?;
        let mut app = App::new(options);
        app.set_keys(keys);
        app.set_palette(palette);
        Ok(Self { guard, app })
    }

    /// Shows messages and takes keys until the user quits or the feed ends.
    pub(super) async fn show(mut self, mut feed: impl Feed) -> Result<(), Failure> {
        for (capability, why) in feed.refusals() {
            self.app.refuse(capability, why);
        }
        let mut keys = EventStream::new();
        let mut tick = tokio::time::interval(TICK);
        loop {
            if self.app.take_dirty() {
                let app = &self.app;
                self.guard.terminal().draw(|frame| draw(frame, app)).map_err(Failure::failed)?;
            }
            tokio::select! {
                event = keys.next() => match event {
                    Some(Ok(event)) => {
                        for action in self.app.on_event(event) {
                            if action == Action::Quit {
                                return Ok(());
                            }
                            self.act(action, &mut feed).await;
                        }
                    }
                    Some(Err(error)) => return Err(Failure::failed(error)),
                    None => return Ok(()),
                },
                message = feed.next() => match message {
                    Some(message) => self.take(message),
                    None => return Ok(()),
                },
                _ = tick.tick() => self.app.on_tick(),
            }
        }
    }

    fn take(&mut self, message: FeedMessage) {
        let app = &mut self.app;
        match message {
            FeedMessage::Updates(step) => app.on_updates(&step),
            FeedMessage::View { view, missed } => app.on_view(*view, missed),
            FeedMessage::Source(source) => app.set_source(source),
            FeedMessage::Refusals(refusals) => {
                Capability::ALL.into_iter().for_each(|capability| app.allow(capability));
                refusals.into_iter().for_each(|(capability, why)| app.refuse(capability, why));
            }
            FeedMessage::Recording(state) => app.set_recording(state),
            FeedMessage::Notice(text) => app.notify(Tone::Warning, text),
            FeedMessage::Answer(answer) => {
                let (tone, text) = notice(answer);
                app.notify(tone, text);
            }
        }
    }

    async fn act(&mut self, action: Action, feed: &mut impl Feed) {
        let done = match action {
            Action::ApplyPlan { dry_run: true } => {
                let lines = self.app.shown_view().map(moves).unwrap_or_default();
                self.app.report("Applying the plan would", lines);
                return;
            }
            Action::SaveText => save(&picture::text(&render(&self.app)), "txt").map(Some),
            Action::SaveSvg => save(&picture::svg(&render(&self.app)), "svg").map(Some),
            action => feed.act(action).await.map(|()| None),
        };
        match done {
            Ok(Some(done)) => self.app.notify(Tone::Done, done),
            Ok(None) => {}
            Err(why) => self.app.notify(Tone::Warning, format!("not done: {why}")),
        }
    }
}

/// What is shown of the loop's answer to a command. An error alone does not mean that nothing was done: its sentence says
/// what was, and what was not.
fn notice(answer: Result<String, String>) -> (Tone, String) {
    match answer {
        Ok(done) => (Tone::Done, done),
        Err(why) => (Tone::Warning, why),
    }
}

/// Writes a picture to a new file in the current directory, readable by its owner only.
pub(super) fn save(text: &str, suffix: &str) -> Result<String, String> {
    let name = format!("{}.{suffix}", new_name("screen"));
    let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name);
    match open.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(format!("saved as {name}")),
        Err(error) => Err(format!("cannot write {name} here: {error}")),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn colour_mode() -> ColourMode {
    let (no_color, colorterm, term) = (variable("NO_COLOR"), variable("COLORTERM"), variable("TERM"));
    ColourMode::detect(ColourEnv {
        no_color: no_color.as_deref(),
        colorterm: colorterm.as_deref(),
        term: term.as_deref(),
    })
}

fn charset() -> Charset {
    let (lc_all, lc_ctype, lang) = (variable("LC_ALL"), variable("LC_CTYPE"), variable("LANG"));
    Charset::detect(LocaleEnv {
        lc_all: lc_all.as_deref(),
        lc_ctype: lc_ctype.as_deref(),
        lang: lang.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_done_in_part_is_not_shown_as_not_done() {
        let sentence =
            "planned by policy none from now on, but pinning failed and is tried again in the next round";
        assert_eq!(notice(Err(sentence.into())), (Tone::Warning, sentence.to_owned()));
        assert_eq!(notice(Ok("2 changes undone".into())), (Tone::Done, "2 changes undone".to_owned()));
    }
}
