//! Unix sockets: connecting without ever waiting, wherever a path leads; reading and writing until a deadline; making
//! room for a new one, and listening for its owner only.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, socket};
use nix::sys::stat::{Mode, umask};

/// Connects to the socket at `path`; the stream blocks, so its user sets time-outs.
///
/// # Errors
/// `WouldBlock` at once where the backlog is full (connect(2), `EAGAIN`), for which connecting would else wait
/// for ever.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A socket's address has room for 107 bytes, which a path through /proc/PID/root may exceed:
    // go through a descriptor of the directory.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let directory = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(parent)?;
    connect_to_address(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

/// The same for a path that is short enough for the address of a socket.
pub(crate) fn connect_to_address(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect_to(socket.as_raw_fd(), &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A stream whose reads and writes end at a deadline, whatever the other side does: they fail with `TimedOut` or
/// `WouldBlock`.
#[derive(Debug)]
pub struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    /// Reads from and writes to `stream` until `deadline`.
    pub fn new(stream: &'a UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Whether a read or write failed because its time was up.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// How a socket is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// By a stream.
    Stream,
    /// By datagrams.
    Datagram,
}

/// Why there is no room for a socket at a path.
#[derive(Debug)]
pub enum NoRoom {
    /// Another program listens there.
    Taken,
    /// Something that is no socket is there.
    NotASocket,
    /// The system does not tell, or refuses.
    Io(io::Error),
}

/// Removes the socket at `path` that a killed program left, so that a new one can be made there. One that
/// somebody listens on, and whatever is no socket, is left alone.
///
/// # Errors
/// There is no room: see [`NoRoom`].
pub fn remove_stale(path: &Path, kind: SocketKind) -> Result<(), NoRoom> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(NoRoom::Io(error)),
    };
    if !found.file_type().is_socket() {
        return Err(NoRoom::NotASocket);
    }
    let connected = match kind {
        SocketKind::Stream => connect(path).map(drop),
        SocketKind::Datagram => UnixDatagram::unbound().and_then(|socket| socket.connect(path)),
    };
    match connected {
        // Without a listener it is refused whatever kind the socket was (net/unix/af_unix.c, unix_find_bsd).
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(NoRoom::Io)
        }
        // Of another kind, or with a full backlog: somebody listens.
        Err(error)
            if error.kind() == io::ErrorKind::WouldBlock
                || error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) =>
        {
            Err(NoRoom::Taken)
        }
        Err(error) => Err(NoRoom::Io(error)),
        Ok(()) => Err(NoRoom::Taken),
    }
}

/// Listens for streams at `path`, to which only its owner may connect; accepting from it does not wait. A socket that a
/// killed program left there is replaced ([`remove_stale`]).
///
/// # Errors
/// There is no room: see [`NoRoom`].
pub fn listen_private(path: &Path) -> Result<UnixListener, NoRoom> {
    remove_stale(path, SocketKind::Stream)?;
    // The mask makes it private from the start; a file created meanwhile is only more private.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(|error| match error.kind() {
        // Somebody was faster.
        io::ErrorKind::AddrInUse => NoRoom::Taken,
        _ => NoRoom::Io(error),
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(NoRoom::Io)?;
    listener.set_nonblocking(true).map_err(NoRoom::Io)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_only_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for _ in 0..2 {
            let listener = listen_private(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(matches!(listen_private(&path), Err(NoRoom::Taken)));
        }
    }

    #[test]
    fn only_a_dead_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for kind in [SocketKind::Stream, SocketKind::Datagram] {
            assert!(remove_stale(&path, kind).is_ok(), "there is none");
            let listener = UnixListener::bind(&path).unwrap();
            assert!(matches!(remove_stale(&path, kind), Err(NoRoom::Taken)), "{kind:?}");
            drop(listener);
            assert!(path.exists() && remove_stale(&path, kind).is_ok() && !path.exists(), "{kind:?}");
            let datagrams = UnixDatagram::bind(&path).unwrap();
            assert!(matches!(remove_stale(&path, kind), Err(NoRoom::Taken)), "{kind:?}");
            drop(datagrams);
            assert!(remove_stale(&path, kind).is_ok() && !path.exists(), "{kind:?}");
        }
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(remove_stale(&path, SocketKind::Stream), Err(NoRoom::NotASocket)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
