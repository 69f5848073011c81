//! Recordings: a directory with `manifest.json` and one Parquet dataset a table.
//!
//! A segment is written under a temporary name, closed, synced, and only then given its name, so any
//! end, `kill -9` included, loses at most the open segments and never a closed one. The recorder works
//! on a thread of its own behind a bounded channel: a slow disk never slows the loop, and rounds that
//! find the channel full are counted. A write that fails ends the recording with its reason; what was
//! closed before stays readable, and the loop goes on.

mod environment;
mod segment;
mod writer;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use huddle_model::schema::Manifest;
use huddle_model::snapshot::Snapshot;

pub use environment::{ManifestInput, manifest};
use writer::Writer;

/// Rounds that may wait for the recorder.
const QUEUE_ROUNDS: usize = 64;

/// When segments are closed, and when old ones are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingLimits {
    /// A segment is closed when it is about this large.
    pub segment_max_bytes: u64,
    /// A segment is closed when it is this old: at most so much is lost by a crash.
    pub segment_max_age: Duration,
    /// The oldest segments are removed when all together are larger; `None` for no limit.
    pub total_max_bytes: Option<u64>,
    /// Segments closed longer ago are removed; `None` for no limit.
    pub max_age: Option<Duration>,
}

impl Default for RecordingLimits {
    /// 16 MiB and a minute a segment, 4 GiB in all, of any age.
    fn default() -> Self {
        Self {
            segment_max_bytes: 16 << 20,
            segment_max_age: Duration::from_secs(60),
            total_max_bytes: Some(4 << 30),
            max_age: None,
        }
    }
}

/// Why a recording cannot be made, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory holds something already.
    #[error("{} is not empty; record into a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// A file or directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment cannot be encoded.
    #[error("cannot write the segment {}: {source}", path.display())]
    Parquet {
        /// Which.
        path: PathBuf,
        /// What the encoder said.
        source: parquet::errors::ParquetError,
    },
    /// The recorder's thread panicked.
    #[error("the recorder broke off by a fault of its own; closed segments are whole")]
    Panicked,
}

impl RecordError {
    fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Write { path: path.to_owned(), source }
    }
}

/// What a recording holds when it is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingSummary {
    /// The directory.
    pub dir: PathBuf,
    /// Rows in all closed segments.
    pub rows: u64,
    /// Closed segments.
    pub segments: u64,
    /// Rounds that found the recorder busy.
    pub rounds_lost: u64,
}

impl std::fmt::Display for RecordingSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "recorded {} rows in {} segments in {}", self.rows, self.segments, self.dir.display())?;
        if self.rounds_lost > 0 {
            write!(f, "; {} rounds were lost, the disk was too slow", self.rounds_lost)?;
        }
        Ok(())
    }
}

/// A recording in progress. Dropping it closes it, too, but cannot tell how that went.
#[derive(Debug)]
pub struct RecorderHandle {
    sender: Option<SyncSender<Arc<Snapshot>>>,
    thread: Option<JoinHandle<Result<RecordingSummary, RecordError>>>,
    lost: Arc<AtomicU64>,
}

impl RecorderHandle {
    /// Starts a recording in `dir`, which is made (0700) if it is not there.
    ///
    /// # Errors
    /// The directory is not empty, or it or the manifest cannot be written.
    pub fn start(dir: &Path, manifest: Manifest, limits: RecordingLimits) -> Result<Self, RecordError> {
        make_dir(dir)?;
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer::start(dir, manifest, limits, Arc::clone(&lost))?;
        let (sender, receiver) = sync_channel(QUEUE_ROUNDS);
        let thread = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || writer.run(&receiver))
            .map_err(RecordError::write(dir))?;
        Ok(Self { sender: Some(sender), thread: Some(thread), lost })
    }

    /// Hands one round over; never blocks. A round that finds the recorder busy or broken off is counted
    /// as lost.
    pub fn send(&self, snapshot: Arc<Snapshot>) {
        let sent = self.sender.as_ref().map(|sender| sender.try_send(snapshot));
        if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Rounds lost so far.
    pub fn rounds_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Closes all segments and the manifest.
    ///
    /// # Errors
    /// Why the recording broke off, now or earlier.
    pub fn finish(mut self) -> Result<RecordingSummary, RecordError> {
        self.close().unwrap_or(Err(RecordError::Panicked))
    }

    fn close(&mut self) -> Option<Result<RecordingSummary, RecordError>> {
        drop(self.sender.take());
        Some(self.thread.take()?.join().unwrap_or(Err(RecordError::Panicked)))
    }
}

impl Drop for RecorderHandle {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.close() {
            tracing::error!("{error}");
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), RecordError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(RecordError::NotEmpty(dir.to_owned())),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(RecordError::write(dir))
        }
        Err(error) => Err(RecordError::write(dir)(error)),
    }
}

#[cfg(test)]
mod tests;
