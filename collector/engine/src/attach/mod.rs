//! Watching a running loop from elsewhere: a Unix socket on which the loop tells what it sees and takes
//! commands, one JSON object a line.
//!
//! Both sides begin with a hello that names the protocol: the loop at once, then the viewer. The loop goes on
//! with one whole view as soon as there is one, `{"view": {..}}`, then `{"updates": [..]}` for each step, and
//! a whole view again where the viewer fell behind, with the number of steps that it missed. Parts of a round
//! that are those of the round before are not sent again ([`wire`]). In between it writes
//! `{"recording": {"dir": "DIR", "interrupted": null}}` or `{"recording": null}` at the begin and when that changes
//! (`interrupted` is `{"since_unix_us": .., "reason": ".."}` while nothing can be written), and
//! `{"answer": {"ok": ".."}}` or `{"answer": {"error": ".."}}` to each further line of the viewer, which is a
//! [`LoopCommand`](huddle_model::command::LoopCommand). A slow viewer never slows the loop or other viewers. The socket is its owner's alone
//! (0600).

mod client;
mod server;
pub mod wire;

use huddle_model::recording::RecordingState;
use huddle_model::update::Update;
use huddle_model::view::View;
use serde::{Deserialize, Serialize};

pub use client::{AttachError, Viewer};
pub use server::{ServeError, Server, Sources};

/// Version of what is said on the socket; both sides must have the same.
pub const PROTOCOL: &str = "huddle/attach/2";

/// The name of the socket in the state directory.
pub const SOCKET_FILE: &str = "attach.sock";

/// Longest line that is taken from the loop.
const MAX_LINE_BYTES: usize = 256 << 20;
/// Longest line that a loop takes.
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

/// What the loop tells a viewer.
#[derive(Clone, Debug)]
pub enum Message {
    /// The first one.
    Hello(Hello),
    /// All there is to see now: at the begin, and where the viewer fell behind.
    View {
        /// What updates are to be added to from now on.
        view: Box<View>,
        /// Steps of the loop that the viewer did not get one by one.
        missed: u64,
    },
    /// What one step of the loop changed.
    Updates(Vec<Update>),
    /// Where it records now, and whether it can; `None` while it does not.
    Recording(Option<RecordingState>),
    /// How a command went, in the order of commands.
    Answer(Answer),
}

/// How a command went, as one sentence.
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
