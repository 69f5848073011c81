//! What `huddle run` and `huddle top` have in common: the engine with its recorder, signals and end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use huddle_engine::attach::{Hello, PROTOCOL, SOCKET_FILE, Server, Sources};
use huddle_engine::backend::{LoopChoice, Stages};
use huddle_engine::command::{Request, Requests};
use huddle_engine::publish::{Publisher, Subscriber};
use huddle_engine::{
    Engine, Memory, Progress, Replacement, RunEnd, RunOptions, TrialRunner, WITHOUT_PASSES, run,
};
use huddle_host::clock::HostClock;
use huddle_host::stages::PassTrigger;
use huddle_model::recording::RecordingState;
use huddle_model::text::counted;
use huddle_model::trial::Objective;
use huddle_model::update::Step;
use huddle_observe::reported::ReportSocket;
use huddle_record::{KeepLimits, Kept, RecorderHandle};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::args::LoopArgs;
use super::context::{Context, seconds};
use super::failure::Failure;
use super::last_minutes::{Keeper, save_when_asked};
use super::metrics::{EarlySocket, Served};
use super::recorder::{InForce, LoopRecorder, Recordings};
use super::recording::{self, Notices};
use super::signals::{Hangup, SaveSignal, StopSignals};
use super::sketching::Sketching;

/// The socket for reports in the state directory.
pub(crate) const REPORTS_FILE: &str = "reports";

/// The loop, ready to run.
pub(crate) struct Loop {
    engine: Engine,
    passes: Box<dyn PassTrigger>,
    recorder: Option<RecorderHandle>,
    record_dir: Option<PathBuf>,
    recordings: Arc<Recordings>,
    notices: Notices,
    keeper: Option<Keeper>,
    save: SaveSignal,
    sketching: Option<Sketching>,
    metrics: Option<Served>,
    server: Option<Server>,
    can_pin: bool,
}

impl Loop {
    /// Checks the host and the flags, and only then makes the changes that `args` asks for. Within a runtime. Signals are
    /// handled from the first change on; until then they end the process at once, since there is nothing to undo.
    /// `hangup` says whether SIGHUP is one of them. `make_room` is called before the recording begins, which a full disk
    /// would prevent, and after everything else that may prevent the loop was checked.
    pub(crate) fn prepare(
        context: &Context,
        args: &LoopArgs,
        hangup: Hangup,
        early: EarlySocket,
        make_room: impl FnOnce(),
    ) -> Result<(Self, StopSignals), Failure> {
        // Wrong names on the command line are an error now, not an event in every round.
        context.topology()?;
        let choice = choice(args);
        context.backend.check(&choice)?;
        context.check_limits()?;
        let kept = what_is_kept(context, args)?;
        let sketching = Sketching::prepare(context)?;
        let (signals, save) = (StopSignals::listen_for_loop(hangup)?, SaveSignal::listen()?);
        let mut pinner = if args.dry_run && !args.ksm_run { None } else { Some(context.pinner(true)?) };
        let server = serve_at(context, args, pinner.is_some())?;
        let metrics = Served::prepare(&context.root, &context.config.metrics, early)?;
        let (recordings, notices) = Recordings::of(context);
        let recordings = match &sketching {
            Some(sketching) => recordings.with_sketches(sketching.fact()),
            None => recordings,
        };
        let recordings = Arc::new(recordings);
        let keeper = kept.map(|(limits, dir)| keeper(context, limits, dir, &recordings));
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
        // Now that nothing else prevents the loop, or every start that fails would leave an empty recording.
        make_room();
        let recorder = args.record.as_deref().map(|dir| recordings.start(dir)).transpose()?;
        // Nothing prevents the loop any more: what it lacks is no answer to why it did not start.
        for advice in context.backend.advice(&choice) {
            tracing::warn!("{advice}");
        }
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
            weigh: context.weigh,
            limits: context.config.plan.clone(),
            trials,
            memory,
        };
        let can_pin = engine.pinner.is_some();
        let record_dir = args.record.clone();
        let parts = Self {
            engine,
            passes,
            recorder,
            record_dir,
            recordings,
            notices,
            keeper,
            save,
            sketching,
            metrics,
            server,
            can_pin,
        };
        Ok((parts, signals))
    }

    /// Whether it moves on.
    pub(crate) fn progress(&self) -> Progress {
        self.engine.memory.progress()
    }

    /// The settings in force, which recordings name.
    pub(crate) fn in_force(&self) -> InForce {
        self.recordings.in_force().clone()
    }

    /// Where other settings for it are sent to.
    pub(crate) fn replacements(&mut self) -> mpsc::Sender<Replacement> {
        self.engine.memory.replacements()
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
        let LoopChannels { publisher, recording, commands, requests } = channels;
        let state = self.record_dir.as_deref().map(recording::state_of);
        recording.send_replace(state);
        let recordings = self.recordings;
        let in_force = recordings.in_force().clone();
        let begin = move |dir: &Path| recordings.start(dir).map_err(|failure| failure.to_string());
        let recorder = LoopRecorder::new(self.recorder, self.keeper, begin, recording);
        let serving = self.server.map(|server| {
            let hello = Hello {
                protocol: PROTOCOL.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                can_pin: self.can_pin,
            };
            let sources = Sources { steps: publisher.subscribe(), recording: recorder.state().subscribe() };
            tokio::spawn(server.serve(hello, sources, commands))
        });
        let publish = |step: &Step| {
            recorder.send(step);
            publisher.publish(step, Arc::clone(step));
        };
        // Each has a queue of its own: a recording need not wait for a long round, nor the engine for a slow disk.
        let (to_engine, of_engine) = mpsc::channel(MAX_WAITING);
        let (to_recorder, of_recorder) = mpsc::channel(MAX_WAITING);
        let route = route(requests, to_engine, to_recorder);
        let mut recorded = std::pin::pin!(recorder.serve(of_recorder, || publisher.view()));
        let notices =
            recording::handle_notices(
                self.notices,
                recorder.state(),
                |step, is_recorded| match is_recorded {
                    true => publish(step),
                    false => publisher.publish(step, Arc::clone(step)),
                },
            );
        let saving = save_when_asked(recorder.keeper(), self.save, &publish);
        let metrics = async {
            match self.metrics {
                Some(metrics) => metrics.serve(publisher.subscribe(), &recorder).await,
                None => std::future::pending().await,
            }
        };
        let sketching = async {
            match self.sketching {
                Some(sketching) => sketching.serve(&recorder, &in_force, || publisher.view(), &publish).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            end = run(self.engine, self.passes, stop, &publish, of_engine, options) => end,
            () = route => unreachable!("it waits for ever"),
            () = &mut recorded => unreachable!("it waits for ever"),
            () = notices => unreachable!("it waits for ever"),
            () = saving => unreachable!("it waits for ever"),
            () = sketching => unreachable!("it waits for ever"),
            () = metrics => unreachable!("it waits for ever"),
        };
        if let Some(serving) = serving {
            serving.abort();
            // Cancelled, as asked; the socket's file is gone with it.
            let _ = serving.await;
        }
        // The recording is closed even when the loop failed, and after what a viewer's command has begun.
        recorder.accept_no_more();
        recorded.await;
        let closed = recorder.close().await;
        let end = end.context("the loop ended early; its changes were undone").map_err(Failure::Failed)?;
        closed.map(|()| end)
    }
}

