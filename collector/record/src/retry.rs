//! When writing is retried after a failure.

use std::time::{Duration, Instant};

use super::RetryLimits;

/// The delays: each is twice the one before, up to the greatest. They begin again with the first when writing has worked
/// for twice as long as the last delay, so that a disk that fails again at once is not tried more often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    limits: RetryLimits,
    /// The delay before the last attempt; `None` before the first failure.
    last: Option<Duration>,
}

impl Backoff {
    pub(super) fn new(limits: RetryLimits) -> Self {
        Self { limits, last: None }
    }

    /// How long to wait after a failure; `worked` is how long writing had worked before it, zero for an attempt
    /// that failed itself.
    pub(super) fn after(&mut self, worked: Duration) -> Duration {
        let RetryLimits { first, most } = self.limits;
        let delay = match self.last {
            Some(last) if worked < last.saturating_mul(2) => last.saturating_mul(2).min(most),
            _ => first.min(most),
        };
        self.last = Some(delay);
        delay
    }
}

/// `now + delay`, or in an hour if the clock cannot represent that.
pub(super) fn deadline_after(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or(now + Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_begin_again_when_it_worked_long_enough() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(RetryLimits { first: seconds(1), most: seconds(10) });
        let delays = [
            (1000, 1),
            (0, 2),
            (0, 4),
            // Resumed, and failed again soon.
            (3, 8),
            (15, 10),
            (0, 10),
            (20, 1),
            (0, 2),
        ];
        for (at, (worked, delay)) in delays.into_iter().enumerate() {
            assert_eq!(backoff.after(seconds(worked)), seconds(delay), "{at}");
        }
    }
}
