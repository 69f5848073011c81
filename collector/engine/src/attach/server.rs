//! The loop's side.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as BlockingListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use huddle_model::command::LoopCommand;
use huddle_model::snapshot::Snapshot;
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{Answer, Hello, MAX_COMMAND_BYTES, Said};
use huddle_host::socket::{NoRoom, SocketKind, remove_stale};

use crate::command::{Request, Requests};

/// A viewer that takes none of a line for so long is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Viewers at a time.
const MAX_VIEWERS: usize = 32;

/// Why nobody can attach.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another loop serves there.
    #[error("another huddle serves viewers at {}; name another socket with --socket", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket is there.
    #[error("{} is in the way and no socket; name another one with --socket", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("no viewer can attach at {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What viewers are told of.
#[derive(Clone, Debug)]
pub struct Told {
    /// What the loop sees now.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Where it records now.
    pub recording: watch::Receiver<Option<PathBuf>>,
}

/// A socket that viewers can connect to; it is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: BlockingListener,
    path: PathBuf,
}

impl Server {
    /// Makes the socket, for its owner alone. What a loop that was killed left behind is replaced.
    ///
    /// # Errors
    /// Another loop serves there, something else is there, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Socket { path: path.to_owned(), source };
        remove_stale(path, SocketKind::Stream).map_err(|why| match why {
            NoRoom::Taken => ServeError::Taken(path.to_owned()),
            NoRoom::NotASocket => ServeError::NoSocket(path.to_owned()),
            NoRoom::Io(source) => failed(source),
        })?;
        // The mask makes it private from its first moment; a file made meanwhile is only more private.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = BlockingListener::bind(path);
        umask(before);
        let listener = bound.map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let server = Self { listener, path: path.to_owned() };
        server.listener.set_nonblocking(true).map_err(failed)?;
        Ok(server)
    }

    /// Serves viewers until nobody sends snapshots any more. Each snapshot is put into words once,
    /// whoever listens, and only while somebody does. To be called within a runtime.
    pub async fn serve(self, hello: Hello, told: Told, requests: Requests) {
        let Told { mut snapshots, recording } = told;
        let listener = match self.listener.try_clone().and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("no viewer can attach at {}: {error}", self.path.display());
                return;
            }
        };
        let (words, hear) = watch::channel(None);
        let ears = Ears { words: hear, recording };
        let mut viewers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if viewers.len() < MAX_VIEWERS => {
                        if let (true, Some(snapshot)) = (viewers.is_empty(), &*snapshots.borrow()) {
                            words.send_replace(in_words(snapshot));
                        }
                        viewers.spawn(view(stream, hello.clone(), ears.clone(), requests.clone()));
                    }
                    Ok(_) => tracing::warn!("{MAX_VIEWERS} viewers are attached already"),
                    Err(error) => {
                        tracing::warn!("a viewer could not attach: {error}");
                        // Out of descriptors, say: that does not pass within a moment.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let latest = snapshots.borrow_and_update().clone();
                    if let (false, Some(snapshot)) = (viewers.is_empty(), latest) {
                        words.send_replace(in_words(&snapshot));
                    }
                }
                Some(_) = viewers.join_next(), if !viewers.is_empty() => {}
            }
        }
        // The last words are given a moment.
        drop(words);
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

fn in_words(snapshot: &Snapshot) -> Option<Arc<[u8]>> {
    /// As [`Said::Snapshot`], without a copy.
    #[derive(serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Borrowed<'a> {
        Snapshot(&'a Snapshot),
    }
    match serde_json::to_vec(&Borrowed::Snapshot(snapshot)) {
        Ok(mut words) => {
            words.push(b'\n');
            Some(words.into())
        }
        Err(error) => {
            tracing::error!("a snapshot cannot be told to viewers: {error}");
            None
        }
    }
}

/// What one viewer hears.
#[derive(Clone)]
struct Ears {
    /// Snapshots in words.
    words: watch::Receiver<Option<Arc<[u8]>>>,
    recording: watch::Receiver<Option<PathBuf>>,
}

/// One viewer, until either side ends it.
async fn view(stream: UnixStream, hello: Hello, Ears { mut words, mut recording }: Ears, requests: Requests) {
    let (read, mut write) = stream.into_split();
    let (answers, mut answered) = mpsc::channel(8);
    let listen = listen(BufReader::new(read), requests, answers);
    let tell = async {
        say(&mut write, &Said::Hello(hello)).await?;
        // What was said last is told at once.
        words.mark_changed();
        recording.mark_changed();
        loop {
            tokio::select! {
                changed = words.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let latest = words.borrow_and_update().clone();
                    if let Some(latest) = latest {
                        write_patiently(&mut write, &latest).await?;
                    }
                }
                Ok(()) = recording.changed() => {
                    let dir = recording.borrow_and_update().clone();
                    say(&mut write, &Said::Recording(dir)).await?;
                }
                Some(answer) = answered.recv() => say(&mut write, &Said::Answer(answer)).await?,
            }
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = tell => ended,
        ended = listen => ended,
    };
    if let Err(error) = ended {
        tracing::debug!("a viewer was let go: {error}");
    }
}

/// Hears wishes and has them done, one after the other, until the viewer ends.
async fn listen(
    mut read: BufReader<tokio::net::unix::OwnedReadHalf>,
    requests: Requests,
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
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a wish has no end"));
        }
        let answer = match serde_json::from_slice::<LoopCommand>(&line) {
            Ok(command) => ask(&requests, command).await.into(),
            Err(error) => Answer::Error(format!("not understood: {error}")),
        };
        if answers.send(answer).await.is_err() {
            return Ok(());
        }
    }
}

async fn ask(requests: &Requests, command: LoopCommand) -> Result<String, String> {
    let (reply, answer) = oneshot::channel();
    let ended = || "the loop is ending".to_owned();
    requests.send(Request { command, reply }).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
}

async fn say(write: &mut OwnedWriteHalf, said: &Said) -> io::Result<()> {
    let mut words = serde_json::to_vec(said)?;
    words.push(b'\n');
    write_patiently(write, &words).await
}

async fn write_patiently(write: &mut OwnedWriteHalf, words: &[u8]) -> io::Result<()> {
    let mut rest = words;
    while !rest.is_empty() {
        let written = tokio::time::timeout(PATIENCE, write.write(rest)).await;
        match written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it reads nothing"))?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => rest = &rest[written..],
        }
    }
    Ok(())
}
