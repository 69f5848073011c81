//! The feed of the screen from a recording.

use std::collections::VecDeque;
use std::time::Duration;

use huddle_record::replay::Recording;
use huddle_tui::{Action, Capability, Replay, Source, Speed};
use tokio::time::Instant;

use super::screen::{Feed, FeedMessage};

/// A recording and the current position.
pub(super) struct Replayed {
    recording: Recording,
    at: Replay,
    /// When the next step is to be shown, while playing.
    due: Option<Instant>,
    /// Messages to deliver before anything else.
    queue: VecDeque<FeedMessage>,
}

impl Replayed {
    /// Shows the first step, and goes on from there.
    pub(super) fn new(recording: Recording) -> Self {
        let at = Replay {
            name: recording.name().to_owned(),
            position: 0,
            length: recording.len(),
            span_unix_us: recording.span_unix_us(),
            is_playing: true,
            speed: Speed::ONE,
            experiment: None,
        };
        let missing = match recording.warnings() {
            [] => None,
            [only] => Some(only.clone()),
            [first, others @ ..] => {
                Some(format!("{first} (and {} more, see the log on leaving)", others.len()))
            }
        };
        let mut replayed = Self { recording, at, due: None, queue: VecDeque::new() };
        replayed.show(0);
        replayed.queue.extend(missing.map(FeedMessage::Notice));
        replayed
    }

    fn show(&mut self, position: usize) {
        self.at.position = position;
        self.schedule();
        // The position comes first: histories start again when it goes back.
        self.queue.push_back(FeedMessage::Source(Source::Replay(self.at.clone())));
        self.queue.push_back(match self.recording.view(position) {
            Ok(view) => FeedMessage::View { view: Box::new(view), missed: 0 },
            Err(error) => FeedMessage::Answer(Err(error.to_string())),
        });
    }

    /// Sets when the next step is due; playing stops at the end.
    fn schedule(&mut self) {
        let next = self.recording.time_unix_us(self.at.position + 1);
        let now = self.recording.time_unix_us(self.at.position);
        self.due = None;
        let (Some(now), Some(next), true) = (now, next, self.at.is_playing) else {
            self.at.is_playing = false;
            return;
        };
        // If the clock was set back, the next step is due at once.
        let between = Duration::from_micros(next.saturating_sub(now)).div_f64(self.at.speed.factor());
        self.due = Some(Instant::now() + between);
    }
}

impl Feed for Replayed {
    fn refusals(&self) -> Vec<(Capability, String)> {
        // The screen itself refuses actions during a replay.
        Vec::new()
    }

    async fn next(&mut self) -> Option<FeedMessage> {
        if self.queue.is_empty() {
            match self.due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
            self.show(self.at.position + 1);
        }
        self.queue.pop_front()
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Play if self.at.position + 1 == self.at.length => {
                self.at.is_playing = self.at.length > 1;
                self.show(0);
            }
            Action::Play | Action::Pause => {
                self.at.is_playing = action == Action::Play;
                self.schedule();
                self.queue.push_back(FeedMessage::Source(Source::Replay(self.at.clone())));
            }
            Action::SetSpeed(speed) => {
                self.at.speed = speed;
                let was_playing = self.at.is_playing;
                self.schedule();
                self.at.is_playing = was_playing && self.due.is_some();
                self.queue.push_back(FeedMessage::Source(Source::Replay(self.at.clone())));
            }
            Action::Step => {
                self.at.is_playing = false;
                self.show((self.at.position + 1).min(self.at.length - 1));
            }
            Action::Seek { position } => self.show(position.min(self.at.length - 1)),
            _ => {}
        }
        Ok(())
    }
}
