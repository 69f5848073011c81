//! The loop's side.

use std::io;
use std::os::unix::net::UnixListener as BlockingListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::command::LoopCommand;
use huddle_model::recording::RecordingState;
use huddle_model::update::Step;
use huddle_model::view::View;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::wire::{Line, encode};
use super::{Answer, Hello, MAX_COMMAND_BYTES, PROTOCOL, ViewerHello, line_of};
use huddle_host::socket::{NoRoom, listen_private};

use crate::command::{ENDING, Request, Requests};
use crate::publish::{Delivery, Publisher, Subscriber};

/// A viewer that reads or sends nothing for so long is disconnected.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Viewers at a time.
const MAX_VIEWERS: usize = 32;
/// Steps that a viewer may be behind before it gets a complete view instead of them.
const MAX_BEHIND: usize = 16;

/// Why nobody can attach.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another loop serves there.
    #[error("another huddle serves viewers at {}; name another socket with --socket", .0.display())]
    Taken(PathBuf),
    /// Something that is not a socket is there.
    #[error("{} exists and is not a socket; name another one with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be created.
    #[error("no viewer can attach at {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// What viewers receive.
#[derive(Debug)]
pub struct Sources {
    /// The steps of the loop.
    pub steps: Subscriber<Step>,
    /// Where it records now, and whether it can.
    pub recording: watch::Receiver<Option<RecordingState>>,
}

/// A socket that viewers can connect to; it is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: BlockingListener,
    path: PathBuf,
}

impl Server {
    /// Creates the socket, for its owner only. A socket left by a killed loop is replaced.
    ///
    /// # Errors
    /// Another loop serves there, something else exists there, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let listener = listen_private(path).map_err(|why| match why {
            NoRoom::Taken => ServeError::Taken(path.to_owned()),
            NoRoom::NotASocket => ServeError::NotASocket(path.to_owned()),
            NoRoom::Io(source) => ServeError::Socket { path: path.to_owned(), source },
        })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves viewers until the loop ends. The updates of a step are encoded once for all viewers, and only if there is
    /// one. To be called within a runtime.
    pub async fn serve(self, hello: Hello, sources: Sources, commands: Requests) {
        let Sources { mut steps, recording } = sources;
        let listener = match self.listener.try_clone().and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("no viewer can attach at {}: {error}", self.path.display());
                return;
            }
        };
        let lines: Publisher<Arc<[u8]>> = Publisher::new(MAX_BEHIND);
        let mut viewers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if viewers.len() < MAX_VIEWERS => {
                        let connection = Connection {
                            hello: hello.clone(),
                            lines: lines.subscribe(),
                            recording: recording.clone(),
                            commands: commands.clone(),
                        };
                        viewers.spawn(connection.serve(stream));
                    }
                    Ok(_) => tracing::warn!("{MAX_VIEWERS} viewers are attached already"),
                    Err(error) => {
                        tracing::warn!("a viewer could not attach: {error}");
                        // For example out of descriptors, which does not pass at once.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                delivery = steps.next() => match delivery {
                    None => break,
                    Some(Delivery::Next(step)) => publish(&lines, step).await,
                    // This task fell behind the loop; viewers get what it missed as one step.
                    Some(Delivery::View { view, .. }) => {
                        publish(&lines, view.updates_since(lines.view().as_ref()).into()).await;
                    }
                },
                Some(_) = viewers.join_next(), if !viewers.is_empty() => {}
            }
        }
        // Give the last messages a moment to be sent.
        drop(lines);
        let all = async { while viewers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(500), all).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Encodes the updates of a step as one line and sends it to all viewers.
async fn publish(lines: &Publisher<Arc<[u8]>>, step: Step) {
    if step.is_empty() || lines.skip(&step) {
        return;
    }
    let before = lines.view().map(|view| view.round);
    let updates = Arc::clone(&step);
    let line = encoded(move || match before {
        Some(before) => Line::Updates(encode(&updates, Some(&before))),
        // Viewers that attached before the first round begin with a view too.
        None => {
            let mut view = None;
            View::follow(&mut view, &updates[..]);
            view.map_or_else(
                || Line::Updates(Vec::new()),
                |view| Line::View { missed: 0, state: Box::new(view) },
            )
        }
    })
    .await;
    if let Some(line) = line {
        lines.publish(&step, line);
    }
}

/// Encodes a line off the async threads: it may be long.
async fn encoded(line: impl FnOnce() -> Line + Send + 'static) -> Option<Arc<[u8]>> {
    let encoded = tokio::task::spawn_blocking(move || line_of(&line())).await;
    match encoded {
        Ok(Ok(line)) => Some(line.into()),
        Ok(Err(error)) => {
            tracing::error!("updates for viewers cannot be encoded: {error}");
            None
        }
        // The runtime is ending.
        Err(_) => None,
    }
}

