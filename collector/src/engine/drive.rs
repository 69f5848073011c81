//! Drives rounds: when they happen, who hears of them, and how they end.

use std::sync::Arc;
use std::time::Duration;

use huddle_model::snapshot::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Engine;
use crate::observe::probes::pass::{Pass, PassTrigger, TriggerError};
use crate::pin::UndoReport;

/// When rounds happen.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Least time between the begins of two rounds; passes completed meanwhile lead to one round.
    pub min_interval: Duration,
    /// Rounds to do; `None` to go on until stopped.
    pub rounds: Option<u64>,
}

/// How the loop ended.
#[derive(Debug)]
pub struct RunEnd {
    /// Rounds done.
    pub rounds: u64,
    /// What was taken back; `None` when nothing could change.
    pub undo: Option<UndoReport>,
}

/// How long the trigger blocks at a time: what the end of the loop may have to wait for.
const TRIGGER_TIMEOUT: Duration = Duration::from_millis(200);

/// Does a round at once and then after every completed pass, until `stop` is ready or the wanted
/// number is done; then takes everything back. `keep` is given every snapshot (for the recorder) and
/// must not block; each is then published on `publish`, where readers that are slow see the latest.
///
/// Dropping the future leaves the undo to the engine's own `Drop`.
///
/// # Errors
/// If a round panicked; the engine was dropped by it, and so took its changes back.
pub async fn run(
    mut engine: Engine,
    mut passes: Box<dyn PassTrigger>,
    stop: impl Future<Output = ()>,
    keep: impl Fn(&Arc<Snapshot>),
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
    options: RunOptions,
) -> Result<RunEnd, JoinError> {
    tokio::pin!(stop);
    let mut rounds = 0;
    loop {
        let began = Instant::now();
        // A scan takes long and blocks. It is waited for even when `stop` is ready: a round that is cut
        // off could not be undone in order.
        let (back, snapshot) = tokio::task::spawn_blocking(move || {
            let snapshot = engine.round();
            (engine, snapshot)
        })
        .await?;
        engine = back;
        rounds += 1;
        let snapshot = Arc::new(snapshot);
        keep(&snapshot);
        publish.send_replace(Some(snapshot));
        if options.rounds.is_some_and(|wanted| rounds >= wanted) {
            break;
        }
        let next = async {
            let next = next_pass(passes).await;
            tokio::time::sleep_until(began + options.min_interval).await;
            next
        };
        tokio::select! {
            // The order makes a stop that is ready win over a pass that is, too.
            biased;
            () = &mut stop => break,
            next = next => match next? {
                (trigger, Ok(_)) => passes = trigger,
                (_, Err(error)) => {
                    tracing::error!("{error}; no further round will follow");
                    stop.await;
                    break;
                }
            }
        }
    }
    let undo = tokio::task::spawn_blocking(move || engine.undo()).await?;
    Ok(RunEnd { rounds, undo })
}

/// Waits for the next complete pass; the trigger blocks, so it is asked off the async threads.
async fn next_pass(
    mut trigger: Box<dyn PassTrigger>,
) -> Result<(Box<dyn PassTrigger>, Result<Pass, TriggerError>), JoinError> {
    loop {
        let waited = tokio::task::spawn_blocking(move || {
            let pass = trigger.wait(TRIGGER_TIMEOUT);
            (trigger, pass)
        });
        let (back, pass) = waited.await?;
        trigger = back;
        if let Some(pass) = pass.transpose() {
            return Ok((trigger, pass));
        }
    }
}
