//! Guests in child processes, and those of them that are controlled through pipes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc::channel;

use nix::errno::Errno;

use super::process_group::dies_with_runner;
use super::protocol_guest::{Connection, ProtocolGuest};
use super::running::{Instance, Running};
use super::{GuestError, GuestId, TimeLimits};
use crate::interrupt::Interrupt;

/// A child process. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    output: Option<(PathBuf, String)>,
}

impl ChildProcess {
    /// Starts `process` for the guest `name`. It dies with the thread that calls this, so that a runner that is
    /// killed leaves none behind. `prepare` is called in it before its program is; only system calls may be made
    /// there. `output` is the file that its console or log is written to, and what messages call that.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(
        name: &str,
        mut process: Process,
        output: Option<(PathBuf, String)>,
        prepare: impl Fn() -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Result<Self, GuestError> {
        dies_with_runner(&mut process, prepare);
        let child =
            process.spawn().map_err(|source| GuestError::start(name, process.get_program(), source))?;
        Ok(Self { child, output })
    }

    /// Its id.
    pub fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }
}

/// A guest in a child process that is controlled through pipes.
pub type ChildGuest = ProtocolGuest<ChildProcess>;

impl ChildGuest {
    /// Starts `process`, which is controlled on its standard input and output, without waiting until it is
    /// ready: see [`Guest::wait_ready`](super::Guest::wait_ready). `interrupt` ends every waiting for it;
    /// `console` is the file it writes its console to, if it has one.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        name: &str,
        mut process: Process,
        limits: TimeLimits,
        interrupt: Interrupt,
        console: Option<PathBuf>,
    ) -> Result<Self, GuestError> {
        let program = process.get_program().to_owned();
        let failed = |source| GuestError::start(name, &program, source);
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let output = console.map(|path| (path.clone(), format!("console ({})", path.display())));
        let mut instance = ChildProcess::spawn(name, process, output, || Ok(()))?;
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
        Ok(Self::new(Running::new(name, instance), connection, limits, interrupt))
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.instance().pid()
    }
}

impl Instance for ChildProcess {
    fn id(&self) -> GuestId {
        GuestId::Process(self.pid())
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

    fn output(&self) -> Option<(String, String)> {
        let (path, name) = self.output.as_ref()?;
        let text = std::fs::read(path).unwrap_or_default();
        Some((String::from_utf8_lossy(&text).into_owned(), name.clone()))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.end();
    }
}
