//! What `huddle run` and `huddle top` have in common: the engine with its recorder, signals and end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::doctor::examine;
use anyhow::Context as _;
use huddle_engine::attach::{Hello, PROTOCOL, SOCKET_FILE, Server, Sources};
use huddle_engine::backend::{LoopChoice, Stages};
use huddle_engine::command::{Request, Requests};
use huddle_engine::publish::{Publisher, Subscriber};
use huddle_engine::{Engine, Memory, RunEnd, RunOptions, TrialRunner, run};
use huddle_host::HostRoot;
use huddle_host::clock::HostClock;
use huddle_host::stages::Clock;
use huddle_host::stages::PassTrigger;
use huddle_model::availability::Availability;
use huddle_model::command::LoopCommand;
use huddle_model::recording::RecordingState;
use huddle_model::schema::run_id;
use huddle_model::topology::{CacheInfo, Topology};
use huddle_model::trial::Objective;
use huddle_model::update::Step;
use huddle_model::view::View;
use huddle_observe::reported::ReportSocket;
use huddle_record::{
    Recorder, RecorderHandle, RecorderLimits, RecordingStatus, RecordingSummary, RunAbout, host_name,
    new_manifest,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::args::LoopArgs;
use super::context::{Context, seconds};
use super::failure::Failure;
use super::recording::{self, Notices};
use super::signals::StopSignals;

/// The socket for reports in the state directory.
pub(crate) const REPORTS_FILE: &str = "reports";

/// The loop, ready to run.
pub(crate) struct Loop {
    engine: Engine,
    passes: Box<dyn PassTrigger>,
    recorder: Option<RecorderHandle>,
    record_dir: Option<PathBuf>,
    recordings: Recordings,
    notices: Notices,
    server: Option<Server>,
    can_pin: bool,
}

impl Loop {
    /// Checks the host and the flags, and only then makes the changes that `args` asks for. Within a runtime. Signals are
    /// handled from the first change on; until then they end the process at once, since there is nothing to undo.
    pub(crate) fn prepare(context: &Context, args: &LoopArgs) -> Result<(Self, StopSignals), Failure> {
        // Wrong names on the command line are an error now, not an event in every round.
        context.topology()?;
        let choice = choice(args);
        context.backend.check(&choice)?;
        context.check_limits()?;
        let signals = StopSignals::listen()?;
        let mut pinner = if args.dry_run && !args.ksm_run { None } else { Some(context.pinner(true)?) };
        let server = serve_at(context, args, pinner.is_some())?;
        let (recordings, notices) = Recordings::of(context);
        let recorder = args.record.as_deref().map(|dir| recordings.start(dir)).transpose()?;
        for advice in context.backend.advice(&choice) {
            tracing::warn!("{advice}");
        }
        let objective = args.trial.or(context.config.objective);
        let reports = report_socket(context, args, objective)?;
        let trials = objective.map(|objective| {
            let least = min_interval(context, args);
            let window = seconds(args.window);
            TrialRunner::new(objective, context.config.trial.clone(), least, window)
        });
        let state = pinner.as_ref().map(|pinner| pinner.journal().state());
        let Stages { vms, sharing, merger, host, observer, passes } =
            context.backend.stages(&choice, reports, state)?;
        if let Some(pinner) = pinner.as_mut().filter(|_| args.ksm_run) {
            pinner.set_ksm(&[("run", "1".to_owned())]).map_err(Failure::failed)?;
        }
        let memory = Memory::default();
        let engine = Engine {
            vms,
            sharing,
            merger,
            host,
            observer: Some(observer),
            pinner: pinner.map(|pinner| Box::new(pinner.until(memory.stop())) as _),
            apply: !args.dry_run,
            clock: Box::new(HostClock),
            policy: context.policy,
            limits: context.config.plan.clone(),
            trials,
            memory,
        };
        let can_pin = engine.pinner.is_some();
        let record_dir = args.record.clone();
        let parts = Self { engine, passes, recorder, record_dir, recordings, notices, server, can_pin };
        Ok((parts, signals))
    }

    /// Whether it can pin at all.
    pub(crate) fn can_pin(&self) -> bool {
        self.can_pin
    }

    /// Runs until `stop`, and records if requested; the recording is closed before this returns. Viewers are served at
    /// the socket, and through `channels` within this process.
    pub(crate) async fn run(
        self,
        stop: impl Future<Output = ()>,
        channels: LoopChannels,
        options: RunOptions,
    ) -> Result<RunEnd, Failure> {
        let LoopChannels { publisher, recording, commands, mut requests } = channels;
        let serving = self.server.map(|server| {
            let hello = Hello {
                protocol: PROTOCOL.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                can_pin: self.can_pin,
            };
            let sources = Sources { steps: publisher.subscribe(), recording: recording.subscribe() };
            tokio::spawn(server.serve(hello, sources, commands))
        });
        let recorder = Mutex::new(self.recorder);
        recording.send_replace(self.record_dir.as_deref().map(recording::state_of));
        let publish = |step: &Step| {
            if let Some(recorder) = &*lock(&recorder) {
                recorder.send(Arc::clone(step));
            }
            publisher.publish(step, Arc::clone(step));
        };
        let (to_engine, of_engine) = mpsc::channel(1);
        // Commands for the recording are carried out here, the others by the engine.
        let route = async {
            while let Some(Request { command, reply }) = requests.recv().await {
                let answer = match command {
                    LoopCommand::StartRecording { dir } => {
                        let dir = PathBuf::from(dir);
                        start(&recorder, &self.recordings, &dir, publisher.view())
                            .inspect(|_| _ = recording.send_replace(Some(recording::state_of(&dir))))
                    }
                    LoopCommand::StopRecording => {
                        let answer = finish(&recorder);
                        // The recording has ended, even if it failed.
                        recording.send_replace(None);
                        answer
                    }
                    command => {
                        // If the loop has ended, the reply is dropped, which the requester notices.
                        let _ = to_engine.send(Request { command, reply }).await;
                        continue;
                    }
                };
                let _ = reply.send(answer);
            }
            std::future::pending::<()>().await;
        };
        let notices =
            recording::handle_notices(self.notices, &recording, |step, is_recorded| match is_recorded {
                true => publish(step),
                false => publisher.publish(step, Arc::clone(step)),
            });
        let end = tokio::select! {
            end = run(self.engine, self.passes, stop, &publish, of_engine, options) => end,
            () = route => unreachable!("it waits for ever"),
            () = notices => unreachable!("it waits for ever"),
        };
        if let Some(serving) = serving {
            serving.abort();
            // Cancelled, as asked; the socket's file is gone with it.
            let _ = serving.await;
        }
        // The recording is closed even when the loop failed.
        let recorded = lock(&recorder).take().map(RecorderHandle::finish).transpose();
        let end = end.context("the loop ended early; its changes were undone").map_err(Failure::Failed)?;
        if let Some(summary) = recorded.map_err(Failure::failed)? {
            log_recorded(&summary);
        }
        Ok(end)
    }
}

/// Steps that a viewer in this process may be behind before it gets a complete view instead.
const MOST_BEHIND: usize = 64;

/// The loop's ends of the channels to a viewer in this process.
pub(crate) struct LoopChannels {
    publisher: Publisher<Step>,
    recording: watch::Sender<Option<RecordingState>>,
    commands: Requests,
    requests: mpsc::Receiver<Request>,
}

/// The other ends of [`LoopChannels`].
pub(crate) struct ViewerChannels {
    /// The steps of the loop.
    pub(crate) steps: Subscriber<Step>,
    /// Where it records now, and whether it can.
    pub(crate) recording: watch::Receiver<Option<RecordingState>>,
    /// Takes commands.
    pub(crate) commands: Requests,
}

/// A connected pair.
pub(crate) fn channels() -> (LoopChannels, ViewerChannels) {
    let publisher = Publisher::new(MOST_BEHIND);
    let (recording, recorded) = watch::channel(None);
    let (commands, requests) = mpsc::channel(8);
    let viewer =
        ViewerChannels { steps: publisher.subscribe(), recording: recorded, commands: commands.clone() };
    (LoopChannels { publisher, recording, commands, requests }, viewer)
}

/// Begins a recording on a viewer's command, with the current view.
fn start(
    recorder: &Mutex<Option<RecorderHandle>>,
    recordings: &Recordings,
    dir: &Path,
    view: Option<View>,
) -> Result<String, String> {
    let mut recorder = lock(recorder);
    if recorder.is_some() {
        return Err("a recording is running; stop it first".into());
    }
    let begun = recordings.start(dir).map_err(|failure| failure.to_string())?;
    if let Some(view) = view {
        begun.begin(&view);
    }
    *recorder = Some(begun);
    Ok(format!("recording into {}", dir.display()))
}

/// Closes the recording on a viewer's command.
fn finish(recorder: &Mutex<Option<RecorderHandle>>) -> Result<String, String> {
    let running = lock(recorder).take().ok_or("no recording is running")?;
    let summary = running.finish().map_err(|error| error.to_string())?;
    log_recorded(&summary);
    Ok(format!("recorded {} steps of the loop in {}", summary.steps.steps_recorded, summary.dir.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket for viewers: the given one, else one in the state directory. A dry run has no state directory, so it has
/// a socket only if one is given.
fn serve_at(context: &Context, args: &LoopArgs, has_state: bool) -> Result<Option<Server>, Failure> {
    let path = match &args.socket {
        Some(path) => path.clone(),
        None if has_state => context.state()?.path().join(SOCKET_FILE),
        None => return Ok(None),
    };
    Server::bind(&path).map(Some).map_err(Failure::failed)
}

/// The socket for reports, if it is given, or if the objective needs it.
fn report_socket(
    context: &Context,
    args: &LoopArgs,
    objective: Option<Objective>,
) -> Result<Option<ReportSocket>, Failure> {
    let path = match args.report_socket.as_ref().or(context.config.report_socket.as_ref()) {
        Some(path) => path.clone(),
        None if objective == Some(Objective::Reported) => context.state()?.path().join(REPORTS_FILE),
        None => return Ok(None),
    };
    let socket = ReportSocket::open(&path, &context.config.limits).map_err(Failure::failed)?;
    tracing::info!("workloads may report to {}", path.display());
    Ok(Some(socket))
}

/// What the loop is to change, according to `args`.
fn choice(args: &LoopArgs) -> LoopChoice {
    LoopChoice { merge: args.merge, ksm_run: args.ksm_run, min_interval: args.min_interval.map(seconds) }
}

/// Least time between two rounds.
fn min_interval(context: &Context, args: &LoopArgs) -> Duration {
    choice(args).min_interval.unwrap_or(context.backend.min_interval())
}

/// When rounds and windows happen; `rounds` is that of `--rounds`.
pub(crate) fn options(context: &Context, args: &LoopArgs, rounds: Option<u64>) -> RunOptions {
    RunOptions { min_interval: min_interval(context, args), rounds, window: seconds(args.window) }
}

/// Starts recordings; what all recordings of this process have in common.
struct Recordings {
    root: HostRoot,
    limits: RecorderLimits,
    config_text: Option<String>,
    caches: Availability<Vec<CacheInfo>>,
    topology: Availability<Topology>,
    notices: recording::NoticeSender,
}

impl Recordings {
    /// Also returns the receiver of their recorders' notices.
    fn of(context: &Context) -> (Self, Notices) {
        let settings = &context.config.record;
        let mut limits = RecorderLimits::default();
        if let Some(mib) = settings.segment_max_mib {
            limits.segment.max_bytes = mib << 20;
        }
        if let Some(s) = settings.segment_max_age_s {
            limits.segment.max_age = Duration::from_secs(s);
        }
        if let Some(mib) = settings.total_max_mib {
            limits.recording.max_total_bytes = Some(mib << 20);
        }
        limits.recording.max_age = settings.max_age_s.map(Duration::from_secs);
        let (notices, receiver) = mpsc::unbounded_channel();
        let recordings = Self {
            root: context.root.clone(),
            limits,
            config_text: context.config_text.clone(),
            caches: context.backend.caches(),
            topology: context.topology().into(),
            notices,
        };
        (recordings, receiver)
    }

    fn start(&self, dir: &Path) -> Result<RecorderHandle, Failure> {
        let root = &self.root;
        let begin_us = i64::try_from(HostClock.now_unix_us()).unwrap_or(i64::MAX);
        let about = RunAbout {
            run: run_id(begin_us, std::process::id()),
            host: host_name(root).map_err(Failure::failed)?,
            begin_us,
            huddle_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_revision: option_env!("HUDDLE_GIT_REVISION").map(str::to_owned),
            command_line: std::env::args().collect(),
            config: self.config_text.clone(),
            caches: self.caches.clone(),
            topology: self.topology.clone(),
            findings: Some(examine(root).into_iter().map(Into::into).collect()),
        };
        let notify = recording::notifier(&self.notices, dir);
        Recorder::start_with_notices(dir, new_manifest(root, about), self.limits, notify)
            .map_err(Failure::failed)
    }
}

fn log_recorded(summary: &RecordingSummary) {
    let RecordingStatus { steps_recorded, steps_lost } = summary.steps;
    tracing::info!("recorded {steps_recorded} steps of the loop in {}", summary.dir.display());
    for gap in &summary.manifest.gaps {
        tracing::warn!("{}", gap.sentence());
    }
    let interrupted: u64 = summary.manifest.gaps.iter().map(|gap| gap.steps_lost).sum();
    let too_slow = steps_lost.saturating_sub(interrupted);
    if too_slow > 0 {
        tracing::warn!("{too_slow} steps of the loop were lost: the disk was too slow");
    }
}

pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Failed)
}

/// Logs what was undone; a failed undo is an error.
pub(crate) fn log_undone(end: &RunEnd) -> Result<(), Failure> {
    if let Some(report) = &end.undo {
        for note in &report.notes {
            tracing::info!("{note}");
        }
        tracing::info!("{} rounds; {} changes undone", end.rounds, report.restored);
        if !report.failures.is_empty() {
            return Err(Failure::failed(anyhow::anyhow!(
                "NOT EVERYTHING WAS UNDONE, run `huddle restore` when the cause is gone: {}",
                report.failures.join("; ")
            )));
        }
    }
    end.broken.as_ref().map_or(Ok(()), |broken| {
        let done = end.rounds;
        Err(Failure::failed(anyhow::anyhow!("{done} rounds were done and no more can be: {broken}")))
    })
}
