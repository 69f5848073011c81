//! A guest that is a child process, controlled through pipes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc::channel;

use super::process_group::dies_with_runner;
use super::protocol_guest::{Connection, Instance, ProtocolGuest};
use super::{GuestError, Holder, Patience};
use crate::interrupt::Interrupt;

/// A child process. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct ChildInstance {
    child: Child,
    console: Option<PathBuf>,
}

/// A guest in a child process.
pub type ChildGuest = ProtocolGuest<ChildInstance>;

impl ChildGuest {
    /// Starts `process`, which is controlled on its standard input and output, without waiting until it is
    /// ready: see [`Self::wait_ready`]. `interrupt` ends every waiting for it; `console` is the file it
    /// writes its console to, if it has one.
    ///
    /// The guest dies with the thread that calls this, so that a runner that is killed leaves none behind.
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
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        dies_with_runner(&mut process, || Ok(()));
        let mut instance = ChildInstance { child: process.spawn().map_err(failed)?, console };
        let (Some(input), Some(output)) = (instance.child.stdin.take(), instance.child.stdout.take()) else {
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
        let connection = Connection { input: Box::new(input), answers };
        Ok(Self::new(name, instance, connection, patience, interrupt))
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.instance().pid()
    }
}

impl ChildInstance {
    fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }
}

impl Instance for ChildInstance {
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

impl Drop for ChildInstance {
    fn drop(&mut self) {
        self.end();
    }
}
