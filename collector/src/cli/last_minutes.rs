//! The last minutes of a loop: kept while it runs, and written as a recording on a signal, on a viewer's command, and when
//! a trial is aborted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use huddle_host::clock::HostClock;
use huddle_host::stages::Clock as _;
use huddle_model::event::{Event, EventKind};
use huddle_model::text::{bytes, counted};
use huddle_model::trial::Outcome;
use huddle_model::update::{Step, Update};
use huddle_record::{KeepLimits, Kept, LastMinutes, RecordingSummary};
use tokio::sync::Notify;

use super::names::new_name;
use super::signals::SaveSignal;

/// Aborted trials with a recording of their own, unless the configuration says otherwise.
const MAX_ABORTED: u32 = 8;

/// Writes what is kept into a directory; on a blocking thread.
type Write = dyn Fn(&Path, &Kept) -> Result<RecordingSummary, String> + Send + Sync;

/// What is kept, and where it is written.
pub(crate) struct Keeper {
    last: Mutex<LastMinutes>,
    dir: PathBuf,
    write: Arc<Write>,
    /// Aborted trials that may still have a recording.
    aborted_left: AtomicU32,
    /// A trial was aborted.
    aborted: Notify,
    /// Two at a time would take the same name.
    writing: tokio::sync::Mutex<()>,
}

impl Keeper {
    /// Keeps so much, and has `write` write it into directories in `dir`.
    pub(crate) fn new(
        limits: KeepLimits,
        dir: PathBuf,
        max_aborted: Option<u32>,
        write: impl Fn(&Path, &Kept) -> Result<RecordingSummary, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            last: Mutex::new(LastMinutes::new(limits)),
            dir,
            write: Arc::new(write),
            aborted_left: AtomicU32::new(max_aborted.unwrap_or(MAX_ABORTED)),
            aborted: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Keeps a step; never waits.
    pub(crate) fn push(&self, step: &Step) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push(step, Instant::now());
        drop(last);
        let is_aborted =
            |update: &Update| matches!(update, Update::Decision(of) if of.outcome == Outcome::Aborted);
        if step.iter().any(is_aborted) {
            self.aborted.notify_one();
        }
    }

    /// Writes what is kept now into a new directory.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) async fn save(&self) -> Result<String, String> {
        let _one_at_a_time = self.writing.lock().await;
        let kept = self.last.lock().unwrap_or_else(PoisonError::into_inner).kept(Instant::now());
        if kept.is_empty() {
            return Err("nothing is kept yet: the first round is not done".to_owned());
        }
        let write = Arc::clone(&self.write);
        let dir = self.dir.clone();
        let to_write = kept.clone();
        let written = tokio::task::spawn_blocking(move || write(&new_dir(&dir), &to_write)).await;
        let summary = written.map_err(|error| error.to_string()).and_then(|written| written);
        let summary = summary.map_err(|why| format!("the last minutes could not be written: {why}"))?;
        let short = if kept.is_cut_short {
            format!(
                "; earlier ones fell out, since {} of memory hold no more ([record] keep_max_mib)",
                bytes(kept.bytes)
            )
        } else {
            String::new()
        };
        Ok(format!(
            "the last {} s of the loop, {}, are in {}{short}",
            kept.span.as_secs(),
            counted(summary.steps.steps_recorded, "step"),
            summary.dir.display()
        ))
    }

    /// Writes what is kept when a trial is aborted.
    async fn save_aborted(&self) -> Result<String, String> {
        let one_less = |left: u32| left.checked_sub(1);
        match self.aborted_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => self.save().await.map(|saved| format!("a trial was aborted: {saved}")),
            Err(_) => Err("a trial was aborted, and its last minutes are not written: enough have been \
                           ([record] keep_aborted_trials)"
                .to_owned()),
        }
    }
}

/// A directory in `parent` that is not there yet, named by the time.
fn new_dir(parent: &Path) -> PathBuf {
    let name = new_name("last");
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered).map(|name| parent.join(name));
    names.find(|dir| std::fs::symlink_metadata(dir).is_err()).unwrap_or_else(|| parent.join(name))
}

/// Writes what is kept on the signal and when a trial is aborted, for ever, and passes an event about it to `publish`.
pub(crate) async fn save_when_asked(
    keeper: Option<&Keeper>,
    mut signal: SaveSignal,
    publish: impl Fn(&Step),
) {
    loop {
        let aborted = async {
            match keeper {
                Some(keeper) => keeper.aborted.notified().await,
                None => std::future::pending().await,
            }
        };
        let is_signal = tokio::select! {
            () = signal.next() => true,
            () = aborted => false,
        };
        let saved = match keeper {
            Some(keeper) if is_signal => keeper.save().await.map(|saved| format!("SIGUSR1: {saved}")),
            Some(keeper) => keeper.save_aborted().await,
            None => Err(format!("SIGUSR1: {NOTHING_KEPT}")),
        };
        publish(&Step::from([Update::Event(event(saved))]));
    }
}

/// Why there is nothing to write.
pub(crate) const NOTHING_KEPT: &str = "the last minutes are not kept; set [record] keep";

fn event(saved: Result<String, String>) -> Event {
    let (kind, message) = match saved {
        Ok(saved) => (EventKind::Note, saved),
        Err(why) => (EventKind::StageFailed, why),
    };
    Event { at_unix_us: HostClock.now_unix_us(), kind, vm: None, message }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use huddle_record::RecorderLimits;
    use huddle_testing::{sample, sample_observed};

    use super::*;

    fn keeper(dir: &Path, max_aborted: u32) -> Keeper {
        let limits = KeepLimits { age: Duration::from_secs(600), max_bytes: 1 << 30 };
        Keeper::new(limits, dir.to_owned(), Some(max_aborted), |dir, kept| {
            kept.write(dir, sample::manifest(), RecorderLimits::default()).map_err(|error| error.to_string())
        })
    }

    fn step(round: u64) -> Step {
        sample_observed::observed(round, 2).updates_since(None).into()
    }

    #[tokio::test]
    async fn each_has_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path(), 1);
        assert!(keeper.save().await.unwrap_err().starts_with("nothing is kept yet"));
        keeper.push(&step(1));
        let (one, other) = (keeper.save().await.unwrap(), keeper.save().await.unwrap());
        assert!(one.starts_with("the last 0 s of the loop, 1 step, are in "), "{one}");
        assert_ne!(one, other);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        // One for aborted trials, and one more at any time for whoever asks.
        assert!(keeper.save_aborted().await.unwrap().starts_with("a trial was aborted: the last "));
        assert!(keeper.save_aborted().await.unwrap_err().contains("keep_aborted_trials"));
        assert!(keeper.save().await.is_ok());
    }

    #[tokio::test]
    async fn an_aborted_trial_asks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path(), 8);
        let mut decision = sample_observed::observed(4, 2).decisions[0].clone();
        keeper.push(&Step::from([Update::Decision(decision.clone())]));
        let notified = |keeper: &Keeper| {
            let waiting = std::pin::pin!(keeper.aborted.notified());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            Future::poll(waiting, &mut context).is_ready()
        };
        assert!(!notified(&keeper), "it was kept");
        decision.outcome = Outcome::Aborted;
        keeper.push(&Step::from([Update::Decision(decision)]));
        assert!(notified(&keeper));
    }
}
