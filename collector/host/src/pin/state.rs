//! The directory that holds the journal, and the lock that keeps a second huddle out of it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::{AccessFlags, Uid, faccessat};

use super::host_lock::HostLock;
use crate::HostRoot;
use crate::files::{Access, NotOwn, cannot_be_written, kind, open_own};

/// The variable that names the state directory.
pub const STATE_DIR_VARIABLE: &str = "HUDDLE_STATE_DIR";

/// A checked state directory: it exists, belongs to this user, and nobody else may write to it.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    purpose: Purpose,
}

/// What a directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To change the host: the directory is made where it is missing, and can be written to.
    Change,
    /// To undo what is in it: it is used as it is, on a full or read-only disk too.
    Undo,
    /// For the lock of this host: made where it is missing, and used as it is.
    HostLock,
}

/// The sole right to change the host, and to do it by way of this state directory. Clones share it; the kernel takes
/// it back when the last one is dropped or the process ends in any way.
#[derive(Clone, Debug)]
pub struct StateLock(Arc<Held>);

#[derive(Debug)]
struct Held {
    dir: PathBuf,
    /// `None` where there is no file and none can be made.
    file: Option<File>,
    /// Dropped last: whoever is next finds the directory free.
    _host: HostLock,
}

/// A state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// No place for it.
    #[error(
        "no place for the state directory: {STATE_DIR_VARIABLE} and XDG_RUNTIME_DIR are not set; \
         set {STATE_DIR_VARIABLE} to a directory of your own, or run as root"
    )]
    NoPlace,
    /// The path is something else.
    #[error(
        "the state directory {} is not a directory but {kind}; remove that, or name a directory by \
         {STATE_DIR_VARIABLE}",
        path.display()
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// What it is, such as `a symbolic link`.
        kind: &'static str,
    },
    /// The file of a lock is not huddle's.
    #[error(transparent)]
    NotOwn(NotOwn),
    /// Its parent is not there.
    #[error(
        "the state directory {} cannot be created, since its parent does not exist; create the parent, \
         or name another directory by {STATE_DIR_VARIABLE}",
        path.display()
    )]
    NoParent {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error(
        "the state directory {} belongs to user {owner}, not to user {user} who runs huddle; \
         run as that user, or name a directory of your own by {STATE_DIR_VARIABLE}",
        path.display()
    )]
    Owner {
        /// The path.
        path: PathBuf,
        /// User id that owns it.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// Others could put words into the journal, which huddle then carries out with its privileges.
    #[error(
        "the state directory {} may be written by others (mode {mode:04o}), who could then have affinities \
         changed; make it private: chmod 700 {}",
        path.display(),
        path.display()
    )]
    Writable {
        /// The path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not readable, not writable, or the disk says no.
    #[error(
        "cannot {what} the state directory {}: {source}; make it readable and writable for this user, \
         or name another by {STATE_DIR_VARIABLE}",
        path.display()
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another huddle changes this host, by another state directory.
    #[error(
        "another huddle ({holder}) changes this host, and two would not know each other's changes from those of \
         others; end it first, or wait for its end"
    )]
    HostLocked {
        /// Its pid and state directory, as far as they are known.
        holder: String,
    },
    /// Another huddle is at work.
    #[error(
        "another huddle ({holder}) holds the lock of the state directory {}; end it first, or wait for its end",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// `pid N`, or that the pid is not known yet.
        holder: String,
    },
}

impl StateDir {
    /// Opens the directory `path`, or without one `$HUDDLE_STATE_DIR`, else `/run/huddle` for root,
    /// else `$XDG_RUNTIME_DIR/huddle`; creates it (not its parents) with mode 0700 where it is missing.
    ///
    /// # Errors
    /// When there is no place for it, or it is no directory, of another user, writable for others, or
    /// not readable and writable for this user.
    pub fn open(path: Option<&Path>) -> Result<Self, StateError> {
        let path = Self::path_of(path)?;
        match Self::open_for(Purpose::Change, path.clone())? {
            Some(dir) => Ok(dir),
            None => Err(StateError::NoParent { path }),
        }
    }

