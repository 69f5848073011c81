//! A stand-in VM as the runner sees it: a child process, spoken to through pipes, with a time limit on
//! every answer.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::protocol::{Command, Reading, Reply};
use super::standin::StandinConfig;
use super::{Guest, GuestError, Patience};

/// What the guest is waited for after it was started.
const READY: &str = "ready";

/// A running `huddle-standin`. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct ProcessGuest {
    name: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    patience: Patience,
}

/// How to start a stand-in.
#[derive(Clone, Debug)]
pub struct ProcessGuestSpec {
    /// Name of the VM it stands for.
    pub name: String,
    /// The program `huddle-standin`.
    pub program: PathBuf,
    /// What it holds and how it reads.
    pub config: StandinConfig,
    /// Arguments beyond those of `config`.
    pub extra_args: Vec<String>,
    /// How long it may take to answer.
    pub patience: Patience,
}

impl ProcessGuestSpec {
    /// Starts the process without waiting until it is ready: see [`ProcessGuest::wait_ready`].
    ///
    /// The guest dies with the thread that calls this (PR_SET_PDEATHSIG, prctl(2)).
    pub fn start(&self) -> Result<ProcessGuest, GuestError> {
        let failed = |source| GuestError::Start {
            name: self.name.clone(),
            program: self.program.display().to_string(),
            source,
        };
        let config = &self.config;
        let numbers = [
            ("--data-kib", config.data_bytes as u64 / 1024),
            ("--data-seed", config.data_seed),
            ("--private-kib", config.private_bytes as u64 / 1024),
            ("--private-seed", config.private_seed),
            ("--burst-reads", config.burst_reads),
        ];
        let mut child = Process::new(&self.program)
            .args(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]))
            .args(&self.extra_args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C on the terminal is for the runner, which ends its guests itself.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(std::io::Error::other("its pipes are missing")));
        };
        let (sender, answers) = channel();
        let guest = ProcessGuest { name: self.name.clone(), child, input, answers, patience: self.patience };
        // A thread, because a pipe cannot be read with a time limit; it ends with the pipe.
        std::thread::Builder::new()
            .name(format!("answers {}", self.name))
            .spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            })
            .map_err(failed)?;
        Ok(guest)
    }
}

impl ProcessGuest {
    /// Waits until its memory is filled.
    pub fn wait_ready(&mut self) -> Result<(), GuestError> {
        match self.answer(READY, self.patience.ready)? {
            Reply::Ready { .. } => Ok(()),
            other => Err(self.unexpected(READY, &other)),
        }
    }

    fn tell(&mut self, command: Command) -> Result<Reply, GuestError> {
        let asked = command.word();
        if writeln!(self.input, "{asked}").and_then(|()| self.input.flush()).is_err() {
            // A pipe without a reader: the guest is gone.
            return Err(self.ended(asked));
        }
        self.answer(asked, self.patience.answer)
    }

    fn answer(&mut self, asked: &'static str, limit: Duration) -> Result<Reply, GuestError> {
        match self.answers.recv_timeout(limit) {
            Ok(line) => serde_json::from_str(&line).map_err(|_| GuestError::Unexpected {
                name: self.name.clone(),
                pid: self.pid(),
                asked,
                answer: line,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended(asked)),
            Err(RecvTimeoutError::Timeout) => {
                let error = GuestError::Silent {
                    name: self.name.clone(),
                    pid: self.pid(),
                    asked,
                    seconds: limit.as_secs_f64(),
                };
                self.end();
                Err(error)
            }
        }
    }

    fn ended(&mut self, asked: &'static str) -> GuestError {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            // Its pipe is closed, so it is about to end or of no use.
            _ => {
                self.end();
                "it closed its output".to_owned()
            }
        };
        GuestError::Ended { name: self.name.clone(), pid: self.pid(), asked, status }
    }

    fn unexpected(&self, asked: &'static str, reply: &Reply) -> GuestError {
        GuestError::Unexpected {
            name: self.name.clone(),
            pid: self.pid(),
            asked,
            answer: serde_json::to_string(reply).unwrap_or_default(),
        }
    }

    fn end(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest for ProcessGuest {
    fn name(&self) -> &str {
        &self.name
    }

    fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }

    fn start(&mut self) -> Result<(), GuestError> {
        match self.tell(Command::Start)? {
            Reply::Started => Ok(()),
            other => Err(self.unexpected(Command::Start.word(), &other)),
        }
    }

    fn read(&mut self) -> Result<Reading, GuestError> {
        match self.tell(Command::Read)? {
            Reply::Reading(reading) => Ok(reading),
            other => Err(self.unexpected(Command::Read.word(), &other)),
        }
    }

    fn stop(&mut self) -> Result<Reading, GuestError> {
        match self.tell(Command::Stop)? {
            Reply::Stopped(reading) => Ok(reading),
            other => Err(self.unexpected(Command::Stop.word(), &other)),
        }
    }
}

impl Drop for ProcessGuest {
    fn drop(&mut self) {
        self.end();
    }
}
