//! A thread beside the engine's, for work that may take long and changes nothing. When the loop is stopped such work
//! is abandoned, and the engine undoes its changes at once. So the end never waits for a reading of the host; and the
//! host is changed by the engine's own thread only, one change after the other.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use huddle_host::clock::ThreadClock;
use huddle_host::stop::Stop;

use super::progress::Progress;

type Job = Box<dyn FnOnce() + Send>;

/// How often the stop flag is checked while work is in progress.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The thread, and the flag that stops the loop.
#[derive(Debug, Default)]
pub(super) struct ReaderThread {
    stop: Stop,
    /// Is told which thread works.
    progress: Progress,
    /// Whether all work is done on the caller's thread.
    is_inline: bool,
    /// `None` before the first job, and if no thread can be started.
    worker: Option<Worker>,
    /// The current thread, and those of abandoned jobs.
    threads: Vec<JoinHandle<()>>,
}

/// The thread that takes jobs.
#[derive(Clone, Debug)]
struct Worker {
    jobs: Sender<Job>,
    /// `None` where the kernel does not say what a thread uses.
    clock: Option<ThreadClock>,
}

impl ReaderThread {
    /// No thread: work is done by the caller, and cannot be abandoned.
    pub(super) fn inline() -> Self {
        Self { is_inline: true, ..Self::default() }
    }

    /// The flag that stops the loop; once it is set, work is abandoned.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Is told which thread works on a step.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Runs `work` on the value in `slot`, and puts the value back. `None` if the loop is stopped and the work has not
    /// ended `grace` later; then `slot` holds `placeholder`, and the value is lost. A panic is passed on.
    pub(super) fn run<T: ?Sized, R: Send + 'static>(
        &mut self,
        grace: Duration,
        slot: &mut Box<T>,
        placeholder: Box<T>,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Option<R>
    where
        Box<T>: Send + 'static,
    {
        let Some(worker) = self.worker() else {
            // No thread could be started: the work is done here.
            return Some(work(slot));
        };
        let value = std::mem::replace(slot, placeholder);
        self.progress.work_by(worker.clock);
        let done = self.run_on(&worker.jobs, grace, value, work);
        self.progress.work_by(ThreadClock::of_this_thread());
        let (value, outcome) = done?;
        *slot = value;
        match outcome {
            Ok(outcome) => Some(outcome),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Has `work` done by the worker, and waits for it, as [`ReaderThread::run`] says.
    fn run_on<T: ?Sized, R: Send + 'static>(
        &mut self,
        worker: &Sender<Job>,
        grace: Duration,
        mut value: Box<T>,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Option<(Box<T>, std::thread::Result<R>)>
    where
        Box<T>: Send + 'static,
    {
        let (send, receive) = channel();
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut value)));
            // If it was abandoned, the receiver is gone.
            let _ = send.send((value, outcome));
        };
        let begun = Instant::now();
        let mut stopped = None;
        // A worker that has ended drops the job, and the sender with it.
        let _ = worker.send(Box::new(job));
        loop {
            match receive.recv_timeout(POLL_INTERVAL) {
                Ok(done) => return Some(done),
                Err(RecvTimeoutError::Timeout) if !self.stop.is_set() => {}
                Err(RecvTimeoutError::Timeout) => {
                    let since = *stopped.get_or_insert_with(Instant::now);
                    if since.elapsed() >= grace {
                        tracing::info!(
                            "the loop is ending: a reading of the host that has taken {:.1} s so far is abandoned",
                            begun.elapsed().as_secs_f64()
                        );
                        self.worker = None;
                        return None;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits until all abandoned work has ended, but no longer than `timeout`; whether it has.
    pub(super) fn settle(&mut self, timeout: Duration) -> bool {
        // A thread whose sender is dropped ends.
        self.worker = None;
        let begun = Instant::now();
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if begun.elapsed() >= timeout {
                return false;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        true
    }

    fn worker(&mut self) -> Option<Worker> {
        if self.worker.is_none() && !self.is_inline {
            let (send, receive) = channel::<Job>();
            let (to_here, of_thread) = channel();
            let thread = std::thread::Builder::new().name("huddle-read".to_owned());
            let started = thread.spawn(move || {
                let _ = to_here.send(ThreadClock::of_this_thread());
                receive.into_iter().for_each(|job| job());
            });
            if let Ok(thread) = started {
                self.threads.push(thread);
                self.worker = Some(Worker { jobs: send, clock: of_thread.recv().ok().flatten() });
            }
        }
        self.worker.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<R: Send + 'static>(
        reader: &mut ReaderThread,
        grace_ms: u64,
        slot: &mut Box<u32>,
        work: impl FnOnce(&mut u32) -> R + Send + 'static,
    ) -> Option<R> {
        reader.run(Duration::from_millis(grace_ms), slot, Box::new(0), work)
    }

    #[test]
    fn work_runs_on_another_thread_and_its_value_comes_back() {
        let (mut reader, mut slot) = (ReaderThread::default(), Box::new(7));
        let own = std::thread::current().id();
        let other = run(&mut reader, 0, &mut slot, |value| {
            *value += 1;
            std::thread::current().id()
        });
        assert_ne!(other, Some(own));
        assert_eq!((*slot, run(&mut reader, 0, &mut slot, |value| *value)), (8, Some(8)));
        assert_eq!(run(&mut reader, 0, &mut slot, |_| std::thread::current().id()), other, "one thread");
    }

    #[test]
    fn long_work_is_abandoned_when_the_loop_is_stopped() {
        let (mut reader, mut slot) = (ReaderThread::default(), Box::new(7));
        let stop = reader.stop().clone();
        let (release, held) = channel::<()>();
        let begun = Instant::now();
        let stopping = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stop.set();
        });
        let done = run(&mut reader, 100, &mut slot, move |_| held.recv().is_ok());
        assert_eq!((done, *slot), (None, 0));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(1), "{took:?}");
        stopping.join().unwrap();
        assert!(!reader.settle(Duration::from_millis(30)), "it is still running");
        drop(release);
        assert!(reader.settle(Duration::from_secs(5)), "it ends by itself");
        // Short work is still done, by another thread.
        assert_eq!(run(&mut reader, 100, &mut slot, |value| *value), Some(0));
    }

    #[test]
    fn a_panic_is_passed_on_and_the_thread_goes_on() {
        let (mut reader, mut slot) = (ReaderThread::default(), Box::new(7));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            run(&mut reader, 0, &mut slot, |_| -> () { panic!("on purpose") })
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
        assert_eq!(run(&mut reader, 0, &mut slot, |value| *value), Some(7));
    }
}
