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
use huddle_model::update::{Step, Update};
use huddle_model::view::View;
use huddle_recording::guarded::{Threads, guarded};

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
    sender: Option<SyncSender<Sent>>,
    thread: Option<JoinHandle<Result<RecordingSummary, RecordError>>>,
    shared: Arc<Shared>,
    /// In which round the next step is told.
    context: Mutex<RowContext>,
}

/// What a recorder tells at once, from its own thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecorderNotice {
    /// Nothing can be written; it is tried again until it works or the recording is finished.
    Interrupted {
        /// Since when, in microseconds since the Unix epoch.
        since_us: i64,
        /// What failed, one sentence.
        reason: String,
    },
    /// It works again, in new segments, and this is missing.
    Resumed(RecordingGap),
}

/// How a recording goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordingStatus {
    /// Steps of the loop handed to the encoder so far; those of the open segments are not yet safe.
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

/// What goes to the thread.
#[derive(Debug)]
enum Sent {
    Step(RowContext, Step),
    Rows(Box<Rows>),
}

impl Sent {
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

/// What handle and thread both see.
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
    /// Makes `dir` (new or empty) and its first manifest, and starts the recorder's thread. What happens to the
    /// recording goes to the log.
    ///
    /// # Errors
    /// When the directory is not empty or cannot be written, or the limits allow nothing.
    pub fn start(
        dir: &Path,
        manifest: Manifest,
        limits: RecorderLimits,
    ) -> Result<RecorderHandle, RecordError> {
        Self::start_telling(dir, manifest, limits, |notice| match notice {
            RecorderNotice::Interrupted { reason, .. } => {
                tracing::error!("nothing is recorded, and it is tried again: {reason}");
            }
            RecorderNotice::Resumed(gap) => tracing::warn!("recording again; {}", gap.sentence()),
        })
    }

    /// As [`Recorder::start`]; what happens to the recording is told to `tell`, on the recorder's thread, which
    /// waits for it.
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub fn start_telling(
        dir: &Path,
        manifest: Manifest,
        limits: RecorderLimits,
        tell: impl Fn(RecorderNotice) + Send + 'static,
    ) -> Result<RecorderHandle, RecordError> {
        start_writer(dir, RunWriter::create(dir, manifest, limits)?, limits.queue, tell)
    }
}

/// Starts the thread of a recording that was made.
pub(super) fn start_writer(
    dir: &Path,
    writer: RunWriter,
    queue: QueueLimit,
    tell: impl Fn(RecorderNotice) + Send + 'static,
) -> Result<RecorderHandle, RecordError> {
    let (sender, receiver) = sync_channel(queue.0.max(1));
    let shared = Arc::new(Shared::default());
    let of_thread = Arc::clone(&shared);
    let dir_of_thread = dir.to_owned();
    let thread = std::thread::Builder::new()
        .name("huddle-record".to_owned())
        .spawn(move || record(dir_of_thread, writer, &receiver, &of_thread, &tell))
        .map_err(RecordError::file("start a thread to record to", dir))?;
    let context = Mutex::default();
    Ok(RecorderHandle { sender: Some(sender), thread: Some(thread), shared, context })
}

impl RecorderHandle {
    /// Hands over what a step of the loop tells and never waits: where the writer cannot follow, the step is
    /// counted as lost, with its rows.
    pub fn send(&self, step: Step) {
        let mut context = lock(&self.context);
        let before = context.clone();
        context.follow(&step[..]);
        self.try_send(Sent::Step(before, step));
    }

    /// Hands over what there is already, where a recording begins in the middle: the last round, which the
    /// windows that follow are of, and the decisions so far. Its windows before that are not recorded.
    pub fn begin(&self, view: &View) {
        let updates = view.updates_since(None).into_iter();
        self.send(updates.filter(|update| !matches!(update, Update::Window(_))).collect());
    }

    /// Hands over rows that do not come of the loop's steps, such as the responses that a load generator
    /// timed; like [`RecorderHandle::send`] it never waits, and counts what is lost.
    pub fn send_rows(&self, rows: Rows) {
        self.try_send(Sent::Rows(Box::new(rows)));
    }

    fn try_send(&self, sent: Sent) {
        let Some(sender) = &self.sender else { return };
        if let Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = sender.try_send(sent) {
            self.shared.lose(lost);
        }
    }

    /// How it goes, or why nothing is recorded now.
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

    fn lose(&self, sent: Sent) {
        self.lost.fetch_add(u64::from(sent.is_step()), Ordering::Relaxed);
        let rows = sent.rows();
        let mut lost = lock(&self.rows_lost);
        lost.resize(Table::ALL.len(), 0);
        for (sum, table) in lost.iter_mut().zip(Table::ALL) {
            *sum += rows.count(*table);
        }
    }

    /// Moves the rows lost on the way into the manifest.
    fn settle(&self, writer: &mut RunWriter) {
        let lost = std::mem::take(&mut *lock(&self.rows_lost));
        for (rows, table) in lost.into_iter().zip(Table::ALL) {
            writer.count_lost(*table, rows);
        }
    }
}

/// What is said of a thread that is gone; panics in it are caught.
fn ended() -> RecordError {
    RecordError::Panicked("its thread has ended".to_owned())
}

/// The thread: ends when all senders are gone. A panic is an interruption like any other: what was being written is
/// given up, and it is tried again.
fn record(
    dir: PathBuf,
    mut writer: RunWriter,
    receiver: &Receiver<Sent>,
    shared: &Shared,
    tell: &impl Fn(RecorderNotice),
) -> Result<RecordingSummary, RecordError> {
    loop {
        let received = match writer.next_deadline() {
            Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
        let is_step = received.as_ref().is_ok_and(Sent::is_step);
        let mut are_taken = false;
        let outcome = guarded(Threads::This, || {
            shared.settle(&mut writer);
            match received {
                Ok(sent) => are_taken = writer.write(&sent.rows(), Instant::now()),
                Err(RecvTimeoutError::Timeout) => writer.tick(Instant::now()),
                Err(RecvTimeoutError::Disconnected) => writer.finish(Instant::now(), unix_us()),
            }
        });
        if let Err(panicked) = outcome {
            are_taken = false;
            let error = RecordError::Panicked(panicked.to_string());
            // What this does is little, and a second panic ends the thread, which `status` and `finish` tell.
            writer.give_up_open_segments(error, Instant::now());
            if is_over {
                writer.finish(Instant::now(), unix_us());
            }
        }
        if is_step {
            let counter = if are_taken { &shared.recorded } else { &shared.lost };
            counter.fetch_add(1, Ordering::Relaxed);
            if !are_taken {
                writer.count_lost_step();
            }
        }
        *lock(&shared.interrupted) = writer.interruption().map(str::to_owned);
        writer.take_notices().into_iter().for_each(tell);
        if is_over {
            break;
        }
    }
    match writer.interruption() {
        Some(reason) => Err(RecordError::Stopped(reason.to_owned())),
        None => Ok(RecordingSummary { dir, manifest: writer.manifest().clone(), steps: shared.status() }),
    }
}

/// No holder of these locks can leave half a change behind, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RecordingSummary {
    /// The manifest's file.
    pub fn manifest_path(&self) -> PathBuf {
        self.dir.join(MANIFEST_FILE)
    }
}
