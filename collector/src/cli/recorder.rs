//! The recorder of a loop: what all its recordings have in common, and viewers' commands that start and finish one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use huddle_engine::command::{ENDING, Request};
use huddle_host::HostRoot;
use huddle_host::clock::unix_us;
use huddle_model::availability::Availability;
use huddle_model::command::LoopCommand;
use huddle_model::recording::RecordingState;
use huddle_model::schema::{EventFact, Manifest, Rows, SketchFact, run_id};
use huddle_model::text::counted;
use huddle_model::topology::{CacheInfo, Topology};
use huddle_model::update::Step;
use huddle_model::view::View;
use huddle_record::{
    Kept, RecordTarget, Recorder, RecorderHandle, RecorderLimits, RecordingStatus, RecordingSummary,
    RunAbout, host_name, new_manifest,
};
use tokio::sync::{mpsc, watch};

use super::args::Layout;
use super::context::Context;
use super::failure::Failure;
use super::last_minutes::{Keeper, NOTHING_KEPT};
use super::names::new_run;
use super::recording::{self, Notices};
use crate::doctor::{Finding, examine};

/// Begins a recording in a directory; on a blocking thread.
type Begin = dyn Fn(&Path) -> Result<RecorderHandle, String> + Send + Sync;

/// Where a loop records. Beginning and closing a recording write to a disk that may never answer: both run on
/// blocking threads, so that the loop's own thread goes on with signals and viewers.
pub(crate) struct LoopRecorder {
    running: Mutex<Option<RecorderHandle>>,
    /// The last minutes, if they are kept.
    keeper: Option<Keeper>,
    begin: Arc<Begin>,
    state: watch::Sender<Option<RecordingState>>,
    is_ending: AtomicBool,
}

impl LoopRecorder {
    /// With the recording that runs already; `state` is told what follows.
    pub(crate) fn new(
        running: Option<RecorderHandle>,
        keeper: Option<Keeper>,
        begin: impl Fn(&Path) -> Result<RecorderHandle, String> + Send + Sync + 'static,
        state: watch::Sender<Option<RecordingState>>,
    ) -> Self {
        let begin = Arc::new(begin);
        Self { running: Mutex::new(running), keeper, begin, state, is_ending: AtomicBool::new(false) }
    }

    /// Where it records now, and whether it can.
    pub(crate) fn state(&self) -> &watch::Sender<Option<RecordingState>> {
        &self.state
    }

    /// The last minutes, if they are kept.
    pub(crate) fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// The progress of the recording that runs, or why it is interrupted; `None` if none runs.
    pub(crate) fn status(&self) -> Option<Availability<RecordingStatus>> {
        lock(&self.running).as_ref().map(RecorderHandle::status)
    }

    /// Records a step, if a recording runs, and keeps it, if the last minutes are kept; never waits.
    pub(crate) fn send(&self, step: &Step) {
        if let Some(keeper) = &self.keeper {
            keeper.push(step);
        }
        if let Some(running) = &*lock(&self.running) {
            running.send(Arc::clone(step));
        }
    }

