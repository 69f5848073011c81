//! Connecting to a unix socket without ever waiting, wherever its path leads.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, socket};

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
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    let address = UnixAddr::new(&short)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect_to(socket.as_raw_fd(), &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