/// Commands that wait for the engine, or for the recorder. Each viewer waits for the answer to its last one.
const MAX_WAITING: usize = 64;

/// Passes commands on, for ever: those for the recording to the recorder, the others to the engine.
pub(super) async fn route(
    mut requests: mpsc::Receiver<Request>,
    engine: mpsc::Sender<Request>,
    recorder: mpsc::Sender<Request>,
) {
    while let Some(request) = requests.recv().await {
        let to = if request.command.is_for_recording() { &recorder } else { &engine };
        // If the loop has ended, the reply is dropped, which the requester notices.
        if let Err(mpsc::error::TrySendError::Full(Request { reply, .. })) = to.try_send(request) {
            let _ = reply.send(Err(format!("{MAX_WAITING} commands are waiting already")));
        }
    }
    std::future::pending::<()>().await;
}

/// Steps that a viewer in this process may be behind before it gets a complete view instead.
const MAX_BEHIND: usize = 64;

/// The loop's ends of the channels to a viewer in this process.
pub(crate) struct LoopChannels {
    publisher: Publisher<Step>,
    recording: watch::Sender<Option<RecordingState>>,
    commands: Requests,
    requests: mpsc::Receiver<Request>,
}

impl LoopChannels {
    /// One more reader of the loop's steps.
    pub(crate) fn subscribe(&self) -> Subscriber<Step> {
        self.publisher.subscribe()
    }
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
    let publisher = Publisher::new(MAX_BEHIND);
    let (recording, recorded) = watch::channel(None);
    let (commands, requests) = mpsc::channel(8);
    let viewer =
        ViewerChannels { steps: publisher.subscribe(), recording: recorded, commands: commands.clone() };
    (LoopChannels { publisher, recording, commands, requests }, viewer)
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

/// How much of the last minutes is kept, and where it is written, if the configuration says so: beside the recording unless
/// it names a directory.
fn what_is_kept(context: &Context, args: &LoopArgs) -> Result<Option<(KeepLimits, PathBuf)>, Failure> {
    let settings = &context.config.record;
    let Some(limits) = settings.keep_limits() else { return Ok(None) };
    let beside = || args.record.as_deref().and_then(Path::parent).map(Path::to_owned);
    let Some(dir) = settings.keep_dir.clone().or_else(beside) else {
        return Err(Failure::usage(anyhow::anyhow!(
            "[record] keep needs a place to write the last minutes to: set keep_dir, or record with --record"
        )));
    };
    Ok(Some((limits, dir)))
}

/// What keeps the last minutes.
fn keeper(context: &Context, limits: KeepLimits, dir: PathBuf, recordings: &Arc<Recordings>) -> Keeper {
    let recordings = Arc::clone(recordings);
    let write = move |dir: &Path, kept: &Kept| recordings.write(dir, kept).map_err(|error| error.to_string());
    Keeper::new(limits, dir, context.config.record.keep_aborted_trials, write)
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
pub(crate) fn choice(args: &LoopArgs) -> LoopChoice {
    LoopChoice { merge: args.merge, ksm_run: args.ksm_run, min_interval: args.min_interval.map(seconds) }
}

/// Least time between two rounds.
fn min_interval(context: &Context, args: &LoopArgs) -> Duration {
    choice(args).min_interval.unwrap_or(context.backend.min_interval())
}

/// When rounds and windows happen; `rounds` is that of `--rounds`.
pub(crate) fn options(context: &Context, args: &LoopArgs, rounds: Option<u64>) -> RunOptions {
    RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: min_interval(context, args),
        rounds,
        window: seconds(args.window),
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
        tracing::info!("{}; {} undone", counted(end.rounds, "round"), counted(report.restored, "change"));
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
