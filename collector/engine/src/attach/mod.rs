//! Watching a running loop from elsewhere: a Unix socket on which the loop tells its snapshots and hears
//! wishes, one JSON object a line.
//!
//! The loop writes `{"hello": {..}}` first, then `{"snapshot": {..}}` for the latest snapshot and each that
//! follows, `{"recording": "DIR"}` or `{"recording": null}` at the begin and when that changes, and `{"answer": {"ok": ".."}}` or `{"answer": {"error": ".."}}` to each line of the viewer,
//! which is a [`LoopCommand`]. A viewer that reads slowly misses snapshots in between; it never slows the
//! loop or other viewers. The socket is its owner's alone (0600).

mod client;
mod server;

use std::path::PathBuf;

use huddle_model::command::LoopCommand;
use huddle_model::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

pub use client::{AttachError, Viewer};
pub use server::{ServeError, Server, Told};

/// Version of what is said on the socket; both sides must have the same.
pub const PROTOCOL: &str = "huddle/attach/1";

/// The name of the socket in the state directory.
pub const SOCKET_FILE: &str = "attach.sock";

/// Longest line that is taken from the other side.
const MAX_LINE_BYTES: usize = 256 << 20;
/// Longest wish that a loop listens to.
const MAX_COMMAND_BYTES: usize = 64 << 10;

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// See [`PROTOCOL`].
    pub protocol: String,
    /// Version of the huddle that serves.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Whether it can pin at all.
    pub can_pin: bool,
}

/// One line from the loop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The first line.
    Hello(Hello),
    /// What the loop sees now.
    Snapshot(Box<Snapshot>),
    /// Where it records now; `None` while it does not.
    Recording(Option<PathBuf>),
    /// How a wish went, in the order of wishes.
    Answer(Answer),
}

/// How a wish went, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Ok(String),
    /// It was not, and nothing was changed.
    Error(String),
}

impl From<Result<String, String>> for Answer {
    fn from(outcome: Result<String, String>) -> Self {
        match outcome {
            Ok(said) => Self::Ok(said),
            Err(reason) => Self::Error(reason),
        }
    }
}

/// A wish as one line.
fn line_of(command: &LoopCommand) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    Ok(line)
}