    /// Records these rows, if the recording in `dir` runs still; never waits.
    ///
    /// # Errors
    /// Why they are not recorded.
    pub(crate) fn send_rows(&self, dir: &str, rows: Rows) -> Result<(), &'static str> {
        let running = lock(&self.running);
        let is_same = self.state.borrow().as_ref().is_some_and(|state| state.dir == dir);
        match running.as_ref().filter(|_| is_same) {
            None => Err("their recording has ended"),
            Some(running) if running.send_rows(rows) => Ok(()),
            Some(_) => Err("the disk is too slow"),
        }
    }

    /// Carries out viewers' commands, one after the other, until no more can come. `view` is what a recording begins
    /// with.
    pub(crate) async fn serve(&self, mut requests: mpsc::Receiver<Request>, view: impl Fn() -> Option<View>) {
        while let Some(Request { command, reply }) = requests.recv().await {
            let answer = match command {
                _ if self.is_ending.load(Ordering::Relaxed) => Err(ENDING.to_owned()),
                LoopCommand::StartRecording { dir } => self.start(PathBuf::from(dir), &view).await,
                LoopCommand::StopRecording => self.finish().await,
                LoopCommand::SaveLast => self.save_last().await,
                LoopCommand::Apply
                | LoopCommand::DryRun
                | LoopCommand::SetPolicy(_)
                | LoopCommand::Restore => Err("only the engine does this".to_owned()),
            };
            // The requester may have disconnected meanwhile.
            let _ = reply.send(answer);
        }
    }

    /// Commands that are still waiting are refused from now on.
    pub(crate) fn accept_no_more(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Closes the recording, if one runs, and logs what it holds.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let Some(running) = lock(&self.running).take() else { return Ok(()) };
        let closed = tokio::task::spawn_blocking(|| running.finish()).await;
        let summary = closed.map_err(Failure::failed)?.map_err(Failure::failed)?;
        log_recorded(&summary);
        Ok(())
    }

    async fn start(&self, dir: PathBuf, view: impl Fn() -> Option<View>) -> Result<String, String> {
        if lock(&self.running).is_some() {
            return Err("a recording is running; stop it first".into());
        }
        let (begin, place) = (Arc::clone(&self.begin), dir.clone());
        let begun = tokio::task::spawn_blocking(move || begin(&place)).await;
        let begun = begun.map_err(|error| error.to_string())??;
        // Nothing is published between these two, so no step is missing and none is there twice.
        if let Some(view) = view() {
            begun.begin(&view);
        }
        *lock(&self.running) = Some(begun);
        self.state.send_replace(Some(recording::state_of(&dir)));
        Ok(format!("recording into {}", dir.display()))
    }

    async fn save_last(&self) -> Result<String, String> {
        let saved = self.keeper.as_ref().ok_or(NOTHING_KEPT)?.save().await?;
        tracing::info!("command of a viewer: {saved}");
        Ok(saved)
    }

    async fn finish(&self) -> Result<String, String> {
        let Some(running) = lock(&self.running).take() else { return Err("no recording is running".into()) };
        let closed = tokio::task::spawn_blocking(|| running.finish()).await;
        // The recording has ended, even if it failed.
        self.state.send_replace(None);
        let summary = closed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        log_recorded(&summary);
        let RecordingSummary { dir, steps, .. } = summary;
        Ok(format!("recorded {} of the loop in {}", counted(steps.steps_recorded, "step"), dir.display()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reload of the configuration changes of the manifests of recordings that begin later.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The configuration in force, as a file; `None` without one.
    pub(crate) config: Option<String>,
    /// The cache domains in force.
    pub(crate) topology: Availability<Topology>,
    /// Groups of VMs that are kept apart, by names.
    pub(crate) apart: Vec<Vec<String>>,
}

impl Settings {
    /// Those of a configuration with this text.
    pub(crate) fn of(context: &Context, config: Option<String>) -> Self {
        let apart = context.config.plan.apart.clone();
        Self { config, topology: context.topology().into(), apart }
    }
}

/// The settings in force now. Clones are of the same loop.
#[derive(Clone, Debug)]
pub(crate) struct InForce(Arc<Mutex<Settings>>);

impl InForce {
    /// Begins with these.
    pub(crate) fn new(settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(settings)))
    }

    /// Those now.
    pub(crate) fn get(&self) -> Settings {
        lock(&self.0).clone()
    }

    /// From now on these.
    pub(crate) fn set(&self, settings: Settings) {
        *lock(&self.0) = settings;
    }
}

/// Starts recordings; what all recordings of this process have in common.
pub(crate) struct Recordings {
    root: HostRoot,
    limits: RecorderLimits,
    in_force: InForce,
    caches: Availability<Vec<CacheInfo>>,
    core_scheduling: Finding,
    events: Vec<EventFact>,
    sketches: Option<SketchFact>,
    notices: recording::NoticeSender,
}

impl Recordings {
    /// Also returns the receiver of their recorders' notices.
    pub(crate) fn of(context: &Context) -> (Self, Notices) {
        let (notices, receiver) = mpsc::unbounded_channel();
        let config = context.config_text.clone();
        let recordings = Self {
            root: context.root.clone(),
            limits: context.config.record.limits(),
            in_force: InForce::new(Settings::of(context, config)),
            caches: context.backend.caches(),
            core_scheduling: context.core_scheduling(),
            events: context.backend.events(),
            sketches: None,
            notices,
        };
        (recordings, receiver)
    }

    /// The same, of recordings that have sketches.
    pub(crate) fn with_sketches(self, sketches: SketchFact) -> Self {
        Self { sketches: Some(sketches), ..self }
    }

    /// The settings that manifests name.
    pub(crate) fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// The directory of a run that begins now, in the tree of a fleet, by run or by table.
    pub(crate) fn place_in(&self, root: &Path, layout: Layout) -> Result<PathBuf, Failure> {
        let host = host_name(&self.root).map_err(Failure::failed)?;
        let (root, run) = (root.to_owned(), new_run());
        let target = match layout {
            Layout::Table => RecordTarget::ByTable { root, host, run },
            Layout::Run => RecordTarget::Fleet { root, host, run },
        };
        Ok(target.dir())
    }

    pub(crate) fn start(&self, dir: &Path) -> Result<RecorderHandle, Failure> {
        let begin_us = unix_us();
        let notify = recording::notifier(&self.notices, dir);
        Recorder::start_with_notices(dir, self.manifest(begin_us)?, self.limits, notify)
            .map_err(Failure::failed)
    }

