//! Runs the loop: when rounds happen, where their updates go, and how the loop ends.

use std::pin::Pin;
use std::time::Duration;

use huddle_model::update::{Step, Update};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Instant, MissedTickBehavior};

use super::Engine;
use super::command::Request;
use super::progress::Progress;
use super::replacement::Replacement;
use huddle_host::pin::UndoReport;
use huddle_host::stages::{Pass, PassTrigger, TriggerError};
use huddle_host::stop::Stop;

/// When rounds happen.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Least time between the begins of two rounds; passes completed meanwhile lead to one round.
    pub min_interval: Duration,
    /// Rounds to do; `None` to go on until stopped.
    pub rounds: Option<u64>,
    /// Length of a window of observation.
    pub window: Duration,
    /// Where no pass is under way, the next round is due after so long; usually [`WITHOUT_PASSES`].
    pub without_passes: Duration,
}

/// How the loop ended.
#[derive(Debug)]
pub struct RunEnd {
    /// Rounds done.
    pub rounds: u64,
    /// Why fewer rounds were done than requested, where it was not a stop.
    pub broken: Option<String>,
    /// What was undone; `None` if the loop could not change anything.
    pub undo: Option<UndoReport>,
}

/// Without a pass, the next round is due after so long, if no pass is under way: VMs come and go, and what they share
/// changes, also where nothing merges.
pub const WITHOUT_PASSES: Duration = Duration::from_secs(30);

/// How long a trigger without a descriptor blocks at a time: the end of the loop may have to wait this long for it.
const TRIGGER_TIMEOUT: Duration = Duration::from_millis(200);

/// In a shorter window, reading the counters would take most of the time.
pub const SHORTEST_WINDOW: Duration = Duration::from_millis(10);

/// Does a round at once and then after every completed pass, or by time where no pass is under way, and ends a
/// window of observation every [`RunOptions::window`] in between, until `stop` is ready or the requested number of
/// rounds is done; then undoes all changes. A round that is in progress when `stop` is ready is abandoned at once.
/// Commands from `requests` are carried out between rounds. `publish` receives the updates of each step, in order,
/// and must not block.
///
/// Dropping the future leaves the undo to the engine's own `Drop`.
///
/// # Errors
/// If a round panicked; the engine was dropped by that, and undid its changes.
pub async fn run(
    mut engine: Engine,
    passes: Box<dyn PassTrigger>,
    stop: impl Future<Output = ()>,
    publish: impl Fn(&Step),
    mut requests: mpsc::Receiver<Request>,
    options: RunOptions,
) -> Result<RunEnd, JoinError> {
    let mut replacements = engine.memory.replacements.take();
    let mut driver = Driver {
        stop: std::pin::pin!(stop),
        is_stopped: false,
        to_engine: engine.stop(),
        progress: engine.memory.progress(),
    };
    let mut windows = tokio::time::interval(options.window.max(SHORTEST_WINDOW));
    windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut rounds, mut broken) = (0, None);
    // Why rounds come by time, while they do.
    let mut by_time: Option<String> = None;
    // The trigger is here or with the wait for the next pass, and in neither once it has failed.
    let (mut trigger, mut wait): (_, Option<PassWait>) = (Some(passes), None);
    let mut replacing: Option<Replacement> = None;
    loop {
        let began = Instant::now();
        let settings = replacing.take();
        let round = |engine: &mut Engine| match settings {
            Some(replacement) => engine.replace(replacement),
            None => vec![engine.round()],
        };
        let (back, steps) = driver.blocking(engine, round).await?;
        engine = back;
        // An abandoned round has no updates.
        for step in steps.iter().filter(|step| !step.is_empty()) {
            rounds += u64::from(step.iter().any(|update| matches!(update, Update::Round(_))));
            publish(step);
        }
        if driver.is_stopped || options.rounds.is_some_and(|wanted| rounds >= wanted) {
            break;
        }
        windows.reset();
        let interval = engine.interval(options.min_interval);
        // A round ends the current window early, and a trial needs full windows.
        let quiet = if engine.is_trying() { options.window * 2 } else { Duration::ZERO };
        let earliest = (began + interval).max(Instant::now() + quiet);
        let patience = options.without_passes.max(interval);
        if let Some(trigger) = trigger.take() {
            wait = Some(Box::pin(next_pass(trigger, patience)));
        }
        // Why a round is due, from when it is until `earliest`.
        let mut due = None;
        let next = loop {
            tokio::select! {
                // The order makes a stop that is ready win over a pass that is, and a pass over a window.
                biased;
                () = driver.stopped() => break After::Stop,
                next = pass(&mut wait) => match next? {
                    (back, Ok(next)) => (trigger, due) = (Some(back), Some(next)),
                    (_, Err(error)) => {
                        tracing::error!("{error}; no further round will follow");
                        let what = format!("passes of KSM are no longer reported: {error}");
                        let (back, step) = driver.blocking(engine, move |engine| engine.trigger_failed(&what)).await?;
                        engine = back;
                        step.iter().for_each(&publish);
                        if options.rounds.is_some() {
                            broken = Some(error.to_string());
                            break After::Stop;
                        }
                    }
                },
                Some(next) = due_at(earliest, &mut due) => break After::Round(next),
                Some(Request { command, reply }) = requests.recv() => {
                    let (back, outcome) = driver.blocking(engine, move |engine| engine.command(&command)).await?;
                    engine = back;
                    let answer = outcome.and_then(|(step, answer)| {
                        publish(&step);
                        answer
                    });
                    // The requester may have disconnected meanwhile.
                    let _ = reply.send(answer);
                }
                replacement = replacement(&mut replacements) => break After::Replacement(replacement),
                _ = windows.tick() => {
                    let (back, step) = driver.blocking(engine, Engine::observe).await?;
                    engine = back;
                    step.iter().for_each(&publish);
                }
            }
        };
        let reason = match next {
            After::Stop => break,
            After::Replacement(replacement) => {
                replacing = Some(replacement);
                continue;
            }
            After::Round(Next::ByTime(reason)) => Some(reason),
            After::Round(Next::Pass) => None,
        };
        if let Some(reason) = reason.as_ref().filter(|_| by_time.is_none()) {
            let line = format!("rounds come by time, not after passes of KSM: {reason}");
            let (back, step) = driver.blocking(engine, move |engine| engine.note(line)).await?;
            engine = back;
            step.iter().for_each(&publish);
        }
        by_time = reason;
    }
    // The last window is published before the end.
    let (back, step) = driver.blocking(engine, Engine::observe).await?;
    step.iter().for_each(&publish);
    let (back, undo) = driver.blocking(back, Engine::undo).await?;
    if driver.is_stopped {
        driver.blocking(back, Engine::settle).await?;
    }
    Ok(RunEnd { rounds, broken, undo })
}

