//! The vCPUs of a guest: threads that read its data between start and stop.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::chase;
use crate::memory::MergeableMemory;
use crate::protocol::{Pace, Reading};

/// What to read, and how.
#[derive(Clone)]
struct Job {
    data: Arc<MergeableMemory>,
    pace: Pace,
}

#[derive(Default)]
struct State {
    up: usize,
    /// Counts starts, so that a worker takes each job once.
    generation: u64,
    job: Option<Job>,
    working: usize,
    readings: Vec<Reading>,
    failure: Option<String>,
}

/// What the workers are to do, and what they have done.
#[derive(Default)]
struct WorkerSync {
    state: Mutex<State>,
    changed: Condvar,
}

impl WorkerSync {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is a few plain values, whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(&'a self, waits: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        let mut state = self.lock();
        while waits(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

/// The vCPU threads of a guest. They end with the process.
pub struct Workers {
    sync: Arc<WorkerSync>,
    vcpus: usize,
}

/// A command that makes no sense now, or a worker that failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// Started twice.
    #[error("reads already")]
    ReadsAlready,
    /// A command about reading while it did not read.
    #[error("does not read")]
    DoesNotRead,
    /// An empty burst would never end.
    #[error("a burst needs at least one read")]
    EmptyBurst,
    /// A worker could not go on.
    #[error("{0}")]
    Failed(String),
}

impl Workers {
    /// Starts `vcpus` threads called `NAME(i)`, each of which first calls `at_start(i)`. Returns when all
    /// of them are up under their names.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        vcpus: usize,
        name: impl Fn(usize) -> String,
        at_start: fn(usize) -> Result<(), String>,
    ) -> std::io::Result<Self> {
        let sync = Arc::new(WorkerSync::default());
        sync.lock().readings = vec![Reading::default(); vcpus];
        for vcpu in 0..vcpus {
            let worker = Worker { vcpu, vcpus, sync: Arc::clone(&sync) };
            std::thread::Builder::new().name(name(vcpu)).spawn(move || worker.run(at_start))?;
        }
        // A thread takes its name itself, after it was started: discovery must not come before that.
        drop(sync.wait_while(|state| state.up < vcpus));
        Ok(Self { sync, vcpus })
    }

    /// How many there are.
    pub fn vcpus(&self) -> usize {
        self.vcpus
    }

    /// Whether they read.
    pub fn is_reading(&self) -> bool {
        self.sync.lock().job.is_some()
    }

    /// Makes all of them read `data` from the beginning, counters at 0.
    ///
    /// # Errors
    /// They read already, or a worker failed.
    pub fn read(&self, data: Arc<MergeableMemory>, pace: Pace) -> Result<(), WorkError> {
        if pace.burst_reads == 0 {
            return Err(WorkError::EmptyBurst);
        }
        let mut state = self.sync.lock();
        if state.job.is_some() {
            return Err(WorkError::ReadsAlready);
        }
        state.job = Some(Job { data, pace });
        state.generation += 1;
        state.readings.fill(Reading::default());
        self.sync.changed.notify_all();
        drop(state);
        let vcpus = self.vcpus;
        let state = self.sync.wait_while(|state| state.working < vcpus && state.failure.is_none());
        failure(&state)
    }

    /// What each has done.
    ///
    /// # Errors
    /// They do not read, or a worker failed.
    pub fn readings(&self) -> Result<Vec<Reading>, WorkError> {
        let state = self.sync.lock();
        failure(&state)?;
        if state.job.is_none() { Err(WorkError::DoesNotRead) } else { Ok(state.readings.clone()) }
    }

    /// Stops all of them and reports what each has done.
    ///
    /// # Errors
    /// They do not read, or a worker failed.
    pub fn stop(&self) -> Result<Vec<Reading>, WorkError> {
        if self.sync.lock().job.take().is_none() {
            return Err(WorkError::DoesNotRead);
        }
        let state = self.sync.wait_while(|state| state.working > 0 && state.failure.is_none());
        failure(&state)?;
        Ok(state.readings.clone())
    }
}

fn failure(state: &State) -> Result<(), WorkError> {
    state.failure.as_ref().map_or(Ok(()), |why| Err(WorkError::Failed(why.clone())))
}

struct Worker {
    vcpu: usize,
    vcpus: usize,
    sync: Arc<WorkerSync>,
}

impl Worker {
    fn run(self, at_start: fn(usize) -> Result<(), String>) {
        let begun = at_start(self.vcpu);
        self.sync.lock().up += 1;
        self.sync.changed.notify_all();
        let failed = match begun {
            Ok(()) => self.work().map_err(|errno| format!("cannot read a clock: {errno}")).err(),
            Err(why) => Some(why),
        };
        self.sync.lock().failure = failed;
        self.sync.changed.notify_all();
    }

    fn work(&self) -> Result<(), nix::Error> {
        let mut seen = 0;
        loop {
            let mut state = self.sync.wait_while(|state| state.generation == seen || state.job.is_none());
            seen = state.generation;
            let Some(job) = state.job.clone() else { continue };
            state.working += 1;
            self.sync.changed.notify_all();
            drop(state);
            self.read_until_stopped(&job)?;
        }
    }

    fn read_until_stopped(&self, job: &Job) -> Result<(), nix::Error> {
        let started_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let started_busy_ns = now_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let words = job.data.words();
        // The vCPUs of one guest begin at equal distances along its data.
        let mut position = words.len() / chase::NODE_WORDS * self.vcpu / self.vcpus * chase::NODE_WORDS;
        let mut reads = 0;
        loop {
            position = chase::walk(words, position, job.pace.burst_reads);
            reads += job.pace.burst_reads;
            let reading = Reading {
                reads,
                elapsed_ns: now_ns(ClockId::CLOCK_MONOTONIC)? - started_ns,
                busy_ns: now_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)? - started_busy_ns,
                position: position as u64,
            };
            let mut state = self.sync.lock();
            state.readings[self.vcpu] = reading;
            if state.job.is_none() {
                state.working -= 1;
                self.sync.changed.notify_all();
                return Ok(());
            }
            drop(state);
            match job.pace.idle_us {
                0 => std::thread::yield_now(),
                idle_us => std::thread::sleep(Duration::from_micros(idle_us)),
            }
        }
    }
}

fn now_ns(clock: ClockId) -> Result<u64, nix::Error> {
    let time = clock_gettime(clock)?;
    // Neither clock is ever negative (clock_gettime(2)).
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