    /// The same to undo what is in it, whether or not it can be written to; `None` where it is not there.
    ///
    /// # Errors
    /// As [`Self::open`], but for what cannot be written.
    pub fn open_to_undo(path: Option<&Path>) -> Result<Option<Self>, StateError> {
        Self::open_for(Purpose::Undo, Self::path_of(path)?)
    }

    fn path_of(path: Option<&Path>) -> Result<PathBuf, StateError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => Self::default_path(|name| std::env::var_os(name), Uid::effective().is_root())?,
        };
        // Without a `/` at its end, which would have a symbolic link followed.
        Ok(path.components().collect())
    }

    /// `None` where the directory is not there and is not to be made.
    pub(super) fn open_for(purpose: Purpose, path: PathBuf) -> Result<Option<Self>, StateError> {
        let fail = |what: &'static str| {
            move |path: &Path, source| StateError::Io { what, path: path.to_owned(), source }
        };
        if purpose != Purpose::Undo {
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StateError::NoParent { path });
                }
                // It may be there all the same, on a disk that is read-only.
                Err(_) if purpose == Purpose::HostLock && path.is_dir() => {}
                Err(error) => return Err(fail("create")(&path, error)),
            }
        }
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(found) => return Err(StateError::NotADirectory { path, kind: kind(found.file_type()) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail("read")(&path, error)),
        }
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
            .open(&path)
            .map_err(|source| fail("read")(&path, source))?;
        let metadata = dir.metadata().map_err(|source| fail("read")(&path, source))?;
        let user = Uid::effective().as_raw();
        if metadata.uid() != user {
            return Err(StateError::Owner { path, owner: metadata.uid(), user });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::Writable { path, mode });
        }
        if purpose == Purpose::Change {
            let access = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
            faccessat(&dir, ".", access, AtFlags::AT_EACCESS)
                .map_err(|errno| fail("write to")(&path, errno.into()))?;
        }
        Ok(Some(Self { path, purpose }))
    }

    fn default_path(
        variable: impl Fn(&str) -> Option<OsString>,
        is_root: bool,
    ) -> Result<PathBuf, StateError> {
        let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match (set(STATE_DIR_VARIABLE), is_root) {
            (Some(path), _) => Ok(path),
            (None, true) => Ok("/run/huddle".into()),
            (None, false) => set("XDG_RUNTIME_DIR").map(|dir| dir.join("huddle")).ok_or(StateError::NoPlace),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock (flock(2) on the file `lock`) without waiting, and that of the host (see
    /// `docs/decisions/one-huddle-a-host.md`).
    ///
    /// # Errors
    /// [`StateError::Locked`] with the pid of the holder while another process, or another lock of this
    /// process, holds it; [`StateError::HostLocked`] while a huddle with another state directory changes this host.
    pub fn lock(&self, root: &HostRoot) -> Result<StateLock, StateError> {
        let file = self.lock_file()?;
        let host = HostLock::take(root, &self.path)?;
        Ok(StateLock(Arc::new(Held { dir: self.path.clone(), file, _host: host })))
    }

    fn lock_file(&self) -> Result<Option<File>, StateError> {
        let path = self.path.join("lock");
        let fail = |source| StateError::Io { what: "lock", path: self.path.clone(), source };
        let refused = |error| match error {
            NotOwn::Io(source) => fail(source),
            error => StateError::NotOwn(error),
        };
        let is_undo = self.purpose == Purpose::Undo;
        let mut file = match open_own(&path, "lock", Access::CreateIfMissing) {
            // A file that is there can be locked without writing to it.
            Err(NotOwn::Io(error)) if is_undo && cannot_be_written(&error) => {
                match open_own(&path, "lock", Access::Read) {
                    Err(NotOwn::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(refused)?,
                }
            }
            file => file.map_err(refused)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // The holder writes its pid just after it got the lock, so the file may still be empty.
                let mut text = String::new();
                file.take(32).read_to_string(&mut text).map_err(fail)?;
                let holder = match text.trim().parse::<u32>() {
                    Ok(pid) => format!("pid {pid}"),
                    Err(_) => "pid not known yet".to_owned(),
                };
                return Err(StateError::Locked { path: self.path.clone(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if !is_undo {
            named.map_err(fail)?;
        }
        Ok(Some(file))
    }
}

impl StateLock {
    /// The locked directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        // The name of a process that no longer holds the lock would only mislead; that it may stay
        // after a failure here is harmless, since the lock itself is the kernel's.
        let _ = file.set_len(0);
        // Not left to closing: a child that another thread forked has the file open until its exec, and
        // would hold the lock as long.
        let _ = file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(path: &Path) -> String {
        StateDir::open(Some(path)).unwrap_err().to_string()
    }

    #[test]
    fn it_is_created_private_and_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (HostRoot::at(dir.path()), dir.path().join("state"));
        let state = StateDir::open(Some(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);

        let lock = state.lock(&root).unwrap();
        let clone = lock.clone();
        drop(lock);
        let error = StateDir::open(Some(&path)).unwrap().lock(&root).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        // Another state directory is no way around it.
        let other = StateDir::open(Some(&dir.path().join("other"))).unwrap();
        let error = other.lock(&root).unwrap_err().to_string();
        let holder = format!("(pid {}, state directory {path:?}) changes this host", std::process::id());
        assert!(error.contains(&holder) && !error.contains('\n'), "{error}");
        drop(clone);
        drop(other.lock(&root).unwrap());
        state.lock(&root).unwrap();
    }

    #[test]
    fn it_is_free_once_dropped_although_a_forked_child_still_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (HostRoot::at(dir.path()), StateDir::open(Some(dir.path())).unwrap());
        let lock = state.lock(&root).unwrap();
        // The same open file, as a child has it between fork and exec.
        let _childs = lock.0.file.as_ref().unwrap().try_clone().unwrap();
        drop(lock);
        state.lock(&root).unwrap();
    }

    #[test]
    fn a_bad_directory_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(refusal(&file).contains("file is not a directory but a plain file"), "{}", refusal(&file));
        assert!(refusal(&file.join("x")).contains("Not a directory"), "{}", refusal(&file.join("x")));
        assert!(refusal(&dir.path().join("a/b")).contains("parent does not exist"));
        let (real, link, pipe) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("pipe"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, kind) in
            [(link.clone(), "a symbolic link"), (link.join(""), "a symbolic link"), (pipe, "a named pipe")]
        {
            let to_undo = StateDir::open_to_undo(Some(&path)).unwrap_err().to_string();
            assert_eq!(refusal(&path), to_undo);
            assert!(to_undo.contains(&format!("is not a directory but {kind}")), "{to_undo}");
        }
        assert!(StateDir::open_to_undo(Some(&dir.path().join("a"))).unwrap().is_none(), "nothing is made");

        for mode in [0o777, 0o720, 0o702, 0o1777] {
            let open = dir.path().join(format!("{mode:o}"));
            std::fs::create_dir(&open).unwrap();
            std::fs::set_permissions(&open, PermissionsExt::from_mode(mode)).unwrap();
            let error = refusal(&open);
            assert!(error.contains(&format!("(mode {mode:04o})")) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn somebody_elses_directory_is_refused() {
        if !Uid::effective().is_root() {
            println!("skipped: only root can give a directory to another user");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains("belongs to user 65534, not to user 0"), "{error}");
    }

    #[test]
    fn the_default_place_follows_the_variables_and_the_user() {
        let none = |_: &str| None;
        let xdg = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| OsString::from("/run/user/7"));
        let both = |name: &str| {
            Some(OsString::from(if name == STATE_DIR_VARIABLE { "/state" } else { "/run/user/7" }))
        };
        assert_eq!(StateDir::default_path(none, true).unwrap(), Path::new("/run/huddle"));
        assert_eq!(StateDir::default_path(xdg, true).unwrap(), Path::new("/run/huddle"));
        assert_eq!(StateDir::default_path(xdg, false).unwrap(), Path::new("/run/user/7/huddle"));
        assert_eq!(StateDir::default_path(both, true).unwrap(), Path::new("/state"));
        assert!(matches!(StateDir::default_path(none, false), Err(StateError::NoPlace)));
    }

    #[test]
    fn a_lock_that_is_no_plain_file_of_ones_own_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (HostRoot::at(dir.path()), StateDir::open(Some(dir.path())).unwrap());
        nix::unistd::mkfifo(&dir.path().join("lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = state.lock(&root).unwrap_err().to_string();
        assert!(error.contains("lock is a named pipe") && error.contains("remove it"), "{error}");
    }
}
