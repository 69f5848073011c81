//! The feed of the screen from a loop in another process.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use huddle_engine::attach::{Answer, AttachError, Hello, Message, Viewer};
use huddle_tui::{Action, Capability, Source};
use tokio::time::{Interval, interval};

use super::command_of;
use super::live::refusals;
use super::screen::{Feed, FeedMessage};

/// How often to try to attach again after the loop ended.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A loop at a socket. When it ends the screen stays, and the next loop at the socket is shown.
pub(super) struct Attached {
    socket: PathBuf,
    /// `None` while no loop is attached.
    viewer: Option<Viewer>,
    /// When to try again; kept here, so that waiting can be cancelled.
    retry: Interval,
    /// Messages to deliver before anything else.
    queue: VecDeque<FeedMessage>,
}

impl Attached {
    pub(super) fn new(socket: PathBuf, viewer: Viewer) -> Self {
        let mut attached =
            Self { socket, viewer: None, retry: interval(RETRY_INTERVAL), queue: VecDeque::new() };
        attached.connected(viewer);
        attached
    }

    fn connected(&mut self, viewer: Viewer) {
        let Hello { pid, can_pin, .. } = viewer.hello;
        let to = format!("process {pid}");
        self.queue.push_back(FeedMessage::Source(Source::Attached { to, lost: None }));
        self.queue.push_back(FeedMessage::Refusals(refusals(can_pin)));
        self.viewer = Some(viewer);
    }

    fn disconnected(&mut self, why: String) -> FeedMessage {
        self.viewer = None;
        self.queue.push_back(FeedMessage::Recording(None));
        let to = self.socket.display().to_string();
        FeedMessage::Source(Source::Attached { to, lost: Some(why) })
    }
}

impl Feed for Attached {
    fn refusals(&self) -> Vec<(Capability, String)> {
        // They come with each loop.
        Vec::new()
    }

    async fn next(&mut self) -> Option<FeedMessage> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                return Some(message);
            }
            let Some(viewer) = &mut self.viewer else {
                self.retry.tick().await;
                if let Ok(viewer) = Viewer::attach(&self.socket).await {
                    self.connected(viewer);
                }
                continue;
            };
            return Some(match viewer.next().await {
                Ok(Some(Message::View { view, missed })) => FeedMessage::View { view, missed },
                Ok(Some(Message::Updates(updates))) => FeedMessage::Updates(updates.into()),
                Ok(Some(Message::Recording(state))) => FeedMessage::Recording(state),
                Ok(Some(Message::Answer(Answer::Ok(done)))) => FeedMessage::Answer(Ok(done)),
                Ok(Some(Message::Answer(Answer::Error(why)))) => FeedMessage::Answer(Err(why)),
                // The hello comes once, before this.
                Ok(Some(Message::Hello(_))) => continue,
                Ok(None) => self.disconnected("the loop has ended".into()),
                Err(error @ AttachError::Protocol { .. }) => self.disconnected(error.to_string()),
                Err(_) => self.disconnected("the connection broke".into()),
            });
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        let Some(command) = command_of(action)? else { return Ok(()) };
        let viewer = self.viewer.as_mut().ok_or("no loop is attached")?;
        viewer.command(&command).await.map_err(|error| error.to_string())
    }
}
