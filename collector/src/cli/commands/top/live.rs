//! What the screen shows of a loop in the same process.

use std::path::PathBuf;

use huddle_engine::attach::Told;
use huddle_engine::command::{Request, Requests};
use huddle_tui::{Action, Deed};
use tokio::sync::oneshot;

use super::command_of;
use super::screen::{Feed, News};
use crate::cli::looping::Inlets;

/// The loop, seen from the screen.
pub(super) struct Live {
    told: Told,
    asks: Requests,
    can_pin: bool,
    /// The command that is being carried out; one at a time is enough for one user.
    waits: Option<oneshot::Receiver<Result<String, String>>>,
}

impl Live {
    pub(super) fn new(Inlets { mut told, asks }: Inlets, can_pin: bool) -> Self {
        told.recording.mark_changed();
        Self { told, asks, can_pin, waits: None }
    }
}

impl Feed for Live {
    fn refusals(&self) -> Vec<(Deed, String)> {
        refusals(self.can_pin)
    }

    async fn next(&mut self) -> Option<News> {
        loop {
            tokio::select! {
                changed = self.told.snapshots.changed() => {
                    changed.ok()?;
                    let snapshot = self.told.snapshots.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        return Some(News::Snapshot(snapshot));
                    }
                }
                changed = self.told.recording.changed() => {
                    changed.ok()?;
                    return Some(News::Recording(named(self.told.recording.borrow_and_update().clone())));
                }
                said = answered(&mut self.waits) => {
                    self.waits = None;
                    return Some(News::Answer(said));
                }
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        let Some(command) = command_of(action)? else { return Ok(()) };
        if self.waits.is_some() {
            return Err("the loop is still busy with what was asked before".into());
        }
        let (reply, answer) = oneshot::channel();
        self.asks
            .try_send(Request { command, reply })
            .map_err(|_| "the loop takes nothing now".to_owned())?;
        self.waits = Some(answer);
        Ok(())
    }
}

/// Never ready while nothing was asked.
async fn answered(waits: &mut Option<oneshot::Receiver<Result<String, String>>>) -> Result<String, String> {
    match waits {
        Some(answer) => answer.await.unwrap_or_else(|_| Err("the loop is ending".into())),
        None => std::future::pending().await,
    }
}

/// What a loop that cannot pin refuses.
pub(super) fn refusals(can_pin: bool) -> Vec<(Deed, String)> {
    let why = "this loop was started with --dry-run and changes nothing";
    [Deed::Apply, Deed::Restore].into_iter().filter(|_| !can_pin).map(|deed| (deed, why.to_owned())).collect()
}

pub(super) fn named(dir: Option<PathBuf>) -> Option<String> {
    dir.map(|dir| dir.display().to_string())
}
