//! Whether the loop moves on, for a watchdog in another task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the steps of a loop: rounds, windows, commands. Cheap to clone; all clones are of the same loop.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// What a loop did until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepsSoFar {
    /// Steps that have ended.
    pub ended: u64,
    /// Whether a step is in progress. If not, the loop waits for the time of the next one.
    pub is_busy: bool,
}

impl Progress {
    /// A step begins.
    pub(crate) fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A step has ended.
    pub(crate) fn end(&self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }

    /// The steps until now.
    pub fn so_far(&self) -> StepsSoFar {
        // In this order: a step that begins in between may count as busy too early, never as idle.
        let ended = self.0.ended.load(Ordering::Acquire);
        StepsSoFar { ended, is_busy: self.0.begun.load(Ordering::Relaxed) > ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_busy_until_it_ends() {
        let progress = Progress::default();
        assert_eq!(progress.so_far(), StepsSoFar { ended: 0, is_busy: false });
        let other = progress.clone();
        other.begin();
        assert_eq!(progress.so_far(), StepsSoFar { ended: 0, is_busy: true });
        other.end();
        assert_eq!(progress.so_far(), StepsSoFar { ended: 1, is_busy: false });
    }
}
