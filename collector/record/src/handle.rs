//! The recorder's thread and the bounded channel to it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use huddle_host::clock::unix_us;
use huddle_model::availability::Availability;
use huddle_model::schema::{MANIFEST_FILE, Manifest, RecordingGap, RowContext, Rows, Table};
use huddle_model::update::Step;
use huddle_model::view::View;
use huddle_recording::guarded::{Threads, guarded};

use super::last_minutes::begin_of;
use super::writer::RunWriter;
use super::{QueueLimit, RecordError, RecorderLimits};

/// Starts recordings.
#[derive(Debug)]
pub struct Recorder;

/// A running recorder. Dropping it closes the recording as [`RecorderHandle::finish`] does, without
/// its answer.
#[derive(Debug)]
pub struct RecorderHandle {
    /// `None` once it is being finished.
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Result<RecordingSummary, RecordError>>>,
    shared: Arc<Shared>,
    /// The round to which the next step belongs.
    context: Mutex<RowContext>,
}

/// What a recorder reports at once, on its own thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecorderNotice {
    /// Nothing can be written; writing is retried until it works or the recording is finished.
    Interrupted {
        /// Since when, in microseconds since the Unix epoch.
        since_us: i64,
        /// What failed, one sentence.
        reason: String,
    },
    /// Writing works again, in new segments; this gap is missing.
    Resumed(RecordingGap),
}

/// The progress of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordingStatus {
    /// Steps of the loop passed to the encoder so far; those in open segments can still be lost.
    pub steps_recorded: u64,
    /// Steps dropped because the channel was full or recording was interrupted.
    pub steps_lost: u64,
}

/// A finished recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingSummary {
    /// Directory of the run.
    pub dir: PathBuf,
    /// Its last manifest, with the counts of every table.
    pub manifest: Manifest,
    /// Steps recorded and lost.
    pub steps: RecordingStatus,
}

/// A message to the thread.
#[derive(Debug)]
enum Message {
    Step(RowContext, Step),
    Rows(Box<Rows>),
}

impl Message {
    fn is_step(&self) -> bool {
        matches!(self, Self::Step(..))
    }

    fn rows(self) -> Rows {
        match self {
            Self::Step(mut context, step) => context.rows(&step[..]),
            Self::Rows(rows) => *rows,
        }
    }
}

/// State shared by handle and thread.
#[derive(Debug, Default)]
struct Shared {
    recorded: AtomicU64,
    lost: AtomicU64,
    /// Rows of the lost steps by position in [`Table::ALL`], until the thread counts them.
    rows_lost: Mutex<Vec<u64>>,
    /// Why nothing is recorded now.
    interrupted: Mutex<Option<String>>,
}

impl Recorder {
    /// Makes `dir` (new or empty) and its first manifest, and starts the recorder's thread. Notices go to the log.
    ///
    /// # Errors
    /// When the directory is not empty or cannot be written, or the limits are too small.
    pub fn start(
        dir: &Path,
        manifest: Manifest,
        limits: RecorderLimits,
    ) -> Result<RecorderHandle, RecordError> {
        Self::start_with_notices(dir, manifest, limits, |notice| match notice {
            RecorderNotice::Interrupted { reason, .. } => {
                tracing::error!("recording is interrupted and retried: {reason}");
            }
            RecorderNotice::Resumed(gap) => tracing::warn!("recording again; {}", gap.sentence()),
        })
    }

    /// As [`Recorder::start`]; notices are passed to `notify`, on the recorder's thread, which waits for it.
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub fn start_with_notices(
        dir: &Path,
        manifest: Manifest,
        limits: RecorderLimits,
        notify: impl Fn(RecorderNotice) + Send + 'static,
    ) -> Result<RecorderHandle, RecordError> {
        start_writer(dir, RunWriter::create(dir, manifest, limits)?, limits.queue, notify)
    }
}

/// Starts the thread of a recording that was created.
pub(super) fn start_writer(
    dir: &Path,
    writer: RunWriter,
    queue: QueueLimit,
    notify: impl Fn(RecorderNotice) + Send + 'static,
) -> Result<RecorderHandle, RecordError> {
    let (sender, receiver) = sync_channel(queue.0.max(1));
    let shared = Arc::new(Shared::default());
    let thread_shared = Arc::clone(&shared);
    let thread_dir = dir.to_owned();
    let thread = std::thread::Builder::new()
        .name("huddle-record".to_owned())
        .spawn(move || record(thread_dir, writer, &receiver, &thread_shared, &notify))
        .map_err(RecordError::file("start a thread to record to", dir))?;
    let context = Mutex::default();
    Ok(RecorderHandle { sender: Some(sender), thread: Some(thread), shared, context })
}

impl RecorderHandle {
    /// Sends a step of the loop and never waits: if the writer cannot keep up, the step is counted as lost, with its
    /// rows.
    pub fn send(&self, step: Step) {
        let mut context = lock(&self.context);
        let before = context.clone();
        context.follow(&step[..]);
        // What is lost is counted.
        let _ = self.try_send(Message::Step(before, step));
    }

