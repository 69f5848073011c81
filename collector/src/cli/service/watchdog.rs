//! Whether the loop moves on.

use std::time::Duration;

use huddle_engine::{Progress, StepsSoFar};

/// A step in progress moves on while the thread that works on it uses at least this much processor time between two looks.
/// A reading that never returns uses none.
const LEAST_CPU: Duration = Duration::from_millis(1);

/// Looks at the steps of a loop from time to time.
pub(super) struct Watchdog {
    progress: Progress,
    before: StepsSoFar,
}

impl Watchdog {
    pub(super) fn new(progress: Progress) -> Self {
        let before = progress.so_far();
        Self { progress, before }
    }

    /// Whether the loop has moved on since the last look: it waits for the time of its next step, or a step has ended
    /// since, or one is in progress and computes.
    pub(super) fn moves_on(&mut self) -> bool {
        let before = std::mem::replace(&mut self.before, self.progress.so_far());
        moves_on(before, self.before)
    }

    /// Whether a step was in progress at the last look.
    pub(super) fn is_busy(&self) -> bool {
        self.before.is_busy
    }
}

fn moves_on(before: StepsSoFar, now: StepsSoFar) -> bool {
    !now.is_busy || now.ended > before.ended || now.cpu.saturating_sub(before.cpu) >= LEAST_CPU
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_neither_ends_nor_computes_is_stuck() {
        let (before, long) = (Duration::from_secs(5), Duration::from_secs(5) + LEAST_CPU);
        let busy = |ended, cpu| StepsSoFar { ended, is_busy: true, cpu };
        let moved_on = |now| moves_on(busy(3, before), now);
        assert!(moved_on(StepsSoFar { is_busy: false, ..busy(3, before) }), "it waits for the next one");
        assert!(moved_on(busy(4, before)), "one has ended");
        assert!(moved_on(busy(3, long)), "a long scan");
        assert!(!moved_on(busy(3, long - Duration::from_nanos(1))), "a reading that hangs");
    }
}
