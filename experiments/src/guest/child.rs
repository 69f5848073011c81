//! A guest as the runner sees it, whatever it is: a child process, spoken to through pipes, with a time
//! limit on every answer.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use huddle_guest::protocol::{Command, Pace, Reading, Reply};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use super::{Guest, GuestData, GuestError, Patience};
use crate::interrupt::Interrupt;

/// What the guest is waited for after it was started.
const READY: &str = "ready";

/// How often the waiting for an answer looks whether the run shall end.
const LOOK: Duration = Duration::from_millis(50);

/// Lines of a console that are shown when its guest dies.
const CONSOLE_LINES: usize = 15;

/// A running guest. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct ChildGuest {
    name: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    patience: Patience,
    interrupt: Interrupt,
    console: Option<PathBuf>,
}

impl ChildGuest {
    /// Starts `process`, which is spoken to on its standard input and output, without waiting until it is
    /// ready: see [`Self::wait_ready`]. `interrupt` ends every waiting for it; `console` is the file it
    /// writes its console to, if it has one.
    ///
    /// The guest dies with the thread that calls this (PR_SET_PDEATHSIG, prctl(2)), so that a runner that
    /// is killed leaves none behind.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        name: &str,
        mut process: Process,
        patience: Patience,
        interrupt: Interrupt,
        console: Option<PathBuf>,
    ) -> Result<Self, GuestError> {
        let program = process.get_program().to_string_lossy().into_owned();
        let failed = |source| GuestError::Start { name: name.to_owned(), program: program.clone(), source };
        process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C on the terminal is for the runner, which ends its guests itself.
            .process_group(0);
        let parent = nix::unistd::getpid();
        // SAFETY: only system calls between fork and exec: no allocation, no lock.
        unsafe {
            process.pre_exec(move || {
                // The runner blocks signals in its threads, and a child inherits that (execve(2)).
                SigSet::all().thread_unblock()?;
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // Huge pages merge only once they are split.
                prctl::set_thp_disable(true)?;
                // The runner may have died before the signal was asked for.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
            });
        }
        let mut child = process.spawn().map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(std::io::Error::other("its pipes are missing")));
        };
        let (sender, answers) = channel();
        let guest = Self { name: name.to_owned(), child, input, answers, patience, interrupt, console };
        // A thread, because a pipe cannot be read with a time limit; it ends with the pipe.
        std::thread::Builder::new()
            .name(format!("answers {name}"))
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

    fn tell(&mut self, command: Command, limit: Duration) -> Result<Reply, GuestError> {
        let asked = command.word();
        if writeln!(self.input, "{}", command.line()).and_then(|()| self.input.flush()).is_err() {
            // A pipe without a reader: the guest is gone.
            return Err(self.ended(asked));
        }
        self.answer(asked, limit)
    }

    fn answer(&mut self, asked: &'static str, limit: Duration) -> Result<Reply, GuestError> {
        match self.next_line(limit)? {
            Ok(line) => serde_json::from_str(&line).map_err(|_| GuestError::Unexpected {
                name: self.name.clone(),
                pid: self.pid(),
                asked,
                answer: line,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended(asked)),
            Err(RecvTimeoutError::Timeout) => {
                self.end();
                Err(GuestError::Silent {
                    name: self.name.clone(),
                    pid: self.pid(),
                    asked,
                    seconds: limit.as_secs_f64(),
                    console: self.last_words(),
                })
            }
        }
    }

    /// The next line of its answers, if it comes before the limit.
    fn next_line(&self, limit: Duration) -> Result<Result<String, RecvTimeoutError>, GuestError> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => self.interrupt.check()?,
                outcome => return Ok(outcome),
            }
        }
    }

    fn ended(&mut self, asked: &'static str) -> GuestError {
        let status = match self.ended_by_itself() {
            Some(status) => status,
            // Its pipe is closed, so it is of no use.
            None => {
                self.end();
                "it closed its output".to_owned()
            }
        };
        GuestError::Ended {
            name: self.name.clone(),
            pid: self.pid(),
            asked,
            status,
            console: self.last_words(),
        }
    }

    /// How it ended, if it does so within a moment: its pipes close a little before.
    fn ended_by_itself(&mut self) -> Option<String> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status.to_string()),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }

    fn last_words(&self) -> String {
        let Some(console) = &self.console else { return String::new() };
        let text = std::fs::read(console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let shown = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n  ");
        format!("\nthe end of its console ({}):\n  {shown}", console.display())
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

impl Guest for ChildGuest {
    fn name(&self) -> &str {
        &self.name
    }

    fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }

    fn check(&mut self) -> Result<(), GuestError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.ended("what it was to do next")),
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

impl Drop for ChildGuest {
    fn drop(&mut self) {
        self.end();
    }
}
