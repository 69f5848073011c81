//! A guest that is controlled by lines and answers them, whatever it runs in, with a time limit on every answer.

use std::fmt;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use huddle_guest::protocol::{Command, Pace, Reading, Reply};

use super::running::{Instance, Running};
use super::{Guest, GuestData, GuestError, GuestId, Reader, TimeLimits};
use crate::interrupt::Interrupt;

/// The message that a guest sends first.
const READY: &str = "ready";

/// How often the wait for an answer checks whether the run is interrupted.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often it checks whether the guest has ended: one may end and leave its connection open.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The connection to a guest.
pub(super) struct Connection {
    /// Takes the commands to the guest.
    pub(super) input: Box<dyn Write + Send>,
    /// Its answers, a line each.
    pub(super) answers: Receiver<String>,
}

/// A running guest that is controlled by lines. Dropping it ends it.
pub struct ProtocolGuest<I: Instance> {
    running: Running<I>,
    connection: Connection,
    limits: TimeLimits,
    interrupt: Interrupt,
}

impl<I: Instance> fmt::Debug for ProtocolGuest<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.running.fmt(f)
    }
}

impl<I: Instance> ProtocolGuest<I> {
    /// Controls `running` over `connection`. `interrupt` ends every waiting for it.
    pub(super) fn new(
        running: Running<I>,
        connection: Connection,
        limits: TimeLimits,
        interrupt: Interrupt,
    ) -> Self {
        Self { running, connection, limits, interrupt }
    }

    /// What it runs in.
    pub(super) fn instance(&self) -> &I {
        &self.running.instance
    }

    /// Stops reading and reports what each vCPU has done since it was started.
    ///
    /// # Errors
    /// It does not answer, or does not read.
    pub fn stop_reading(&mut self) -> Result<Vec<Reading>, GuestError> {
        match self.send(Command::Stop, self.limits.answer)? {
            Reply::Stopped { vcpus } => Ok(vcpus),
            other => Err(self.unexpected(Command::Stop.word(), &other)),
        }
    }

    fn send(&mut self, command: Command, limit: Duration) -> Result<Reply, GuestError> {
        let word = command.word();
        // One write a line: a terminal takes each on its own.
        let line = command.line() + "\n";
        if self
            .connection
            .input
            .write_all(line.as_bytes())
            .and_then(|()| self.connection.input.flush())
            .is_err()
        {
            // A pipe without a reader: the guest is gone.
            return Err(self.ended(word));
        }
        self.answer(word, limit)
    }

    fn answer(&mut self, command: &'static str, limit: Duration) -> Result<Reply, GuestError> {
        match self.next_line(limit)? {
            Ok(line) => serde_json::from_str(&line).map_err(|_| self.running.unexpected(command, line)),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended(command)),
            Err(RecvTimeoutError::Timeout) => {
                self.running.instance.end();
                Err(self.running.timed_out(command, limit))
            }
        }
    }

    /// The next line of its answers, if it comes before the limit.
    fn next_line(&mut self, limit: Duration) -> Result<Result<String, RecvTimeoutError>, GuestError> {
        let until = Instant::now() + limit;
        let mut checked = Instant::now();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.connection.answers.recv_timeout(left.min(POLL_INTERVAL)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => self.interrupt.check()?,
                outcome => return Ok(outcome),
            }
            if checked.elapsed() >= CHECK_INTERVAL {
                if self.running.instance.ended().is_some() {
                    // What it has said before is an answer still.
                    let last = self.connection.answers.recv_timeout(POLL_INTERVAL);
                    return Ok(last.map_err(|_| RecvTimeoutError::Disconnected));
                }
                checked = Instant::now();
            }
        }
    }

    fn ended(&mut self, command: &'static str) -> GuestError {
        self.running.check_disconnected(command).err().unwrap_or_else(|| {
            // Its connection is closed, so it is of no use.
            self.running.instance.end();
            self.running.ended(command, "it closed its output".to_owned())
        })
    }

    fn unexpected(&self, command: &'static str, reply: &Reply) -> GuestError {
        self.running.unexpected(command, serde_json::to_string(reply).unwrap_or_default())
    }
}

impl<I: Instance> Guest for ProtocolGuest<I> {
    fn name(&self) -> &str {
        self.running.name()
    }

    fn id(&self) -> GuestId {
        self.running.id()
    }

    fn wait_ready(&mut self) -> Result<(), GuestError> {
        match self.answer(READY, self.limits.ready)? {
            Reply::Ready { .. } => Ok(()),
            other => Err(self.unexpected(READY, &other)),
        }
    }

    fn check(&mut self) -> Result<(), GuestError> {
        self.running.check("what it was to do next")
    }

    fn load(&mut self, data: GuestData) -> Result<(), GuestError> {
        let GuestData { seed, own_seed, kib, cold } = data;
        let command = Command::Load { seed, own_seed, kib, cold };
        match self.send(command, self.limits.ready)? {
            Reply::Loaded { data_bytes } if data_bytes == kib * 1024 => Ok(()),
            other => Err(self.unexpected(command.word(), &other)),
        }
    }

    fn start(&mut self, pace: Pace, own: bool) -> Result<(), GuestError> {
        let command = Command::Start { pace, own };
        match self.send(command, self.limits.answer)? {
            Reply::Started => Ok(()),
            other => Err(self.unexpected(command.word(), &other)),
        }
    }

    fn stop(&mut self) -> Result<(), GuestError> {
        self.stop_reading().map(drop)
    }
}

impl<I: Instance> Reader for ProtocolGuest<I> {
    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        match self.send(Command::Read, self.limits.answer)? {
            Reply::Reading { vcpus } => Ok(vcpus),
            other => Err(self.unexpected(Command::Read.word(), &other)),
        }
    }
}
