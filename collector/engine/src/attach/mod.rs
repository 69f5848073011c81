//! Watching a running loop from another process: a Unix socket on which the loop sends updates and receives
//! commands, one JSON object per line.
//!
//! Both sides begin with a hello that names the protocol: the loop at once, then the viewer. The loop then sends
//! one complete view as soon as there is one, `{"view": {..}}`, then `{"updates": [..]}` for each step, and
//! a complete view again if the viewer fell behind, with the number of steps that it missed. Parts of a round
//! that equal those of the previous round are not sent again ([`wire`]). In between it sends
//! `{"recording": {"dir": "DIR", "interrupted": null}}` or `{"recording": null}` at the begin and when that changes
//! (`interrupted` is `{"since_unix_us": .., "reason": ".."}` while nothing can be written), and
//! `{"answer": {"ok": ".."}}` or `{"answer": {"error": ".."}}` to each further line of the viewer, which is a
//! [`LoopCommand`](huddle_model::command::LoopCommand). A slow viewer never slows the loop or other viewers. Only
//! its owner can use the socket (mode 0600).

mod client;
mod server;
pub mod wire;

use huddle_model::recording::RecordingState;
use huddle_model::update::Update;
use huddle_model::view::View;
use serde::{Deserialize, Serialize};

pub use client::{AttachError, Viewer};
pub use server::{ServeError, Server, Sources};

/// Version of the protocol; both sides must have the same.
pub const PROTOCOL: &str = "huddle/attach/4";

/// The name of the socket in the state directory.
pub const SOCKET_FILE: &str = "attach.sock";

/// Longest line that a viewer reads.
const MAX_LINE_BYTES: usize = 256 << 20;
/// Longest line that a loop reads.
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

/// The first line of a viewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ViewerHello {
    /// Who views.
    Hello {
        /// See [`PROTOCOL`].
        protocol: String,
        /// Version of its huddle.
        version: String,
    },
}

/// A message from the loop to a viewer.
#[derive(Clone, Debug)]
pub enum Message {
    /// The first one.
    Hello(Hello),
    /// The complete view: at the begin, and when the viewer fell behind.
    View {
        /// The view that later updates are to be applied to.
        view: Box<View>,
        /// Steps of the loop that the viewer missed.
        missed: u64,
    },
    /// What one step of the loop changed.
    Updates(Vec<Update>),
    /// Where it records now, and whether it can; `None` while it does not.
    Recording(Option<RecordingState>),
    /// The outcome of a command, in the order of commands.
    Answer(Answer),
}

/// The outcome of a command, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was carried out.
    Ok(String),
    /// It was rejected, or failed; a command that failed may have been carried out in part.
    Error(String),
}

impl From<Result<String, String>> for Answer {
    fn from(outcome: Result<String, String>) -> Self {
        match outcome {
            Ok(done) => Self::Ok(done),
            Err(reason) => Self::Error(reason),
        }
    }
}

/// A value as one line.
fn line_of<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