    /// Writes the last minutes as a recording that has ended.
    pub(crate) fn write(&self, dir: &Path, kept: &Kept) -> Result<RecordingSummary, Failure> {
        let begin_us = kept.begin_unix_us().and_then(|begin_us| i64::try_from(begin_us).ok());
        // Sketches are not kept.
        let manifest = Manifest { sketches: None, ..self.manifest(begin_us.unwrap_or_default())? };
        kept.write(dir, manifest, self.limits).map_err(Failure::failed)
    }

    /// The manifest of a recording that begins at this time, in microseconds since the Unix epoch.
    fn manifest(&self, begin_us: i64) -> Result<Manifest, Failure> {
        let root = &self.root;
        let Settings { config, topology, .. } = self.in_force.get();
        let about = RunAbout {
            run: run_id(begin_us, std::process::id()),
            host: host_name(root).map_err(Failure::failed)?,
            begin_us,
            huddle_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_revision: option_env!("HUDDLE_GIT_REVISION").map(str::to_owned),
            command_line: std::env::args().collect(),
            config,
            caches: self.caches.clone(),
            topology,
            findings: Some(
                examine(root).into_iter().chain([self.core_scheduling.clone()]).map(Into::into).collect(),
            ),
            events: self.events.clone(),
            sketches: self.sketches.clone(),
        };
        Ok(new_manifest(root, about))
    }
}

fn log_recorded(summary: &RecordingSummary) {
    let RecordingStatus { steps_recorded, steps_lost } = summary.steps;
    tracing::info!("recorded {} of the loop in {}", counted(steps_recorded, "step"), summary.dir.display());
    for gap in &summary.manifest.gaps {
        tracing::warn!("{}", gap.sentence());
    }
    let interrupted: u64 = summary.manifest.gaps.iter().map(|gap| gap.steps_lost).sum();
    let too_slow = steps_lost.saturating_sub(interrupted);
    if too_slow > 0 {
        tracing::warn!("{} of the loop lost: the disk was too slow", counted(too_slow, "step"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use huddle_testing::sample;
    use tokio::sync::oneshot;

    use super::*;
    use crate::cli::looping::route;

    fn request(command: LoopCommand) -> (Request, oneshot::Receiver<Result<String, String>>) {
        let (reply, answer) = oneshot::channel();
        (Request { command, reply }, answer)
    }

    /// The disk does not answer while a recording begins; the engine is still reached, and so are signals, whose
    /// listener is another task of this thread.
    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_its_recording_only() {
        let dir = tempfile::tempdir().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(held);
        let begin = move |dir: &Path| {
            let _ = lock(&held).recv();
            Recorder::start(dir, sample::manifest(), RecorderLimits::default()).map_err(|e| e.to_string())
        };
        let recorder = LoopRecorder::new(None, None, begin, watch::channel(None).0);
        let (commands, requests) = mpsc::channel(8);
        let (to_engine, mut of_engine) = mpsc::channel::<Request>(8);
        let (to_recorder, of_recorder) = mpsc::channel(8);
        let view = || Some(sample::view(1, 2));
        let run = dir.path().join("run");
        let viewer = async {
            let named = LoopCommand::StartRecording { dir: run.to_str().unwrap().to_owned() };
            let (start, mut started) = request(named.clone());
            let (apply, _) = request(LoopCommand::Apply);
            let (stop, stopped) = request(LoopCommand::StopRecording);
            for request in [start, apply, stop] {
                commands.send(request).await.unwrap();
            }
            let reached = tokio::time::timeout(Duration::from_secs(20), of_engine.recv()).await;
            assert_eq!(reached.expect("the engine is not reached").unwrap().command, LoopCommand::Apply);
            assert!(started.try_recv().is_err(), "the disk hangs");
            // A step meanwhile is part of the view that the recording begins with.
            recorder.send(&Step::from([]));
            assert_eq!(*recorder.state().borrow(), None);
            release.send(()).unwrap();
            assert!(started.await.unwrap().unwrap().starts_with("recording into "));
            assert_eq!(
                stopped.await.unwrap().unwrap(),
                format!("recorded 1 step of the loop in {}", run.display())
            );
            recorder.accept_no_more();
            let (late, refused) = request(named);
            commands.send(late).await.unwrap();
            assert_eq!(refused.await.unwrap(), Err(ENDING.to_owned()));
        };
        tokio::select! {
            () = route(requests, to_engine, to_recorder) => unreachable!("it waits for ever"),
            () = recorder.serve(of_recorder, view) => unreachable!("it waits for ever"),
            () = viewer => {}
        }
        assert!(recorder.close().await.is_ok(), "none runs");
    }
}
