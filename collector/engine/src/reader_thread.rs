//! Work that may take long and changes nothing, apart from the thread of the engine: when the loop is to end it is
//! abandoned where it is, and the engine undoes at once. So whatever a reading of the host waits for, the end does
//! not; and all that changes the host is still done by the engine's own thread, one thing after the other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use huddle_host::stop::Stop;

type Job = Box<dyn FnOnce() + Send>;

/// How often it is looked whether the loop is to end, while work goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One thread beside that of the engine, and the word that the loop is to end.
#[derive(Debug, Default)]
pub(super) struct Apart {
    stop: Stop,
    /// `None` before the first work, and where no thread can be made.
    worker: Option<Sender<Job>>,
    /// Its thread, and those of work that was abandoned.
    threads: Vec<JoinHandle<()>>,
}

impl Apart {
    /// The word that the loop is to end; setting it makes all work be abandoned.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Does `work` with what `slot` holds, and puts that back. `None` where the loop is to end and the work had not
    /// ended `grace` later; then `slot` holds `lost`, and the rest is never seen again. A panic is passed on.
    pub(super) fn run<T: ?Sized, R: Send + 'static>(
        &mut self,
        grace: Duration,
        slot: &mut Box<T>,
        lost: Box<T>,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Option<R>
    where
        Box<T>: Send + 'static,
    {
        let mut tool = std::mem::replace(slot, lost);
        let Some(worker) = self.worker() else {
            // Not apart, but done.
            let outcome = work(&mut tool);
            *slot = tool;
            return Some(outcome);
        };
        let (send, receive) = channel();
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut tool)));
            // Nobody waits for what was abandoned.
            let _ = send.send((tool, outcome));
        };
        let begun = Instant::now();
        let mut stopped = None;
        // A worker that does not take it drops it, and the sender with it.
        let _ = worker.send(Box::new(job));
        let (tool, outcome): (Box<T>, Result<R, Box<dyn Any + Send>>) = loop {
            match receive.recv_timeout(LOOK_INTERVAL) {
                Ok(done) => break done,
                Err(RecvTimeoutError::Timeout) if !self.stop.is_set() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let since = *stopped.get_or_insert_with(Instant::now);
                    if since.elapsed() >= grace {
                        tracing::info!(
                            "the loop is to end: a reading of the host that has taken {:.1} s so far is abandoned",
                            begun.elapsed().as_secs_f64()
                        );
                        self.worker = None;
                        return None;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        };
        *slot = tool;
        match outcome {
            Ok(outcome) => Some(outcome),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Waits until all that was abandoned has ended, but no longer than `patience`; whether it has.
    pub(super) fn settle(&mut self, patience: Duration) -> bool {
        // A thread that is given nothing more ends.
        self.worker = None;
        let begun = Instant::now();
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if begun.elapsed() >= patience {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }

    fn worker(&mut self) -> Option<&Sender<Job>> {
        if self.worker.is_none() {
            let (send, receive) = channel::<Job>();
            let thread = std::thread::Builder::new().name("huddle-read".to_owned());
            let started = thread.spawn(move || receive.into_iter().for_each(|job| job()));
            if let Ok(thread) = started {
                self.threads.push(thread);
                self.worker = Some(send);
            }
        }
        self.worker.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<R: Send + 'static>(
        apart: &mut Apart,
        grace_ms: u64,
        slot: &mut Box<u32>,
        work: impl FnOnce(&mut u32) -> R + Send + 'static,
    ) -> Option<R> {
        apart.run(Duration::from_millis(grace_ms), slot, Box::new(0), work)
    }

    #[test]
    fn work_is_done_apart_and_what_it_was_done_with_comes_back() {
        let (mut apart, mut slot) = (Apart::default(), Box::new(7));
        let own = std::thread::current().id();
        let other = run(&mut apart, 0, &mut slot, |tool| {
            *tool += 1;
            std::thread::current().id()
        });
        assert_ne!(other, Some(own));
        assert_eq!((*slot, run(&mut apart, 0, &mut slot, |tool| *tool)), (8, Some(8)));
        assert_eq!(run(&mut apart, 0, &mut slot, |_| std::thread::current().id()), other, "one thread");
    }

    #[test]
    fn what_takes_long_is_abandoned_when_the_loop_is_to_end() {
        let (mut apart, mut slot) = (Apart::default(), Box::new(7));
        let stop = apart.stop().clone();
        let (release, held) = channel::<()>();
        let begun = Instant::now();
        let stopping = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stop.set();
        });
        let done = run(&mut apart, 100, &mut slot, move |_| held.recv().is_ok());
        assert_eq!((done, *slot), (None, 0));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(1), "{took:?}");
        stopping.join().unwrap();
        assert!(!apart.settle(Duration::from_millis(30)), "it goes on");
        drop(release);
        assert!(apart.settle(Duration::from_secs(5)), "it ends by itself");
        // What is short is done even now, by another thread.
        assert_eq!(run(&mut apart, 100, &mut slot, |tool| *tool), Some(0));
    }

    #[test]
    fn a_panic_is_the_engines_and_the_thread_goes_on() {
        let (mut apart, mut slot) = (Apart::default(), Box::new(7));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            run(&mut apart, 0, &mut slot, |_| -> () { panic!("on purpose") })
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
        assert_eq!(run(&mut apart, 0, &mut slot, |tool| *tool), Some(7));
    }
}
