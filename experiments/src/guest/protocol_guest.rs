//! A guest as the runner sees it, whatever it is: it receives lines and answers them, with a time limit on every
//! answer.

use std::fmt;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use huddle_guest::protocol::{Command, Pace, Reading, Reply};

use super::process_group::tail;
use super::{Guest, GuestData, GuestError, Holder, Patience};
use crate::interrupt::Interrupt;

/// What the guest is waited for after it was started.
const READY: &str = "ready";

/// How often the waiting for an answer looks whether the run shall end.
const LOOK: Duration = Duration::from_millis(50);

/// How often it looks whether the guest is still there: one may end and leave its connection open.
const LOOK_FOR_END: Duration = Duration::from_secs(1);

/// What a guest runs in. Dropping it ends it.
pub trait Instance {
    /// What the host knows it as.
    fn holder(&self) -> Holder;

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<String>;

    /// Ends it and waits for that. It may have ended already.
    fn end(&mut self);

    /// What it has said on its console, and the name of that; `None` if it has none.
    fn console(&self) -> Option<(String, String)>;
}

/// The connection to a guest.
pub(super) struct Connection {
    /// Takes the commands to the guest.
    pub(super) input: Box<dyn Write + Send>,
    /// Its answers, a line each.
    pub(super) answers: Receiver<String>,
}

/// A running guest. Dropping it ends it.
pub struct ProtocolGuest<B: Instance> {
    name: String,
    instance: B,
    connection: Connection,
    patience: Patience,
    interrupt: Interrupt,
}

impl<B: Instance> fmt::Debug for ProtocolGuest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.instance.holder())
    }
}

impl<B: Instance> ProtocolGuest<B> {
    /// The guest in `instance`. `interrupt` ends every waiting for it.
    pub(super) fn new(
        name: &str,
        instance: B,
        connection: Connection,
        patience: Patience,
        interrupt: Interrupt,
    ) -> Self {
        Self { name: name.to_owned(), instance, connection, patience, interrupt }
    }

    /// Waits until it is up.
    ///
    /// # Errors
    /// It ended or did not say so in time.
    pub fn wait_ready(&mut self) -> Result<(), GuestError> {
        match self.answer(READY, self.patience.ready)? {
            Reply::Ready { .. } => Ok(()),
            other => Err(self.unexpected(READY, &other)),
        }
    }

    /// What it runs in.
    pub(super) fn instance(&self) -> &B {
        &self.instance
    }

    fn tell(&mut self, command: Command, limit: Duration) -> Result<Reply, GuestError> {
        let asked = command.word();
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
            return Err(self.ended(asked));
        }
        self.answer(asked, limit)
    }

    fn answer(&mut self, asked: &'static str, limit: Duration) -> Result<Reply, GuestError> {
        match self.next_line(limit)? {
            Ok(line) => serde_json::from_str(&line).map_err(|_| GuestError::Unexpected {
                name: self.name.clone(),
                holder: self.instance.holder(),
                asked,
                answer: line,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended(asked)),
            Err(RecvTimeoutError::Timeout) => {
                self.instance.end();
                Err(GuestError::Silent {
                    name: self.name.clone(),
                    holder: self.instance.holder(),
                    asked,
                    seconds: limit.as_secs_f64(),
                    console: self.console_tail(),
                })
            }
        }
    }

    /// The next line of its answers, if it comes before the limit.
    fn next_line(&mut self, limit: Duration) -> Result<Result<String, RecvTimeoutError>, GuestError> {
        let until = Instant::now() + limit;
        let mut looked = Instant::now();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.connection.answers.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => self.interrupt.check()?,
                outcome => return Ok(outcome),
            }
            if looked.elapsed() >= LOOK_FOR_END {
                if self.instance.ended().is_some() {
                    // What it has said before is an answer still.
                    let last = self.connection.answers.recv_timeout(LOOK);
                    return Ok(last.map_err(|_| RecvTimeoutError::Disconnected));
                }
                looked = Instant::now();
            }
        }
    }

    fn ended(&mut self, asked: &'static str) -> GuestError {
        let status = match self.ended_by_itself() {
            Some(status) => status,
            // Its connection is closed, so it is of no use.
            None => {
                self.instance.end();
                "it closed its output".to_owned()
            }
        };
        GuestError::Ended {
            name: self.name.clone(),
            holder: self.instance.holder(),
            asked,
            status,
            console: self.console_tail(),
        }
    }

    /// How it ended, if it does so within a moment: its connection closes a little before.
    fn ended_by_itself(&mut self) -> Option<String> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            match self.instance.ended() {
                Some(status) => return Some(status),
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                None => return None,
            }
        }
    }

    fn console_tail(&self) -> String {
        let Some((text, place)) = self.instance.console() else { return String::new() };
        format!("\nthe end of its console ({place}):\n  {}", tail(&text))
    }

    fn unexpected(&self, asked: &'static str, reply: &Reply) -> GuestError {
        GuestError::Unexpected {
            name: self.name.clone(),
            holder: self.instance.holder(),
            asked,
            answer: serde_json::to_string(reply).unwrap_or_default(),
        }
    }
}

impl<B: Instance> Guest for ProtocolGuest<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn holder(&self) -> Holder {
        self.instance.holder()
    }

    fn check(&mut self) -> Result<(), GuestError> {
        match self.instance.ended() {
            None => Ok(()),
            Some(_) => Err(self.ended("what it was to do next")),
        }
    }

    fn load(&mut self, data: GuestData) -> Result<(), GuestError> {
        let GuestData { seed, own_seed, kib } = data;
        let command = Command::Load { seed, own_seed, kib };
        match self.tell(command, self.patience.ready)? {
            Reply::Loaded { data_bytes } if data_bytes == kib * 1024 => Ok(()),
            other => Err(self.unexpected(command.word(), &other)),
        }
    }

    fn start(&mut self, pace: Pace, own: bool) -> Result<(), GuestError> {
        let command = Command::Start { pace, own };
        match self.tell(command, self.patience.answer)? {
            Reply::Started => Ok(()),
            other => Err(self.unexpected(command.word(), &other)),
        }
    }

    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        match self.tell(Command::Read, self.patience.answer)? {
            Reply::Reading { vcpus } => Ok(vcpus),
            other => Err(self.unexpected(Command::Read.word(), &other)),
        }
    }

    fn stop(&mut self) -> Result<Vec<Reading>, GuestError> {
        match self.tell(Command::Stop, self.patience.answer)? {
            Reply::Stopped { vcpus } => Ok(vcpus),
            other => Err(self.unexpected(Command::Stop.word(), &other)),
        }
    }
}
