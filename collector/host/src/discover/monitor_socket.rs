//! Connecting to the QMP socket that a process's command line names.
//!
//! Anybody can write any path into a command line, and huddle runs as root: a path may name a socket of another
//! program, or lead there by a link that its owner changes meanwhile. So the path is walked in the process's own view
//! (its root and its working directory, which may be a container's) one name at a time, without following links,
//! except those that root made (`/var/run`). What is found at its end must be a socket that belongs to the user of
//! the process, and after connecting the kernel must say that this very process listens there. Nothing is read or
//! written before that.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::HostRoot;
use crate::socket;

/// Links of root that are followed in one path.
const MAX_LINKS: usize = 8;

/// The process that is to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Its number.
    pub(crate) pid: i32,
    /// Its real user id.
    pub(crate) uid: u32,
}

#[cfg(test)]
impl Listener {
    pub(crate) fn this_process() -> Self {
        Self { pid: std::process::id().cast_signed(), uid: nix::unistd::getuid().as_raw() }
    }
}

/// Why a socket is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} is a link that belongs to user {1}")]
    Link(String, u32),
    #[error("it goes through more than {MAX_LINKS} links")]
    Links,
    #[error("it leads above the working directory of the process")]
    AboveWorkingDirectory,
    #[error("it is a directory")]
    Directory,
    #[error("it is not a socket")]
    NotASocket,
    #[error("it belongs to user {found}, not to user {expected} of the process")]
    Foreign { found: u32, expected: u32 },
    #[error("process {found} listens there, not this one")]
    OtherListener { found: i32 },
}

/// Connects to the socket at `path`, which `process` sees so; the stream blocks, so its user sets time-outs.
/// Connecting itself never waits, but file systems that the process mounted may.
pub(crate) fn connect(root: &HostRoot, process: Listener, path: &Path) -> Result<UnixStream, SocketError> {
    let (found, stat) = find(root, process.pid, path)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err(SocketError::NotASocket);
    }
    if stat.st_uid != process.uid {
        return Err(SocketError::Foreign { found: stat.st_uid, expected: process.uid });
    }
    // The very inode that was looked at (connect(2) follows the link), and short enough for an address.
    let stream = socket::connect_to_address(&this_descriptor(&found))?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).map_err(io::Error::from)?;
    if peer.pid() != process.pid {
        return Err(SocketError::OtherListener { found: peer.pid() });
    }
    Ok(stream)
}

pub(super) fn this_descriptor(descriptor: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(descriptor.as_raw_fd().to_string())
}

/// Where a walk is.
struct Walk {
    /// The root of the process.
    root: OwnedFd,
    /// Where it began instead: the working directory.
    base: Option<OwnedFd>,
    /// The directories that it went into since.
    directories: Vec<OwnedFd>,
    links: usize,
}

/// Walks to what is at `path`, and gives it with what it is.
pub(super) fn find(root: &HostRoot, pid: i32, path: &Path) -> Result<(OwnedFd, FileStat), SocketError> {
    let directory = |name: &str| -> Result<OwnedFd, SocketError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let path = root.proc(format!("{pid}/{name}"));
        Ok(nix::fcntl::open(&path, flags, Mode::empty()).map_err(io::Error::from)?)
    };
    let base = if path.is_absolute() { None } else { Some(directory("cwd")?) };
    let mut walk = Walk { root: directory("root")?, base, directories: Vec::new(), links: 0 };
    let mut left = names(path);
    while let Some(name) = left.pop_front() {
        if name == ".." {
            walk.up()?;
            continue;
        }
        let (entry, stat) = walk.entry(&name)?;
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {
                for name in walk.follow(&name, &entry, &stat)?.into_iter().rev() {
                    left.push_front(name);
                }
            }
            SFlag::S_IFDIR => walk.directories.push(entry),
            _ if left.is_empty() => return Ok((entry, stat)),
            _ => return Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
        }
    }
    Err(SocketError::Directory)
}

impl Walk {
    fn up(&mut self) -> Result<(), SocketError> {
        // Above the root is the root; what is above the working directory is not looked for.
        if self.directories.pop().is_none() && self.base.is_some() {
            return Err(SocketError::AboveWorkingDirectory);
        }
        Ok(())
    }

