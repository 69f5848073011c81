//! One host, one huddle: the lock beside that of the state directory. Two loops with different state directories
//! would each take the other's affinities for what somebody else has set, and leave them for good
//! (docs/decisions/one-huddle-a-host.md).
//!
//! It has two halves, since no single place is seen by everybody and safe from strangers:
//! - **A file**, `host.lock` in `/run/huddle`, locked by flock(2). Only root can write there, so nobody else can hold
//!   it. It is for root; containers may have a `/run` of their own.
//! - **A name** in the abstract namespace of Unix sockets, which all processes of a network namespace share, whatever
//!   they have mounted and whoever they are. Anybody can take it, so its holder counts only if it may change what
//!   this process may change: root, the same user, and whoever has CAP_SYS_NICE.

use std::fs::{File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, UnixCredentials, bind, connect,
    getsockopt, listen, shutdown, socket,
};
use nix::unistd::Uid;

use super::state::{Purpose, StateDir, StateError};
use crate::HostRoot;
use crate::files::{Access, NotOwn, cannot_be_written, open_own};
use crate::socket::Timed;
use crate::status::{self, Capability};
use crate::threads::without_signals;

/// The variable that names another directory for the file: for tests that run several huddles on one machine at the
/// same time, each on VMs of its own. Whoever sets it has as many huddles as there are such directories.
pub const HOST_LOCK_VARIABLE: &str = "HUDDLE_HOST_LOCK";

/// What the name is.
const NAME: &str = "huddle/host";

/// How long a holder has to introduce itself, and how long a name may be in use by somebody who does not listen.
const PATIENCE: Duration = Duration::from_millis(200);

/// Most that is read of what a holder says about itself, in bytes.
const MAX_SAID: u64 = 4096;

/// Both halves, held until it is dropped or the process ends in any way.
#[derive(Debug)]
pub(super) struct HostLock {
    file: Option<File>,
    name: Option<OwnedFd>,
}

/// Who holds a half of it.
#[derive(Debug)]
struct Holder {
    pid: Option<i32>,
    state_dir: Option<String>,
}

impl HostLock {
    /// Takes both halves without waiting; `state_dir` is what others are told. A half that cannot be had on this host
    /// (a full or read-only `/run`) is done without.
    ///
    /// # Errors
    /// [`StateError::HostLocked`] while another huddle holds one; a directory or file of strangers in its place.
    pub(super) fn take(root: &HostRoot, state_dir: &Path) -> Result<Self, StateError> {
        let place = Place::of(root);
        let file = if place.is_given || Uid::effective().is_root() {
            Self::lock_file(&place.dir, state_dir)?
        } else {
            None
        };
        // What was locked is let go of when the other half is another's.
        let mut lock = Self { file, name: None };
        lock.name = take_name(root, &place.name(), state_dir)?;
        Ok(lock)
    }

    fn lock_file(dir: &Path, state_dir: &Path) -> Result<Option<File>, StateError> {
        let dir = match StateDir::open_for(Purpose::HostLock, dir.to_owned()) {
            Ok(Some(dir)) => dir,
            // Not there and not to be made.
            Ok(None) | Err(StateError::NoParent { .. }) => return Ok(None),
            Err(StateError::Io { source, .. }) if cannot_be_written(&source) => return Ok(None),
            Err(error) => return Err(error),
        };
        let path = dir.path().join("host.lock");
        let fail = |source| StateError::Io { what: "lock", path: path.clone(), source };
        let refused = |error| match error {
            NotOwn::Io(source) => fail(source),
            error => StateError::NotOwn(error),
        };
        // The lock itself is not written: a file that is there is enough.
        let mut file = match open_own(&path, "lock of this host", Access::CreateIfMissing) {
            Err(NotOwn::Io(error)) if cannot_be_written(&error) => {
                match open_own(&path, "lock of this host", Access::Read) {
                    Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(refused)?,
                }
            }
            file => file.map_err(refused)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Holder::read(&mut &file).into()),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        // For those who are refused; the lock is the kernel's.
        let _ = file.set_len(0).and_then(|()| file.write_all(introduction(state_dir).as_bytes()));
        Ok(Some(file))
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Not left to closing: a child that another thread forked has it open until its exec.
            let _ = file.set_len(0);
            let _ = file.unlock();
        }
        if let Some(name) = &self.name {
            // Ends the thread that answers, which closes the listener.
            let _ = shutdown(name.as_raw_fd(), Shutdown::Both);
        }
    }
}

