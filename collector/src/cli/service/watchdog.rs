//! Whether the loop moves on.

use huddle_engine::{Progress, StepsSoFar};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// A step in progress moves on while the process uses at least this much processor time between two looks. A reading that
/// never returns uses none; this task, viewers and the log use less.
const LEAST_CPU_US: i64 = 10_000;

/// Looks at the steps of a loop from time to time.
pub(super) struct Watchdog {
    progress: Progress,
    ended: u64,
    cpu_us: i64,
}

impl Watchdog {
    pub(super) fn new(progress: Progress) -> Self {
        let ended = progress.so_far().ended;
        Self { progress, ended, cpu_us: cpu_us() }
    }

    /// Whether the loop has moved on since the last look: it waits for the time of its next step, or a step has ended
    /// since, or one is in progress and computes.
    pub(super) fn moves_on(&mut self) -> bool {
        let (now, cpu_us) = (self.progress.so_far(), cpu_us());
        let moves_on = moves_on(now, self.ended, cpu_us - self.cpu_us);
        (self.ended, self.cpu_us) = (now.ended, cpu_us);
        moves_on
    }
}

fn moves_on(now: StepsSoFar, ended_before: u64, cpu_us: i64) -> bool {
    !now.is_busy || now.ended > ended_before || cpu_us >= LEAST_CPU_US
}

/// Processor time of this process, in microseconds.
fn cpu_us() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_neither_ends_nor_computes_is_stuck() {
        let busy = |ended| StepsSoFar { ended, is_busy: true };
        assert!(moves_on(StepsSoFar { ended: 3, is_busy: false }, 3, 0), "it waits for the next one");
        assert!(moves_on(busy(4), 3, 0), "one has ended");
        assert!(moves_on(busy(3), 3, LEAST_CPU_US), "a long scan");
        assert!(!moves_on(busy(3), 3, LEAST_CPU_US - 1), "a reading that hangs");
    }
}
