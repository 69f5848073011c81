//! Clocks of this host, and the CPU time that this program takes of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use huddle_model::availability::Availability;
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::stages::{Clock, StageError};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the BPF programs (`bpf_ktime_get_ns`) and of every
/// reading made here.
pub fn monotonic_ns() -> u64 {
    // The clock always exists (clock_gettime(2)); a failure would be a kernel without one.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole microseconds; a time of 500,000 years does not fit.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Now by the wall clock, in microseconds since the Unix epoch; 0 for a clock before it, which is broken.
pub fn unix_us() -> i64 {
    i64::try_from(HostClock.now_unix_us()).unwrap_or(i64::MAX)
}

/// CPU time this process has used so far, in microseconds.
///
/// # Errors
/// The kernel does not tell.
pub fn own_cpu_us() -> Result<u64, StageError> {
    Ok(micros(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into()))
}

/// CPU time that this process and the calling thread have used so far.
#[derive(Clone, Copy, Debug)]
pub struct OwnCost {
    process: Result<Duration, Errno>,
    thread: Result<Duration, Errno>,
}

impl OwnCost {
    /// Up to now.
    pub fn now() -> Self {
        let of = |clock| clock_gettime(clock).map(Duration::from);
        Self { process: of(ClockId::CLOCK_PROCESS_CPUTIME_ID), thread: of(ClockId::CLOCK_THREAD_CPUTIME_ID) }
    }

    /// CPU time of the whole process since then, in microseconds.
    pub fn process_since(&self, earlier: &Self) -> Availability<u64> {
        since(self.process, earlier.process)
    }

    /// CPU time of the calling thread since then, in microseconds; both must be of one thread.
    pub fn thread_since(&self, earlier: &Self) -> Availability<u64> {
        since(self.thread, earlier.thread)
    }
}

fn since(later: Result<Duration, Errno>, earlier: Result<Duration, Errno>) -> Availability<u64> {
    match (later, earlier) {
        (Ok(later), Ok(earlier)) => Availability::Available(micros(later.saturating_sub(earlier))),
        (Err(errno), _) | (_, Err(errno)) => {
            Availability::Unavailable(format!("the kernel does not report CPU time: {errno}"))
        }
    }
}

/// The wall clock.
#[derive(Clone, Copy, Debug)]
pub struct HostClock;

impl Clock for HostClock {
    fn now_unix_us(&self) -> u64 {
        // A clock before 1970 is a broken clock; 0 then sorts first and `validate` sees it.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(monotonic_ns())
    }
}