/// Where the two halves are.
struct Place {
    dir: PathBuf,
    /// Whether it is not the place that all huddles of this host share.
    is_given: bool,
}

impl Place {
    fn of(root: &HostRoot) -> Self {
        let given = std::env::var_os(HOST_LOCK_VARIABLE).filter(|dir| !dir.is_empty());
        match given {
            Some(dir) if root.has_real_run() => Self { dir: dir.into(), is_given: true },
            _ => Self { dir: root.run("huddle"), is_given: !root.has_real_run() },
        }
    }

    fn name(&self) -> String {
        if !self.is_given {
            return NAME.to_owned();
        }
        let mut hasher = DefaultHasher::new();
        self.dir.hash(&mut hasher);
        format!("{NAME}/{:016x}", hasher.finish())
    }
}

/// What a holder says: its pid and its state directory.
fn introduction(state_dir: &Path) -> String {
    format!("{}\n{}\n", std::process::id(), state_dir.display())
}

impl Holder {
    fn read(from: &mut impl Read) -> Self {
        let mut text = Vec::new();
        // Who says nothing is told about all the same.
        let _ = from.take(MAX_SAID).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let pid = lines.next().and_then(|pid| pid.parse().ok());
        Self { pid, state_dir: lines.next().map(str::to_owned) }
    }
}

impl From<Holder> for StateError {
    fn from(holder: Holder) -> Self {
        let pid = holder.pid.map_or_else(|| "pid not known".to_owned(), |pid| format!("pid {pid}"));
        let state = holder.state_dir.map_or_else(
            || "state directory not known".to_owned(),
            // Quoted: it comes from another process.
            |dir| format!("state directory {dir:?}"),
        );
        Self::HostLocked { holder: format!("{pid}, {state}") }
    }
}

/// Binds the name and answers at it. `None`, with a warning, where it cannot be had and nobody who counts has it.
fn take_name(root: &HostRoot, name: &str, state_dir: &Path) -> Result<Option<OwnedFd>, StateError> {
    let begun = Instant::now();
    let reason = loop {
        match bind_name(name) {
            Ok(listener) => match answer_at(listener, introduction(state_dir)) {
                Ok(name) => return Ok(Some(name)),
                Err(error) => break error.to_string(),
            },
            Err(Errno::EADDRINUSE) => {}
            Err(errno) => break errno.to_string(),
        }
        match ask(name) {
            Ok((peer, holder)) if may_change_the_same(root, &peer) => return Err(holder.into()),
            Ok((peer, _)) => {
                break format!(
                    "process {} of user {} has taken it, who may not change what this huddle changes",
                    peer.pid(),
                    peer.uid()
                );
            }
            // It is being let go of, or many ask at once.
            Err(Errno::ECONNREFUSED | Errno::EAGAIN) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(errno) => break format!("somebody has taken it and does not answer ({errno})"),
        }
    };
    tracing::warn!(
        "the abstract socket @{name} cannot be used: {reason}; a huddle in another container of this host would \
         not be noticed"
    );
    Ok(None)
}

fn abstract_socket(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | flags, None)
}

fn bind_name(name: &str) -> Result<OwnedFd, Errno> {
    let listener = abstract_socket(SockFlag::empty())?;
    bind(listener.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    listen(&listener, Backlog::new(64)?)?;
    Ok(listener)
}

/// Tells whoever connects who this is, until the listener is shut down by the descriptor that is returned.
fn answer_at(listener: OwnedFd, introduction: String) -> io::Result<OwnedFd> {
    let name = listener.try_clone()?;
    let listener = UnixListener::from(listener);
    let answer = move || {
        for stream in listener.incoming() {
            // Shut down, or out of descriptors: the name stays taken by the other descriptor.
            let Ok(mut stream) = stream else { return };
            // It fits into any socket's buffer; who does not read it does without.
            let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(introduction.as_bytes()));
        }
    };
    // Signals are for the threads that undo.
    without_signals(|| std::thread::Builder::new().name("host-lock".to_owned()).spawn(answer))?;
    Ok(name)
}

