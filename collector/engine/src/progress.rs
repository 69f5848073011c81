//! Whether the loop moves on, for a watchdog in another task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use huddle_host::clock::ThreadClock;

/// Counts the steps of a loop: rounds, windows, commands. Cheap to clone; all clones are of the same loop.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
    work: Mutex<Work>,
}

/// The processor time that steps use. Only the thread that works counts: the one of the step, or the one that reads the
/// host for it. What else this process does (viewers, metrics, the thread that waits for a reading) says nothing of a step.
#[derive(Debug, Default)]
struct Work {
    /// The thread that works now, and what its clock said when it began; `None` between steps.
    at_work: Option<(ThreadClock, Duration)>,
    /// Of those before it.
    used: Duration,
}

impl Work {
    fn used(&self) -> Duration {
        let now = self.at_work.and_then(|(clock, began)| Some(clock.used()?.saturating_sub(began)));
        self.used + now.unwrap_or_default()
    }
}

/// What a loop did until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepsSoFar {
    /// Steps that have ended.
    pub ended: u64,
    /// Whether a step is in progress. If not, the loop waits for the time of the next one.
    pub is_busy: bool,
    /// Processor time of the threads that worked on steps, as far as the kernel tells.
    pub cpu: Duration,
}

impl Progress {
    /// A step begins, on the calling thread.
    pub(crate) fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.work_by(ThreadClock::of_this_thread());
    }

    /// A step has ended.
    pub(crate) fn end(&self) {
        self.work_by(None);
        self.0.ended.fetch_add(1, Ordering::Release);
    }

    /// From now on the thread of this clock works on the step.
    pub(crate) fn work_by(&self, clock: Option<ThreadClock>) {
        let mut work = self.0.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.used = work.used();
        work.at_work = clock.and_then(|clock| Some((clock, clock.used()?)));
    }

    /// The steps until now.
    pub fn so_far(&self) -> StepsSoFar {
        // In this order: a step that begins in between may count as busy too early, never as idle.
        let ended = self.0.ended.load(Ordering::Acquire);
        let is_busy = self.0.begun.load(Ordering::Relaxed) > ended;
        StepsSoFar { ended, is_busy, cpu: self.0.work.lock().unwrap_or_else(PoisonError::into_inner).used() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(time: Duration) {
        let clock = ThreadClock::of_this_thread().unwrap();
        let began = clock.used().unwrap();
        while clock.used().unwrap() - began < time {}
    }

    #[test]
    fn a_step_is_busy_until_it_ends() {
        let progress = Progress::default();
        assert_eq!(progress.so_far(), StepsSoFar { ended: 0, is_busy: false, cpu: Duration::ZERO });
        let other = progress.clone();
        other.begin();
        assert!(progress.so_far().is_busy);
        other.end();
        let now = progress.so_far();
        assert_eq!((now.ended, now.is_busy), (1, false));
    }

    #[test]
    fn only_the_thread_that_works_counts() {
        let (progress, work) = (Progress::default(), Duration::from_millis(10));
        compute(work);
        assert_eq!(progress.so_far().cpu, Duration::ZERO, "no step was in progress");
        progress.begin();
        compute(work);
        let by_step = progress.so_far().cpu;
        assert!(by_step >= work, "{by_step:?}");
        // A thread that only waits for the end of this test.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (to_test, clock) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            to_test.send(ThreadClock::of_this_thread()).unwrap();
            let _ = held.recv();
        });
        progress.work_by(clock.recv().unwrap());
        let handed_over = progress.so_far().cpu;
        compute(work);
        let waited = progress.so_far().cpu - handed_over;
        assert!(waited < work, "the thread of the step waits: {waited:?}");
        progress.work_by(ThreadClock::of_this_thread());
        compute(work);
        assert!(progress.so_far().cpu >= handed_over + work);
        progress.end();
        let ended = progress.so_far().cpu;
        compute(work);
        assert_eq!(progress.so_far().cpu, ended, "it only grows with steps");
        drop(release);
        reader.join().unwrap();
    }
}
