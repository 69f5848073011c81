//! The names and consoles of domains from xenstore, over the socket of its daemon.
//!
//! Xen's own library for this (libxenstore) waits for ever where the daemon hangs, so huddle speaks the protocol
//! itself, for one kind of question and with a time limit: docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h
//! (Xen 4.17). Requests are answered in order, but events of watches may come in between; this client sets no
//! watch and passes them over. A xenstored that runs in a domain of its own has no socket.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::plain;
use super::toolstack::XenError;
use huddle_host::{HostRoot, socket};

/// How long an answer may take; xenstored answers in well below a millisecond.
const LIMIT: Duration = Duration::from_secs(2);

/// `XENSTORE_PAYLOAD_MAX`: the most that follows a header, in both directions.
const MAX_PAYLOAD: usize = 4096;

/// `struct xsd_sockmsg`: type, request, transaction, length, in the machine's byte order.
const HEADER: usize = 16;

// `enum xsd_sockmsg_type`.
const XS_READ: u32 = 2;
const XS_WATCH_EVENT: u32 = 15;
const XS_ERROR: u32 = 16;

/// A client of xenstored: connects when it is first asked, and again when the daemon has been restarted.
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

/// Why a request failed, as the retry has to know it.
enum Failure {
    /// The daemon hung up: it was restarted, or is not there any more.
    HungUp(io::Error),
    /// It does not answer.
    Silent,
    /// It sent what is not the protocol.
    Protocol(String),
}

impl Xenstore {
    /// A client of the host's daemon, found from the root directory of the host's first process, so that a huddle
    /// in a container finds it too. Nothing is connected yet.
    pub fn new(root: &HostRoot) -> Self {
        let paths = ["1/root/run/xenstored/socket", "1/root/var/run/xenstored/socket"];
        Self { paths: paths.map(|path| root.proc(path)).into(), limit: LIMIT, connection: Mutex::new(None) }
    }

    /// The name of a domain (`/local/domain/ID/name`), with `?` for what could upset a terminal; `None` where it
    /// has none.
    ///
    /// # Errors
    /// [`XenError::TimedOut`] where the daemon hangs, [`XenError::NoAccess`] and [`XenError::Xenstore`] where it
    /// cannot be asked or refuses, [`XenError::Answer`] where it makes no sense.
    pub fn domain_name(&self, id: u16) -> Result<Option<String>, XenError> {
        let value = self.read(&format!("/local/domain/{id}/name"))?;
        let name = value.map(|value| plain(&String::from_utf8_lossy(&value)));
        Ok(name.filter(|name| !name.trim().is_empty()))
    }

    /// The terminal that xenconsoled made for a domain's first console (`/local/domain/ID/console/tty`); `None`
    /// where it has not made one yet.
    ///
    /// # Errors
    /// As [`Self::domain_name`].
    pub fn console(&self, id: u16) -> Result<Option<PathBuf>, XenError> {
        let value = self.read(&format!("/local/domain/{id}/console/tty"))?;
        let path = value.map(|value| PathBuf::from(OsString::from_vec(value)));
        // It is dom0's own daemon that writes it; a relative path would be anybody's.
        Ok(path.filter(|path| path.is_absolute()))
    }

    /// The value at `path`; `None` where there is no such path.
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
                Ok((kind, payload)) => {
                    *kept = Some(connection);
                    return answer(path, kind, payload);
                }
                Err(Failure::HungUp(_)) if !is_fresh => is_fresh = true,
                Err(failure) => return Err(self.error(path, failure)),
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

    fn error(&self, path: &str, failure: Failure) -> XenError {
        match failure {
            Failure::HungUp(error) => {
                XenError::Xenstore(format!("it closed the connection when asked for {path}: {error}"))
            }
            Failure::Silent => {
                XenError::TimedOut { what: format!("xenstore, asked for {path},"), after: self.limit }
            }
            Failure::Protocol(text) => {
                XenError::Answer { what: format!("xenstore's answer about {path}"), text: plain(&text) }
            }
        }
    }
}

/// What a reply says: its value, none, or an error by name.
fn answer(path: &str, kind: u32, payload: Vec<u8>) -> Result<Option<Vec<u8>>, XenError> {
    if kind != XS_ERROR {
        return Ok(Some(payload));
    }
    match payload.strip_suffix(b"\0").unwrap_or(&payload) {
        b"ENOENT" => Ok(None),
        name => Err(XenError::Xenstore(format!("{} for {path}", plain(&String::from_utf8_lossy(name))))),
    }
}

impl Connection {
    /// Asks for `path` and gives the type and the payload of the reply.
    fn read(&mut self, path: &str, deadline: Instant) -> Result<(u32, Vec<u8>), Failure> {
        self.last_request = self.last_request.wrapping_add(1);
        let request = self.last_request;
        // Paths end with a nul, which counts (docs/misc/xenstore.txt, `READ`: `<path>|`).
        let length = u32::try_from(path.len() + 1).map_err(|_| Failure::Protocol(path.to_owned()))?;
        let mut message: Vec<u8> =
            [XS_READ, request, 0, length].into_iter().flat_map(u32::to_ne_bytes).collect();
        message.extend_from_slice(path.as_bytes());
        message.push(0);
        self.send(&message, deadline)?;
        loop {
            let mut header = [0; HEADER];
            self.fill(&mut header, deadline)?;
            let [kind, to, transaction, length] = words(header);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MAX_PAYLOAD {
                return Err(Failure::Protocol(format!("{length} bytes at once")));
            }
            let mut payload = vec![0; length];
            self.fill(&mut payload, deadline)?;
            match kind {
                XS_WATCH_EVENT => {}
                XS_READ | XS_ERROR if to == request && transaction == 0 => return Ok((kind, payload)),
                _ => {
                    return Err(Failure::Protocol(format!(
                        "type {kind} to request {to} of transaction {transaction}, not to {request}"
                    )));
                }
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?)).map_err(failure)?;
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, mut bytes: &mut [u8], deadline: Instant) -> Result<(), Failure> {
        while !bytes.is_empty() {
            self.stream.set_read_timeout(Some(left(deadline)?)).map_err(failure)?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(Failure::HungUp(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(())
    }
}

fn words(header: [u8; HEADER]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(header.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

fn left(deadline: Instant) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Failure::Silent) } else { Ok(left) }
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Silent,
        _ => Failure::HungUp(error),
    }
}

#[cfg(test)]
mod tests;
