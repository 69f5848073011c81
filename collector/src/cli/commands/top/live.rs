//! The feed of the screen from a loop in the same process.

use huddle_engine::command::{ENDING, Request};
use huddle_engine::publish::Delivery;
use huddle_tui::{Action, Capability};
use tokio::sync::oneshot;

use super::command_of;
use super::screen::{Feed, FeedMessage};
use crate::cli::looping::ViewerChannels;

/// The loop, as a feed.
pub(super) struct Live {
    channels: ViewerChannels,
    can_pin: bool,
    /// The reply to the command in progress; one at a time is enough for one user.
    pending: Option<oneshot::Receiver<Result<String, String>>>,
}

impl Live {
    pub(super) fn new(mut channels: ViewerChannels, can_pin: bool) -> Self {
        channels.recording.mark_changed();
        Self { channels, can_pin, pending: None }
    }
}

impl Feed for Live {
    fn refusals(&self) -> Vec<(Capability, String)> {
        refusals(self.can_pin)
    }

    async fn next(&mut self) -> Option<FeedMessage> {
        let ViewerChannels { steps, recording, .. } = &mut self.channels;
        tokio::select! {
            delivery = steps.next() => Some(match delivery? {
                Delivery::Next(step) => FeedMessage::Updates(step),
                Delivery::View { view, missed } => FeedMessage::View { view, missed },
            }),
            changed = recording.changed() => {
                changed.ok()?;
                Some(FeedMessage::Recording(recording.borrow_and_update().clone()))
            }
            answer = answered(&mut self.pending) => {
                self.pending = None;
                Some(FeedMessage::Answer(answer))
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        let Some(command) = command_of(action)? else { return Ok(()) };
        if self.pending.is_some() {
            return Err("the loop is still busy with the previous command".into());
        }
        let (reply, answer) = oneshot::channel();
        self.channels
            .commands
            .try_send(Request { command, reply })
            .map_err(|_| "the loop accepts no command now".to_owned())?;
        self.pending = Some(answer);
        Ok(())
    }
}

/// Never ready while no command is pending.
async fn answered(pending: &mut Option<oneshot::Receiver<Result<String, String>>>) -> Result<String, String> {
    match pending {
        Some(answer) => answer.await.unwrap_or_else(|_| Err(ENDING.into())),
        None => std::future::pending().await,
    }
}

/// What a loop that cannot pin refuses.
pub(super) fn refusals(can_pin: bool) -> Vec<(Capability, String)> {
    let why = "this loop was started with --dry-run and changes nothing";
    [Capability::Apply, Capability::Restore]
        .into_iter()
        .filter(|_| !can_pin)
        .map(|capability| (capability, why.to_owned()))
        .collect()
}
