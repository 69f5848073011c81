//! Limits work to a share of one CPU.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::settings::Share;

/// CPU time after which a sleep is due: guests that wait for the CPU wait no longer than this.
const SLICE: Duration = Duration::from_millis(2);

/// Sleeps between pieces of work of the thread that created it.
#[derive(Debug)]
pub struct Throttle {
    share: Share,
    cpu: Duration,
    wall: Instant,
}

impl Throttle {
    /// Starts now.
    pub fn new(share: Share) -> Self {
        Self { share, cpu: thread_cpu_time(), wall: Instant::now() }
    }

    /// To be called after every short piece of work: sleeps once a slice is used up.
    pub fn rest(&mut self) {
        if self.share == Share::ALL {
            return;
        }
        let used = thread_cpu_time().saturating_sub(self.cpu);
        if used < SLICE {
            return;
        }
        std::thread::sleep(rest_after(used, self.wall.elapsed(), self.share));
        // Starts again: time spent waiting for something else is not saved up for a burst.
        (self.cpu, self.wall) = (thread_cpu_time(), Instant::now());
    }
}

/// How long to sleep after `used` CPU time within `passed`, to keep the share.
fn rest_after(used: Duration, passed: Duration, share: Share) -> Duration {
    used.div_f64(share.get()).saturating_sub(passed)
}

/// Processor time of this thread. 0 on a kernel without the clock (before Linux 2.6.12): then there are no sleeps.
pub(crate) fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sleep_keeps_the_share() {
        let ms = Duration::from_millis;
        let share = |share: f64| Share::try_from(share).unwrap();
        assert_eq!(rest_after(ms(2), ms(2), share(0.5)), ms(2));
        assert_eq!(rest_after(ms(2), ms(3), share(0.1)), ms(17));
        assert_eq!(rest_after(ms(2), ms(30), share(0.1)), ms(0), "others used the CPU");
    }

    proptest! {
        #[test]
        fn no_more_than_the_share_is_used(used in 1u64..10_000_000, more in 0u64..10_000_000, share in 0.001f64..=1.0) {
            let passed = used + more;
            let rest = rest_after(
                Duration::from_nanos(used), Duration::from_nanos(passed), Share::try_from(share).unwrap());
            let whole = passed as f64 + rest.as_nanos() as f64;
            prop_assert!(used as f64 <= share * whole * (1.0 + 1e-6) + 1.0);
        }
    }

    #[test]
    fn only_limited_work_sleeps() {
        // This asserts that wall time passes while the thread sleeps, not how fast anything is.
        let mut throttle = Throttle::new(Share::try_from(0.2).unwrap());
        let (wall, cpu) = (Instant::now(), thread_cpu_time());
        while thread_cpu_time() - cpu < Duration::from_millis(20) {
            std::hint::black_box((0..1000u64).sum::<u64>());
            throttle.rest();
        }
        // The last slice may be unfinished, so 18 of 20 ms had their sleep.
        assert!(wall.elapsed() >= Duration::from_millis(18 * 5), "{:?}", wall.elapsed());
    }
}