    fn entry(&self, name: &OsStr) -> Result<(OwnedFd, FileStat), SocketError> {
        let here = self.directories.last().or(self.base.as_ref()).unwrap_or(&self.root);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let entry = openat(here, name, flags, Mode::empty()).map_err(io::Error::from)?;
        let stat = fstat(&entry).map_err(io::Error::from)?;
        Ok((entry, stat))
    }

    /// The names that a link leads on by; where it is absolute the walk begins again at the root.
    fn follow(
        &mut self,
        name: &OsStr,
        link: &OwnedFd,
        stat: &FileStat,
    ) -> Result<VecDeque<OsString>, SocketError> {
        if stat.st_uid != 0 {
            return Err(SocketError::Link(name.to_string_lossy().into_owned(), stat.st_uid));
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(SocketError::Links);
        }
        let target = PathBuf::from(readlinkat(link, "").map_err(io::Error::from)?);
        if target.is_absolute() {
            self.base = None;
            self.directories.clear();
        }
        Ok(names(&target))
    }
}

/// The names in a path, `..` among them; more than a path of the kernel can have are cut off.
fn names(path: &Path) -> VecDeque<OsString> {
    let most = usize::try_from(libc::PATH_MAX).unwrap_or(4096) / 2;
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.take(most).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A tree that this process sees as its root.
    fn tree() -> (tempfile::TempDir, HostRoot, Listener) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let own = Listener::this_process();
        let proc = root.proc(own.pid.to_string());
        std::fs::create_dir_all(&proc).unwrap();
        std::fs::create_dir_all(dir.path().join("run/vm")).unwrap();
        symlink(dir.path(), proc.join("root")).unwrap();
        symlink(dir.path().join("run"), proc.join("cwd")).unwrap();
        (dir, root, own)
    }

    fn refusal(root: &HostRoot, own: Listener, path: &str) -> String {
        connect(root, own, Path::new(path)).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_of_the_process_is_connected_to_in_its_own_view() {
        let (dir, root, own) = tree();
        let _listener = UnixListener::bind(dir.path().join("run/vm/q")).unwrap();
        for path in ["/run/vm/q", "vm/q", "vm/../vm/q", "/run/../run/./vm/q", "/../../run/vm/q"] {
            assert!(connect(&root, own, Path::new(path)).is_ok(), "{path}");
        }
        for path in ["/run/vm", "/run/vm/q/x", "/nowhere", "", "/", "..", "../run/vm/q"] {
            assert!(connect(&root, own, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_no_socket_or_somebody_elses_is_left_alone() {
        let (dir, root, own) = tree();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(refusal(&root, own, "/file").contains("not a socket"));
        let _listener = UnixListener::bind(dir.path().join("q")).unwrap();
        let other = Listener { uid: own.uid + 1, ..own };
        assert!(refusal(&root, other, "/q").contains("belongs to user"));
        // The kernel says who listens: this test, not the process that names the socket.
        let other = Listener { pid: 1, ..own };
        std::fs::create_dir_all(root.proc("1")).unwrap();
        symlink(dir.path(), root.proc("1/root")).unwrap();
        let why = refusal(&root, other, "/q");
        assert!(why.contains(&format!("process {} listens there", own.pid)), "{why}");
    }

    #[test]
    fn links_are_followed_only_where_root_made_them() {
        let (dir, root, own) = tree();
        let _listener = UnixListener::bind(dir.path().join("run/vm/q")).unwrap();
        std::fs::create_dir(dir.path().join("var")).unwrap();
        // As a host has it: `/var/run -> /run`, also as a relative link.
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("../run/vm", dir.path().join("var/vm")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        if !nix::unistd::geteuid().is_root() {
            assert!(refusal(&root, own, "/var/run/vm/q").contains("is a link"));
            return;
        }
        for path in ["/var/run/vm/q", "/var/vm/q"] {
            assert!(connect(&root, own, Path::new(path)).is_ok(), "{path}");
        }
        assert!(refusal(&root, own, "/loop").contains("more than 8 links"));
        lchown(dir.path().join("var/run"), Some(65534), None).unwrap();
        let why = refusal(&root, own, "/var/run/vm/q");
        assert!(why.contains("run is a link that belongs to user 65534"), "{why}");
    }
}
