//! The viewer's side.

use std::io;
use std::path::{Path, PathBuf};

use huddle_model::command::LoopCommand;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::wire::Decoder;
use super::{Hello, MAX_LINE_BYTES, Message, PROTOCOL, ViewerHello, line_of};

/// Why a loop cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No loop listens there.
    #[error("no huddle serves viewers at {}: {source}; start `huddle run`, or name its socket", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another version, or no huddle at all.
    #[error("what serves at {} does not speak {PROTOCOL}: {reason}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was read.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection to the loop broke: {0}")]
    Broken(#[from] io::Error),
}

/// A connection to a running loop.
#[derive(Debug)]
pub struct Viewer {
    /// Who serves.
    pub hello: Hello,
    path: PathBuf,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// The part of the next line that was read; kept here, so that [`Viewer::next`] can be cancelled.
    line: Vec<u8>,
    decoder: Decoder,
}

impl Viewer {
    /// Connects to the loop that serves at `path`.
    ///
    /// # Errors
    /// No loop listens there, or one of another version.
    pub async fn attach(path: &Path) -> Result<Self, AttachError> {
        let not_running = |source| AttachError::NotRunning { path: path.to_owned(), source };
        let (read, write) = UnixStream::connect(path).await.map_err(not_running)?.into_split();
        let mut viewer = Self {
            hello: Hello { protocol: String::new(), version: String::new(), pid: 0, can_pin: false },
            path: path.to_owned(),
            read: BufReader::new(read),
            write,
            line: Vec::new(),
            decoder: Decoder::default(),
        };
        match viewer.next().await? {
            Some(Message::Hello(hello)) if hello.protocol == PROTOCOL => viewer.hello = hello,
            Some(Message::Hello(hello)) => {
                let reason = format!("it is huddle {} and speaks {}", hello.version, hello.protocol);
                return Err(viewer.protocol_error(reason));
            }
            _ => return Err(viewer.protocol_error("it did not send a hello".to_owned())),
        }
        let hello =
            ViewerHello::Hello { protocol: PROTOCOL.into(), version: env!("CARGO_PKG_VERSION").into() };
        let line = line_of(&hello).map_err(io::Error::from)?;
        viewer.write.write_all(&line).await?;
        Ok(viewer)
    }

    fn protocol_error(&self, reason: String) -> AttachError {
        AttachError::Protocol { path: self.path.clone(), reason }
    }

    /// The next message; `None` when the loop has ended. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or the message is not understood.
    pub async fn next(&mut self) -> Result<Option<Message>, AttachError> {
        let room = (MAX_LINE_BYTES - self.line.len()) as u64;
        (&mut self.read).take(room).read_until(b'\n', &mut self.line).await?;
        if self.line.is_empty() {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        let line = serde_json::from_slice(&line).map_err(|error| self.protocol_error(error.to_string()))?;
        let message = self.decoder.message(line).map_err(|what| self.protocol_error(what.to_owned()))?;
        Ok(Some(message))
    }

    /// Sends a command; its answer is one of the next messages.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn command(&mut self, command: &LoopCommand) -> Result<(), AttachError> {
        let line = line_of(command).map_err(io::Error::from)?;
        Ok(self.write.write_all(&line).await?)
    }
}
