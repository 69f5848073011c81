//! A guest that is a child process, spoken to through pipes.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc::channel;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use super::spoken::{Body, Line, SpokenGuest};
use super::{GuestError, Holder, Patience};
use crate::interrupt::Interrupt;

/// A child process. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct ChildBody {
    child: Child,
    console: Option<PathBuf>,
}

/// A guest in a child process.
pub type ChildGuest = SpokenGuest<ChildBody>;

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
        let mut body = ChildBody { child: process.spawn().map_err(failed)?, console };
        let (Some(input), Some(output)) = (body.child.stdin.take(), body.child.stdout.take()) else {
            return Err(failed(std::io::Error::other("its pipes are missing")));
        };
        let (sender, answers) = channel();
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
        let line = Line { input: Box::new(input), answers };
        Ok(Self::new(name, body, line, patience, interrupt))
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.body().pid()
    }
}

impl ChildBody {
    fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }
}

impl Body for ChildBody {
    fn holder(&self) -> Holder {
        Holder::Process(self.pid())
    }

    fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(format!("it cannot be waited for: {error}")),
        }
    }

    fn end(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn console(&self) -> Option<(String, String)> {
        let console = self.console.as_ref()?;
        let text = std::fs::read(console).unwrap_or_default();
        Some((String::from_utf8_lossy(&text).into_owned(), console.display().to_string()))
    }
}

impl Drop for ChildBody {
    fn drop(&mut self) {
        self.end();
    }
}
