//! The directory that holds the journal, and the lock that keeps a second huddle out of it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::{AccessFlags, Uid, faccessat};

/// The variable that names the state directory.
pub const STATE_DIR_VARIABLE: &str = "HUDDLE_STATE_DIR";

/// A checked state directory: it exists, belongs to this user, and nobody else may write to it.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The sole right to change the host by way of this state directory. Clones share it; the kernel takes
/// it back when the last one is dropped or the process ends in any way.
#[derive(Clone, Debug)]
pub struct StateLock(Arc<Held>);

#[derive(Debug)]
struct Held {
    dir: PathBuf,
    file: File,
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
        "the state directory {} is not a directory; remove that file, or name a directory by {STATE_DIR_VARIABLE}",
        path.display()
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
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
    /// Where the state directory is: here, or at its default place. Nothing is looked at.
    ///
    /// # Errors
    /// Where nothing names a place.
    pub fn place(path: Option<&Path>) -> Result<PathBuf, StateError> {
        match path {
            Some(path) => Ok(path.to_owned()),
            None => Self::default_path(|name| std::env::var_os(name), Uid::effective().is_root()),
        }
    }

    /// Opens the directory `path`, or without one `$HUDDLE_STATE_DIR`, else `/run/huddle` for root,
    /// else `$XDG_RUNTIME_DIR/huddle`; creates it (not its parents) with mode 0700 where it is missing.
    ///
    /// # Errors
    /// When there is no place for it, or it is no directory, of another user, writable for others, or
    /// not readable and writable for this user.
    pub fn open(path: Option<&Path>) -> Result<Self, StateError> {
        let path = Self::place(path)?;
        let fail = |what: &'static str| {
            move |path: &Path, source| StateError::Io { what, path: path.to_owned(), source }
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::NoParent { path });
            }
            Err(error) => return Err(fail("create")(&path, error)),
        }
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits())
            .open(&path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotADirectory => StateError::NotADirectory { path: path.clone() },
                _ => fail("read")(&path, source),
            })?;
        let metadata = dir.metadata().map_err(|source| fail("read")(&path, source))?;
        let user = Uid::effective().as_raw();
        if metadata.uid() != user {
            return Err(StateError::Owner { path, owner: metadata.uid(), user });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::Writable { path, mode });
        }
        faccessat(&dir, ".", AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
            .map_err(|errno| fail("write to")(&path, errno.into()))?;
        Ok(Self { path })
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

    /// Takes the lock (flock(2) on the file `lock`) without waiting.
    ///
    /// # Errors
    /// [`StateError::Locked`] with the pid of the holder while another process, or another lock of this
    /// process, holds it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.path.join("lock");
        let fail = |source| StateError::Io { what: "lock", path: self.path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // The holder writes its pid just after it got the lock, so the file may still be empty.
                let text = std::fs::read_to_string(&path).map_err(fail)?;
                let holder = match text.trim().parse::<u32>() {
                    Ok(pid) => format!("pid {pid}"),
                    Err(_) => "pid not known yet".to_owned(),
                };
                return Err(StateError::Locked { path: self.path.clone(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        file.set_len(0).map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(StateLock(Arc::new(Held { dir: self.path.clone(), file })))
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
        // The name of a process that no longer holds the lock would only mislead; that it may stay
        // after a failure here is harmless, since the lock itself is the kernel's.
        let _ = self.file.set_len(0);
        // Not left to closing: a child that another thread forked has the file open until its exec, and
        // would hold the lock as long.
        let _ = self.file.unlock();
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
        let path = dir.path().join("state");
        let state = StateDir::open(Some(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);

        let lock = state.lock().unwrap();
        let clone = lock.clone();
        drop(lock);
        let error = StateDir::open(Some(&path)).unwrap().lock().unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(clone);
        state.lock().unwrap();
    }

    #[test]
    fn it_is_free_once_dropped_although_a_forked_child_still_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(dir.path())).unwrap();
        let lock = state.lock().unwrap();
        // The same open file, as a child has it between fork and exec.
        let _childs = lock.0.file.try_clone().unwrap();
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn a_bad_directory_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(refusal(&file).contains("file is not a directory"), "{}", refusal(&file));
        assert!(refusal(&file.join("x")).contains("Not a directory"), "{}", refusal(&file.join("x")));
        assert!(refusal(&dir.path().join("a/b")).contains("parent does not exist"));

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
}