/// One viewer.
struct Connection {
    hello: Hello,
    /// Updates as lines.
    lines: Subscriber<Arc<[u8]>>,
    recording: watch::Receiver<Option<RecordingState>>,
    commands: Requests,
}

impl Connection {
    /// Serves it until either side ends.
    async fn serve(self, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let Self { hello, mut lines, mut recording, commands } = self;
        let mut read = BufReader::new(read);
        let ended: io::Result<()> = async {
            send(&mut write, &Line::Hello(hello)).await?;
            if let Err(reason) = handshake(&mut read).await? {
                tracing::warn!("a viewer was disconnected: {reason}");
                return send(&mut write, &Line::Answer(Answer::Error(reason))).await;
            }
            let (answers, mut answered) = mpsc::channel(8);
            let receive = serve_commands(read, commands, answers);
            let send_all = async {
                // The state of the recording is sent at once.
                recording.mark_changed();
                loop {
                    tokio::select! {
                        delivery = lines.next() => match delivery {
                            None => return Ok(()),
                            Some(Delivery::Next(line)) => write_line(&mut write, &line).await?,
                            Some(Delivery::View { view, missed }) => {
                                if missed > 0 {
                                    tracing::info!("a viewer fell behind and gets a complete view");
                                }
                                let Some(line) = encoded(move || Line::View { missed, state: view }).await
                                else {
                                    return Ok(());
                                };
                                write_line(&mut write, &line).await?;
                            }
                        },
                        Ok(()) = recording.changed() => {
                            let state = recording.borrow_and_update().clone();
                            send(&mut write, &Line::Recording(state)).await?;
                        }
                        Some(answer) = answered.recv() => send(&mut write, &Line::Answer(answer)).await?,
                    }
                }
            };
            tokio::select! {
                ended = send_all => ended,
                ended = receive => ended,
            }
        }
        .await;
        if let Err(error) = ended {
            tracing::debug!("a viewer was disconnected: {error}");
        }
    }
}

/// Waits for the viewer's hello; the inner error is why it cannot be served.
async fn handshake(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Result<(), String>> {
    let how = format!("begin with {{\"hello\":{{\"protocol\":\"{PROTOCOL}\",\"version\":\"..\"}}}}");
    let mut line = Vec::new();
    let mut limited = read.take(MAX_COMMAND_BYTES as u64);
    let taken = limited.read_until(b'\n', &mut line);
    let Ok(taken) = tokio::time::timeout(TIMEOUT, taken).await else {
        return Ok(Err(format!("it did not send a hello of {PROTOCOL}, which this loop speaks: {how}")));
    };
    if taken? == 0 {
        // An older viewer disconnects when it reads the protocol; so does a loop that checks for others.
        tracing::info!("a client that does not speak {PROTOCOL}, or sent nothing, disconnected");
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(match serde_json::from_slice(&line) {
        Ok(ViewerHello::Hello { protocol, .. }) if protocol == PROTOCOL => Ok(()),
        Ok(ViewerHello::Hello { protocol, version }) => {
            Err(format!("it is huddle {version} and speaks {protocol}; this loop speaks {PROTOCOL}"))
        }
        Err(_) => Err(format!("it does not speak {PROTOCOL}, as this loop does (an older huddle?): {how}")),
    })
}

/// Reads commands and passes them on, one after the other, until the viewer disconnects.
async fn serve_commands(
    mut read: BufReader<OwnedReadHalf>,
    commands: Requests,
    answers: mpsc::Sender<Answer>,
) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let taken = (&mut read).take(MAX_COMMAND_BYTES as u64).read_until(b'\n', &mut line).await?;
        if taken == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a command has no end"));
        }
        let answer = match serde_json::from_slice::<LoopCommand>(&line) {
            Ok(command) => request(&commands, command).await.into(),
            Err(error) => Answer::Error(format!("not understood: {error}")),
        };
        if answers.send(answer).await.is_err() {
            return Ok(());
        }
    }
}

async fn request(commands: &Requests, command: LoopCommand) -> Result<String, String> {
    let (reply, answer) = oneshot::channel();
    commands.send(Request { command, reply }).await.map_err(|_| ENDING)?;
    answer.await.map_err(|_| ENDING)?
}

async fn send(write: &mut OwnedWriteHalf, line: &Line) -> io::Result<()> {
    write_line(write, &line_of(line)?).await
}

async fn write_line(write: &mut OwnedWriteHalf, line: &[u8]) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        let written = tokio::time::timeout(TIMEOUT, write.write(rest)).await;
        match written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it reads nothing"))?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => rest = &rest[written..],
        }
    }
    Ok(())
}