    /// Sends the current view, if a recording begins in the middle: the last round, to which the next windows belong,
    /// and the decisions so far. Earlier windows are not recorded.
    pub fn begin(&self, view: &View) {
        self.send(begin_of(view));
    }

    /// Sends rows that are not part of the loop's steps, such as the responses that a load generator timed; like
    /// [`RecorderHandle::send`] it never waits, and counts what is lost. Returns whether there was room for them.
    pub fn send_rows(&self, rows: Rows) -> bool {
        self.try_send(Message::Rows(Box::new(rows)))
    }

    /// Whether there was room for it; else it is counted as lost.
    fn try_send(&self, message: Message) -> bool {
        let Some(sender) = &self.sender else { return false };
        match sender.try_send(message) {
            Ok(()) => true,
            Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) => {
                self.shared.count_lost(lost);
                false
            }
        }
    }

    /// The progress, or why recording is interrupted.
    pub fn status(&self) -> Availability<RecordingStatus> {
        match lock(&self.shared.interrupted).clone() {
            Some(reason) => Availability::Unavailable(reason),
            None if self.thread.as_ref().is_none_or(JoinHandle::is_finished) => {
                Availability::Unavailable(ended().to_string())
            }
            None => Availability::Available(self.shared.status()),
        }
    }

    /// Writes what was sent, closes all segments and the manifest.
    ///
    /// # Errors
    /// When nothing could be recorded at the end, or the last writes fail; what was closed before is readable.
    pub fn finish(mut self) -> Result<RecordingSummary, RecordError> {
        self.close().unwrap_or_else(|| Err(ended()))
    }

    fn close(&mut self) -> Option<Result<RecordingSummary, RecordError>> {
        // The thread ends when the channel has no sender and is empty.
        drop(self.sender.take());
        self.thread.take().map(|thread| thread.join().unwrap_or_else(|_| Err(ended())))
    }
}

impl Drop for RecorderHandle {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.close() {
            tracing::error!("{error}");
        }
    }
}

impl Shared {
    fn status(&self) -> RecordingStatus {
        RecordingStatus {
            steps_recorded: self.recorded.load(Ordering::Relaxed),
            steps_lost: self.lost.load(Ordering::Relaxed),
        }
    }

    fn count_lost(&self, message: Message) {
        self.lost.fetch_add(u64::from(message.is_step()), Ordering::Relaxed);
        let rows = message.rows();
        let mut lost = lock(&self.rows_lost);
        lost.resize(Table::ALL.len(), 0);
        for (sum, table) in lost.iter_mut().zip(Table::ALL) {
            *sum += rows.count(*table);
        }
    }

    /// Moves the counts of rows that were lost in the channel into the manifest.
    fn settle(&self, writer: &mut RunWriter) {
        let lost = std::mem::take(&mut *lock(&self.rows_lost));
        for (rows, table) in lost.into_iter().zip(Table::ALL) {
            writer.count_lost(*table, rows);
        }
    }
}

/// The error if the thread has ended; panics in it are caught.
fn ended() -> RecordError {
    RecordError::Panicked("its thread has ended".to_owned())
}

/// The thread: ends when all senders are gone. A panic is an interruption like any other: what was being written is
/// discarded, and writing is retried.
fn record(
    dir: PathBuf,
    mut writer: RunWriter,
    receiver: &Receiver<Message>,
    shared: &Shared,
    notify: &impl Fn(RecorderNotice),
) -> Result<RecordingSummary, RecordError> {
    loop {
        let received = match writer.next_deadline() {
            Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
        let is_step = received.as_ref().is_ok_and(Message::is_step);
        let mut are_accepted = false;
        let outcome = guarded(Threads::This, || {
            shared.settle(&mut writer);
            match received {
                Ok(message) => are_accepted = writer.write(&message.rows(), Instant::now()),
                Err(RecvTimeoutError::Timeout) => writer.tick(Instant::now()),
                Err(RecvTimeoutError::Disconnected) => writer.finish(Instant::now(), unix_us()),
            }
        });
        if let Err(panicked) = outcome {
            are_accepted = false;
            let error = RecordError::Panicked(panicked.to_string());
            // A second panic, which is unlikely here, ends the thread; `status` and `finish` report that.
            writer.discard_open_segments(error, Instant::now());
            if is_over {
                writer.finish(Instant::now(), unix_us());
            }
        }
        if is_step {
            let counter = if are_accepted { &shared.recorded } else { &shared.lost };
            counter.fetch_add(1, Ordering::Relaxed);
            if !are_accepted {
                writer.count_lost_step();
            }
        }
        *lock(&shared.interrupted) = writer.interruption().map(str::to_owned);
        writer.take_notices().into_iter().for_each(notify);
        if is_over {
            break;
        }
    }
    match writer.interruption() {
        Some(reason) => Err(RecordError::Stopped(reason.to_owned())),
        None => Ok(RecordingSummary { dir, manifest: writer.manifest().clone(), steps: shared.status() }),
    }
}

/// Ignores poisoning: no holder of these locks can leave an inconsistent state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RecordingSummary {
    /// The manifest's file.
    pub fn manifest_path(&self) -> PathBuf {
        self.dir.join(MANIFEST_FILE)
    }
}