/// Runs the steps of the engine, and watches for the stop.
struct Driver<'a, S> {
    stop: Pin<&'a mut S>,
    /// Whether `stop` was ready.
    is_stopped: bool,
    /// Stops the engine, whatever it is doing.
    to_engine: Stop,
    /// Is told of each step.
    progress: Progress,
}

impl<S: Future<Output = ()>> Driver<'_, S> {
    /// Ready when the loop is to stop.
    async fn stopped(&mut self) {
        if !self.is_stopped {
            self.stop.as_mut().await;
            self.is_stopped = true;
            self.to_engine.set();
        }
    }

    /// Runs a step of the engine off the async threads: it takes long and blocks. A stop is passed on to it, so that
    /// it ends soon; it is still awaited, since only the engine's own thread may change anything.
    async fn blocking<T: Send + 'static>(
        &mut self,
        mut engine: Engine,
        step: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<(Engine, T), JoinError> {
        let progress = self.progress.clone();
        let mut step = tokio::task::spawn_blocking(move || {
            progress.begin();
            let outcome = step(&mut engine);
            progress.end();
            (engine, outcome)
        });
        tokio::select! {
            biased;
            done = &mut step => return done,
            () = self.stopped(), if !self.is_stopped => {}
        }
        step.await
    }
}

/// The next replacement; never, where there can be none.
async fn replacement(replacements: &mut Option<mpsc::Receiver<Replacement>>) -> Replacement {
    if let Some(receiver) = replacements
        && let Some(replacement) = receiver.recv().await
    {
        return replacement;
    }
    std::future::pending().await
}

/// What follows the windows and commands after a round.
enum After {
    /// The end.
    Stop,
    /// A round, for this reason.
    Round(Next),
    /// A round by other settings.
    Replacement(Replacement),
}

/// Why the next round is due.
enum Next {
    /// A pass was completed.
    Pass,
    /// None was for long, and none is under way, for this reason.
    ByTime(String),
}

/// Takes why a round is due, when its time has come; `None`, which disables this, while none is due.
async fn due_at(earliest: Instant, due: &mut Option<Next>) -> Option<Next> {
    if due.is_some() {
        tokio::time::sleep_until(earliest).await;
    }
    due.take()
}

/// The trigger, and what it said.
type Waited = Result<(Box<dyn PassTrigger>, Result<Next, TriggerError>), JoinError>;

/// A wait for the next pass, which has the trigger and gives it back.
type PassWait = Pin<Box<dyn Future<Output = Waited>>>;

/// What a wait comes to, which is over then; never, where there is none.
async fn pass(wait: &mut Option<PassWait>) -> Waited {
    let Some(waiting) = wait else { return std::future::pending().await };
    let next = waiting.await;
    *wait = None;
    next
}

/// Waits for the next complete pass, or until `patience` is over and no pass is under way.
async fn next_pass(mut trigger: Box<dyn PassTrigger>, patience: Duration) -> Waited {
    // A second descriptor, since the trigger itself is used meanwhile. Where there is none, it blocks a thread instead.
    let ready = trigger.ready().and_then(|ready| ready.try_clone_to_owned().ok());
    // SAFETY: it owns its descriptor, which stays open and the same for as long as it lives.
    let ready =
        ready.and_then(|ready| unsafe { AsyncFd::register_with_interest(ready, Interest::READABLE) }.ok());
    let mut due = Instant::now() + patience;
    // What a trigger says compares with its last look.
    trigger.idle();
    loop {
        let pass;
        if let Some(ready) = &ready {
            // All that came before is read now, so what comes later makes it ready again.
            pass = trigger.wait(Duration::ZERO);
            if let Ok(None) = pass
                && let Ok(Ok(mut guard)) = tokio::time::timeout_at(due, ready.readable()).await
            {
                guard.clear_ready();
                continue;
            }
        } else {
            let waited = tokio::task::spawn_blocking(move || {
                let pass = trigger.wait(TRIGGER_TIMEOUT);
                (trigger, pass)
            });
            (trigger, pass) = waited.await?;
        }
        match pass {
            Ok(Some(Pass { .. })) => return Ok((trigger, Ok(Next::Pass))),
            Err(error) => return Ok((trigger, Err(error))),
            Ok(None) => {}
        }
        if Instant::now() >= due {
            if let Some(reason) = trigger.idle() {
                return Ok((trigger, Ok(Next::ByTime(reason))));
            }
            due = Instant::now() + patience;
        }
    }
}
