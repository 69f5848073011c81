//! The process of a web server, its log and where it answers. What runs in the process is up to
//! [`apache`](super::apache) and [`vm`](super::vm).

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;

use crate::guest::GuestError;
use crate::guest::child::ChildProcess;
use crate::guest::running::Running;

/// A running server. Dropping it ends the process and waits for that.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub process: Running<ChildProcess>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts `process`, without waiting until it answers at `address`. Its output is appended to `log`.
    /// `become_user` is called as [`ChildProcess::spawn`] says.
    ///
    /// # Errors
    /// The program cannot be started, or its log not be written.
    pub(super) fn start(
        name: &str,
        mut process: Command,
        log: &Path,
        address: SocketAddr,
        become_user: impl Fn() -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Result<Self, GuestError> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.and_then(|output| Ok((output.try_clone()?, output)));
        let (output, errors) = output.map_err(|source| GuestError::start(name, log, source))?;
        process.current_dir("/").stdin(Stdio::null()).stdout(output).stderr(errors);
        let child =
            ChildProcess::spawn(name, process, Some((log.to_owned(), "log".to_owned())), become_user)?;
        Ok(Self { process: Running::new(name, child), address })
    }
}

/// A port of the loopback that nobody uses. Somebody may take it before Apache does; Apache says so then.
pub(super) fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
