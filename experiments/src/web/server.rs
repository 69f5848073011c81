//! A web server as the runner sees it: a process of its own, its log and where it answers. What runs in the
//! process is [`apache`](super::apache)'s or [`vm`](super::vm)'s affair.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::guest::process_group::{dies_with_runner, tail};
use crate::guest::{GuestError, Holder};

/// A running server. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Starts `process`, without waiting until it answers at `address`. It dies with the thread that calls
    /// this, so that a runner that is killed leaves none. What it writes goes to `log`. `become_user` is called in it before its program is; only system calls may be made there.
    ///
    /// # Errors
    /// The program or its log cannot be had.
    pub(super) fn start(
        name: &str,
        mut process: Command,
        log: &Path,
        address: SocketAddr,
        become_user: impl Fn() -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Result<Self, GuestError> {
        let program = process.get_program().to_string_lossy().into_owned();
        let failed = |source| GuestError::Start { name: name.to_owned(), program: program.clone(), source };
        let output = File::options().create(true).append(true).open(log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        process.current_dir("/").stdin(Stdio::null()).stdout(output).stderr(errors);
        dies_with_runner(&mut process, become_user);
        let child = process.spawn().map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }

    /// Makes sure that it runs.
    ///
    /// # Errors
    /// It has ended: with how, and the last lines of its log.
    pub fn check(&mut self, asked: &'static str) -> Result<(), GuestError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(asked, status.to_string())),
            Err(error) => Err(self.ended(asked, error.to_string())),
        }
    }

    /// As [`Self::check`], where its connection broke: the process ends a little later.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_broken(&mut self, asked: &'static str) -> Result<(), GuestError> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            self.check(asked)?;
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ended(&self, asked: &'static str, status: String) -> GuestError {
        GuestError::Ended {
            name: self.name.clone(),
            holder: Holder::Process(self.pid()),
            asked,
            status,
            console: self.log_tail(),
        }
    }

    /// The last lines of its log, for messages; empty when there are none.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        match tail(&String::from_utf8_lossy(&text)) {
            shown if shown.is_empty() => shown,
            shown => format!("\nthe end of its log:\n  {shown}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback that nobody uses. Somebody may take it before Apache does; Apache says so then.
pub(super) fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
