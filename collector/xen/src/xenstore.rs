//! Names and consoles of domains from xenstore, over the socket of its daemon.
//!
//! Xen's own library for this (libxenstore) waits forever if the daemon hangs, so huddle implements the
//! protocol itself, for one kind of request and with a time limit: docs/misc/xenstore.txt and
//! xen/include/public/io/xs_wire.h (Xen 4.17). Requests are answered in order, but events of watches may come
//! in between; this client sets no watch and skips them. A xenstored that runs in its own domain has no
//! socket.

pub mod reply;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use self::reply::{Reply, ReplyError};
use super::plain;
use super::toolstack::XenError;
use huddle_host::HostRoot;
use huddle_host::socket::{self, Timed};

/// How long an answer may take; xenstored answers in well below a millisecond.
const LIMIT: Duration = Duration::from_secs(2);

/// A client of xenstored: connects at the first request, and again after a restart of the daemon.
#[derive(Debug)]
pub struct Xenstore {
    paths: Vec<PathBuf>,
    limit: Duration,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    last_request: u32,
}

impl Xenstore {
    /// A client of the host's daemon, found through the root directory of the host's first process, so that
    /// huddle in a container finds it, too. Connects later.
    pub fn new(root: &HostRoot) -> Self {
        let paths = ["1/root/run/xenstored/socket", "1/root/var/run/xenstored/socket"];
        Self { paths: paths.map(|path| root.proc(path)).into(), limit: LIMIT, connection: Mutex::new(None) }
    }

    /// The name of a domain (`/local/domain/ID/name`), with `?` for characters that could upset a terminal;
    /// `None` if it has none.
    ///
    /// # Errors
    /// [`XenError::TimedOut`] if the daemon hangs, [`XenError::NoAccess`] and [`XenError::Xenstore`] if it
    /// cannot be reached or refuses, [`XenError::Answer`] if its answer cannot be parsed.
    pub fn domain_name(&self, id: u16) -> Result<Option<String>, XenError> {
        let value = self.read(&format!("/local/domain/{id}/name"))?;
        let name = value.map(|value| plain(&String::from_utf8_lossy(&value)));
        Ok(name.filter(|name| !name.trim().is_empty()))
    }

    /// The terminal that xenconsoled made for a domain's first console (`/local/domain/ID/console/tty`);
    /// `None` if it has not made one yet.
    ///
    /// # Errors
    /// As [`Self::domain_name`].
    pub fn console(&self, id: u16) -> Result<Option<PathBuf>, XenError> {
        let value = self.read(&format!("/local/domain/{id}/console/tty"))?;
        let path = value.map(|value| PathBuf::from(OsString::from_vec(value)));
        // Only dom0's daemon writes it; a relative path could be anyone's.
        Ok(path.filter(|path| path.is_absolute()))
    }

    /// The value at `path`; `None` if there is no such path.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, XenError> {
        let deadline = Instant::now() + self.limit;
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_fresh = kept.is_none();
        loop {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect()?,
            };
            // After a failure the connection is not kept: its next bytes may belong to the old answer.
            match connection.read(path, deadline) {
                Ok(reply) => {
                    *kept = Some(connection);
                    return value(path, reply);
                }
                // The daemon closed the connection: it was restarted or has ended.
                Err(ReplyError::Io(error)) if !socket::is_timeout(&error) && !is_fresh => is_fresh = true,
                Err(error) => return Err(self.error(path, error)),
            }
        }
    }

    fn connect(&self) -> Result<Connection, XenError> {
        let mut last = None;
        for path in &self.paths {
            match socket::connect(path) {
                Ok(stream) => return Ok(Connection { stream, last_request: 0 }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let path = path.display();
                    return Err(XenError::Xenstore(format!("{path} accepts no connections; does it hang?")));
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let errno = error.raw_os_error().map_or(Errno::EACCES, Errno::from_raw);
                    return Err(XenError::NoAccess { path: path.clone(), errno });
                }
                Err(error) => last = last.or(Some(format!("cannot connect to {}: {error}", path.display()))),
            }
        }
        let why = last.unwrap_or_else(|| "it has no socket".to_owned());
        Err(XenError::Xenstore(format!("{why}; is xenstored running?")))
    }

    fn error(&self, path: &str, error: ReplyError) -> XenError {
        match error {
            ReplyError::Io(error) if socket::is_timeout(&error) => {
                XenError::TimedOut { what: format!("xenstore, asked for {path},"), after: self.limit }
            }
            ReplyError::Io(error) => {
                XenError::Xenstore(format!("it closed the connection when asked for {path}: {error}"))
            }
            ReplyError::Protocol(text) => {
                XenError::Answer { what: format!("xenstore's answer about {path}"), text: plain(&text) }
            }
        }
    }
}

/// The value in a reply; `None` if there is no such path.
fn value(path: &str, reply: Reply) -> Result<Option<Vec<u8>>, XenError> {
    match reply {
        Reply::Value(value) => Ok(Some(value)),
        Reply::Error(name) if name == b"ENOENT" => Ok(None),
        Reply::Error(name) => {
            Err(XenError::Xenstore(format!("{} for {path}", plain(&String::from_utf8_lossy(&name)))))
        }
    }
}

impl Connection {
    /// Asks for `path`.
    fn read(&mut self, path: &str, deadline: Instant) -> Result<Reply, ReplyError> {
        self.last_request = self.last_request.wrapping_add(1);
        let request = self.last_request;
        // Paths end with a NUL, which counts (docs/misc/xenstore.txt, `READ`: `<path>|`).
        let length = u32::try_from(path.len() + 1).map_err(|_| ReplyError::Protocol(path.to_owned()))?;
        let mut message: Vec<u8> =
            [reply::XS_READ, request, 0, length].into_iter().flat_map(u32::to_ne_bytes).collect();
        message.extend_from_slice(path.as_bytes());
        message.push(0);
        let mut stream = Timed::new(&self.stream, deadline);
        stream.write_all(&message)?;
        reply::read(&mut stream, request)
    }
}

#[cfg(test)]
mod tests;