/// Who holds the name, by the kernel's word and by its own.
fn ask(name: &str) -> Result<(UnixCredentials, Holder), Errno> {
    let asking = abstract_socket(SockFlag::SOCK_NONBLOCK)?;
    connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    let peer = getsockopt(&asking, PeerCredentials)?;
    let stream = UnixStream::from(asking);
    let _ = stream.set_nonblocking(false);
    let said = Holder::read(&mut Timed::new(&stream, Instant::now() + PATIENCE));
    // The pid as this process knows it; 0 where it does not see that process.
    let pid = (peer.pid() > 0).then_some(peer.pid()).or(said.pid);
    Ok((peer, Holder { pid, ..said }))
}

fn may_change_the_same(root: &HostRoot, peer: &UnixCredentials) -> bool {
    peer.uid() == 0
        || peer.uid() == Uid::effective().as_raw()
        || status::thread(root, peer.pid(), peer.pid()).is_ok_and(|peer| peer.has(Capability::SysNice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir(root.run("")).unwrap();
        let first = HostLock::take(&root, Path::new("/state/one")).unwrap();
        let refused = HostLock::take(&root, Path::new("/state/two")).unwrap_err().to_string();
        let own = format!("pid {}, state directory \"/state/one\"", std::process::id());
        assert!(refused.contains(&own) && !refused.contains('\n'), "{refused}");
        drop(first);
        let second = HostLock::take(&root, Path::new("/state/two")).unwrap();
        // A container with a /run of its own sees the name only.
        std::fs::rename(dir.path().join("run"), dir.path().join("hidden")).unwrap();
        let refused = HostLock::take(&root, Path::new("/state/one")).unwrap_err().to_string();
        let own = format!("pid {}, state directory \"/state/two\"", std::process::id());
        assert!(refused.contains(&own), "{refused}");
        drop(second);
        let other = tempfile::tempdir().unwrap();
        let _third = HostLock::take(&root, Path::new("/state/one")).unwrap();
        HostLock::take(&HostRoot::at(other.path()), Path::new("/state/one")).unwrap();
    }

    #[test]
    fn it_is_done_without_a_file_where_none_can_be_made_and_not_with_a_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path()).with_run(&dir.path().join("no/such/place"));
        let lock = HostLock::take(&root, Path::new("/state")).unwrap();
        assert!(lock.file.is_none() && lock.name.is_some());
        drop(lock);

        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.run("")).unwrap();
        std::os::unix::fs::symlink("/tmp", root.run("huddle")).unwrap();
        let refused = HostLock::take(&root, Path::new("/state")).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        std::fs::remove_file(root.run("huddle")).unwrap();
        drop(HostLock::take(&root, Path::new("/state")).unwrap());
        std::fs::remove_file(root.run("huddle/host.lock")).unwrap();
        nix::unistd::mkfifo(&root.run("huddle/host.lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = HostLock::take(&root, Path::new("/state")).unwrap_err().to_string();
        assert!(refused.contains("host.lock is a named pipe"), "{refused}");
    }

    #[test]
    fn a_stranger_who_takes_the_name_keeps_nobody_out() {
        let name = format!("huddle/test-of-strangers/{}", std::process::id());
        let root = HostRoot::real();
        // Bound, and silent.
        let silent = abstract_socket(SockFlag::empty()).unwrap();
        bind(silent.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
        assert!(take_name(&root, &name, Path::new("/state")).unwrap().is_none());
        drop(silent);
        let taken = take_name(&root, &name, Path::new("/state")).unwrap();
        assert!(taken.is_some());
        let (peer, holder) = ask(&name).unwrap();
        assert_eq!((peer.pid(), holder.state_dir.as_deref()), (std::process::id() as i32, Some("/state")));
        // Whoever may not change what we may is a stranger.
        let unknown = HostRoot::at(Path::new("/no/proc"));
        assert!(may_change_the_same(&unknown, &peer), "the same user");
    }
}
