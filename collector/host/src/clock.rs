//! Clocks of this host, and the CPU time that this program takes of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use huddle_model::availability::Availability;
use nix::errno::Errno;
use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::stages::{Clock, StageError};
use crate::{HostError, HostRoot, read_text};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the BPF programs (`bpf_ktime_get_ns`) and of every
/// reading made here.
pub fn monotonic_ns() -> u64 {
    // The clock always exists (clock_gettime(2)); a failure would be a kernel without one.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Now in clock ticks since the boot, as start times of tasks are (proc(5)): `/proc/uptime` has hundredths of a second,
/// which is what a tick is to user space on every Linux.
///
/// # Errors
/// It cannot be read or understood.
pub fn boot_ticks(root: &HostRoot) -> Result<u64, HostError> {
    let path = root.proc("uptime");
    let text = read_text(&path)?;
    let ticks = || {
        let (seconds, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
        let is_two = hundredths.len() == 2;
        let hundredths = hundredths.parse::<u64>().ok().filter(|_| is_two)?;
        seconds.parse::<u64>().ok()?.checked_mul(100)?.checked_add(hundredths)
    };
    ticks().ok_or_else(|| HostError::parse(&path, text.trim(), "an uptime of proc(5) like 35.07 40.12"))
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

/// The CPU time of one thread of this process, which any other of its threads can read.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(ClockId);

impl ThreadClock {
    /// That of the calling thread; `None` on a kernel without such clocks.
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: pthread_self() names the calling thread, which lives during the call, and `clock` can be written to.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (failed == 0).then(|| Self(ClockId::from_raw(clock)))
    }

    /// CPU time that the thread has used so far; `None` once it has ended.
    pub fn used(self) -> Option<Duration> {
        clock_gettime(self.0).map(Duration::from).ok()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_thread_counts_what_it_computes_and_nothing_else() {
        let (to_thread, of_main) = std::sync::mpsc::channel::<()>();
        let (to_main, of_thread) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            to_main.send(ThreadClock::of_this_thread().unwrap()).unwrap();
            let _ = of_main.recv();
        });
        let other = of_thread.recv().unwrap();
        let own = ThreadClock::of_this_thread().unwrap();
        let (own_before, other_before) = (own.used().unwrap(), other.used().unwrap());
        let work = Duration::from_millis(20);
        while own.used().unwrap() - own_before < work {}
        assert!(other.used().unwrap() - other_before < work, "it only waits");
        drop(to_thread);
        thread.join().unwrap();
        // The kernel lets go of a thread a little after it wakes who joins it.
        let begun = std::time::Instant::now();
        while other.used().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it has ended");
            std::thread::yield_now();
        }
    }

    #[test]
    fn ticks_since_the_boot_are_those_of_start_times() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir(root.proc("")).unwrap();
        for (text, expected) in
            [("35.07 40.12\n", Some(3507)), ("1.5 2\n", None), ("", None), ("x.00 1\n", None)]
        {
            std::fs::write(root.proc("uptime"), text).unwrap();
            assert_eq!(boot_ticks(&root).ok(), expected, "{text:?}");
        }
        let real = HostRoot::real();
        let began = crate::task::process(&real, std::process::id().cast_signed()).unwrap().id.start_ticks;
        let now = boot_ticks(&real).unwrap();
        // This test began less than an hour ago.
        assert!(began <= now && now < began + 360_000, "{began}, {now}");
    }
}
