//! Ctrl-C and SIGTERM as an error that ends the run, so that everything is undone on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// Whether the run is interrupted. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    raised: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// The run was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; the host is as it was before")]
pub struct Interrupted;

impl Interrupt {
    /// Raised by SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// Must be called before any other thread is started: the signals are blocked in the calling thread
    /// and in all it starts, and taken by a thread of their own (sigwait(3)).
    pub fn on_signals() -> Result<Self, std::io::Error> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        let interrupt = Self::default();
        let raised = interrupt.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            while signals.wait().is_ok() {
                raised.raise();
            }
        })?;
        Ok(interrupt)
    }

    /// Interrupts the run.
    pub fn raise(&self) {
        let _held = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.raised.store(true, Ordering::SeqCst);
        self.0.wake.notify_all();
    }

    /// Fails if the run was interrupted.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.0.raised.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits for `time`, or until the run is interrupted.
    pub fn sleep(&self, time: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + time;
        let mut held = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            held = self.0.wake.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_lasts_its_time_unless_it_is_interrupted() {
        let interrupt = Interrupt::default();
        let start = Instant::now();
        interrupt.sleep(Duration::from_millis(20)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));

        let other = interrupt.clone();
        let raiser = std::thread::spawn(move || other.raise());
        assert_eq!(interrupt.sleep(Duration::from_secs(60)), Err(Interrupted));
        raiser.join().unwrap();
        assert_eq!(interrupt.check(), Err(Interrupted));
    }
}
