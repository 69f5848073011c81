//! The inside of a stand-in VM: memory, a worker thread named like a vCPU, and the loop that obeys.

use std::io::{BufRead, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::time::{ClockId, clock_gettime};

use super::memory::{MemoryError, MergeableMemory};
use super::protocol::{Command, Reading, Reply};
use crate::chase;

/// The name of the worker thread: the form QEMU gives a vCPU thread (`CPU 0/KVM`).
pub const VCPU_THREAD_NAME: &str = "CPU 0/STANDIN";

/// What a stand-in holds and how it reads.
#[derive(Clone, Copy, Debug)]
pub struct StandinConfig {
    /// Bytes of the data that is read; a whole number of pages.
    pub data_bytes: usize,
    /// Seed of that data: guests of one seed hold the same.
    pub data_seed: u64,
    /// Bytes of memory that no other guest holds, filled once and then left alone; a whole number of
    /// pages.
    pub private_bytes: usize,
    /// Seed of that memory.
    pub private_seed: u64,
    /// Dependent reads between two `sched_yield(2)`.
    pub burst_reads: u64,
}

/// What stops a stand-in.
#[derive(Debug, thiserror::Error)]
pub enum StandinError {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No thread, or no way to speak with the runner.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The clock cannot be read.
    #[error("cannot read a clock: {0}")]
    Clock(#[from] nix::Error),
    /// A burst of nothing would never end.
    #[error("a burst needs at least one read")]
    EmptyBurst,
}

/// Serves one runner until its input ends.
pub fn serve(config: StandinConfig, input: impl BufRead, mut output: impl Write) -> Result<(), StandinError> {
    if config.burst_reads == 0 {
        return Err(StandinError::EmptyBurst);
    }
    let mut data = MergeableMemory::map(config.data_bytes)?;
    chase::fill(data.words_mut(), config.data_seed);
    let mut private = MergeableMemory::map(config.private_bytes)?;
    chase::fill_noise(private.words_mut(), config.private_seed);

    let desk = Arc::new(Desk::default());
    let worker = Worker { data, burst_reads: config.burst_reads, desk: Arc::clone(&desk) };
    std::thread::Builder::new()
        .name(VCPU_THREAD_NAME.to_owned())
        .spawn(move || worker.run())
        .map_err(|error| StandinError::Io("cannot start the vCPU thread", error))?;
    // A thread takes its name itself, after it was started: discovery must not come before that.
    desk.wait_until_up();

    let ready =
        Reply::Ready { data_bytes: config.data_bytes as u64, private_bytes: config.private_bytes as u64 };
    answer(&mut output, &ready)?;
    for line in input.lines() {
        let line = line.map_err(|error| StandinError::Io("cannot read what to do", error))?;
        let reply = match Command::parse(&line) {
            Some(command) => desk.obey(command),
            None => Reply::Error { message: format!("no such command: {line:?}") },
        };
        answer(&mut output, &reply)?;
    }
    Ok(())
}

fn answer(output: &mut impl Write, reply: &Reply) -> Result<(), StandinError> {
    let io = |error| StandinError::Io("cannot answer", error);
    let line = serde_json::to_string(reply).map_err(|error| io(error.into()))?;
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(io)
}

/// What the worker shall do, and what it has done.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    up: bool,
    wanted: bool,
    working: bool,
    reading: Reading,
    failure: Option<String>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is a few plain values, whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_up(&self) {
        let mut state = self.lock();
        while !state.up {
            state = self.wait(state);
        }
    }

    fn obey(&self, command: Command) -> Reply {
        let mut state = self.lock();
        if command == Command::Start && state.wanted {
            return Reply::Error { message: "reads already".into() };
        }
        if command != Command::Start && !state.wanted {
            return Reply::Error { message: "does not read".into() };
        }
        let wanted = command != Command::Stop;
        state.wanted = wanted;
        self.changed.notify_all();
        while state.working != wanted && state.failure.is_none() {
            state = self.wait(state);
        }
        match (&state.failure, command) {
            (Some(message), _) => Reply::Error { message: message.clone() },
            (None, Command::Start) => Reply::Started,
            (None, Command::Read) => Reply::Reading(state.reading),
            (None, Command::Stop) => Reply::Stopped(state.reading),
        }
    }
}

struct Worker {
    data: MergeableMemory,
    burst_reads: u64,
    desk: Arc<Desk>,
}

impl Worker {
    fn run(self) {
        if let Err(error) = self.work() {
            self.desk.lock().failure = Some(error.to_string());
            self.desk.changed.notify_all();
        }
    }

    fn work(&self) -> Result<(), StandinError> {
        self.desk.lock().up = true;
        self.desk.changed.notify_all();
        loop {
            let mut state = self.desk.lock();
            while !state.wanted {
                state = self.desk.wait(state);
            }
            state.reading = Reading::default();
            state.working = true;
            self.desk.changed.notify_all();
            drop(state);
            self.read_until_stopped()?;
        }
    }

    fn read_until_stopped(&self) -> Result<(), StandinError> {
        let started_ns = now_ns(ClockId::CLOCK_MONOTONIC)?;
        let started_busy_ns = now_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let (mut position, mut reads) = (0, 0);
        loop {
            position = chase::walk(self.data.words(), position, self.burst_reads);
            reads += self.burst_reads;
            let reading = Reading {
                reads,
                elapsed_ns: now_ns(ClockId::CLOCK_MONOTONIC)? - started_ns,
                busy_ns: now_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)? - started_busy_ns,
                position: position as u64,
            };
            let mut state = self.desk.lock();
            state.reading = reading;
            if !state.wanted {
                state.working = false;
                self.desk.changed.notify_all();
                return Ok(());
            }
            drop(state);
            std::thread::yield_now();
        }
    }
}

fn now_ns(clock: ClockId) -> Result<u64, nix::Error> {
    let time = clock_gettime(clock)?;
    // Neither clock is ever negative (clock_gettime(2)).
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
