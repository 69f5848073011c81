//! Drives rounds: when they happen, who hears of them, and how they end.

use std::sync::Arc;
use std::time::Duration;

use huddle_model::snapshot::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Engine;
use super::stages::PassTrigger;
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
    mut passes: impl PassTrigger,
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
            passes.next_pass().await;
            tokio::time::sleep_until(began + options.min_interval).await;
        };
        tokio::select! {
            // The order makes a stop that is ready win over a pass that is, too.
            biased;
            () = &mut stop => break,
            () = next => {}
        }
    }
    let undo = tokio::task::spawn_blocking(move || engine.undo()).await?;
    Ok(RunEnd { rounds, undo })
}
