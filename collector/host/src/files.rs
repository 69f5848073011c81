//! Files that are whole or not there, whatever happens meanwhile.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::Uid;

/// Mode of a file that only its owner may read.
pub const FOR_OWNER: u32 = 0o600;
/// Mode of a file that everybody may read, as far as the umask allows.
pub const FOR_ALL: u32 = 0o666;

/// Replaces `path` by `content`: a reader sees the old file or the new one, never a part, and so does whoever
/// looks after a crash. The content is on disk before the file has its name, and the name when this returns.
/// Returns the new file, open for reading and appending.
///
/// It is written as `.NAME.tmp` beside `path`; what a killed attempt left there is removed. So there must be
/// no two who replace one file at the same time.
///
/// # Errors
/// The system refuses; the old file is there as before, unless only the last sync failed.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    let temporary = temporary(path)?;
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&temporary)?;
    let written = file.write_all(content).and_then(|()| publish(&file, &temporary, path));
    if written.is_err() {
        // What is left of it helps nobody; the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| file)
}

/// Gives a file that was written as `temporary` its name `path`, once its content is on disk.
///
/// # Errors
/// The system refuses.
pub fn publish(file: &File, temporary: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    sync_parent(path)
}

/// Brings the names in the directory of `path` to disk: a rename is there only when its directory is.
///
/// # Errors
/// The system refuses.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// How a file of huddle's own is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To read it, and to write behind its end.
    Append,
    /// The same of a file that must not be there yet.
    Create,
    /// The same whether or not it is there.
    CreateIfMissing,
}

/// A file that huddle does not take for one of its own: others could have put it there.
#[derive(Debug, thiserror::Error)]
pub enum NotOwn {
    /// It is no plain file.
    #[error("the {role} {} is {kind}, and huddle takes only a plain file of its own there; remove it", path.display())]
    Kind {
        /// What it should be, such as `journal`.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What it is, such as `a named pipe`.
        kind: &'static str,
    },
    /// It is somebody else's.
    #[error(
        "the {role} {} belongs to user {owner}, not to user {user} who runs huddle; run as that user, or remove it",
        path.display()
    )]
    Owner {
        /// What it should be.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
        /// User id that owns it.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// Others may write to it.
    #[error(
        "the {role} {} may be written by others (mode {mode:04o}), so nobody knows who wrote what is in it; look \
         into it, and make it private: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Writable {
        /// What it should be.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Opens a plain file that belongs to this user and that nobody else may write to. Never waits, whatever is there,
/// and follows no link.
///
/// # Errors
/// [`NotOwn`], which names the file and what it is instead; `role` says what it should be.
pub fn open_own(path: &Path, role: &'static str, access: Access) -> Result<File, NotOwn> {
    // Looked at before it is opened: opening a device may do something, and a socket cannot be opened.
    match std::fs::symlink_metadata(path) {
        Ok(found) => check_own(path, role, &found)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let file = OpenOptions::new()
        .read(true)
        .append(access != Access::Read)
        .create(access == Access::CreateIfMissing)
        .create_new(access == Access::Create)
        .mode(FOR_OWNER)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)?;
    check_own(path, role, &file.metadata()?)?;
    Ok(file)
}

fn check_own(path: &Path, role: &'static str, found: &Metadata) -> Result<(), NotOwn> {
    let path = || path.to_owned();
    if !found.is_file() {
        return Err(NotOwn::Kind { role, path: path(), kind: kind(found.file_type()) });
    }
    let (owner, user) = (found.uid(), Uid::effective().as_raw());
    if owner != user {
        return Err(NotOwn::Owner { role, path: path(), owner, user });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(NotOwn::Writable { role, path: path(), mode });
    }
    Ok(())
}

/// What a file is, as a sentence names it.
pub fn kind(of: FileType) -> &'static str {
    if of.is_symlink() {
        "a symbolic link"
    } else if of.is_fifo() {
        "a named pipe"
    } else if of.is_socket() {
        "a socket"
    } else if of.is_char_device() || of.is_block_device() {
        "a device"
    } else if of.is_dir() {
        "a directory"
    } else {
        "a plain file"
    }
}

/// Whether a write failed because there is no room, or because nothing may be written there at all.
pub fn cannot_be_written(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
    )
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_what_a_killed_attempt_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(dir.path().join(".state.tmp"), "half of").unwrap();
        replace_file(&path, b"first", FOR_OWNER).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        replace_file(&path, b"second", FOR_OWNER).unwrap().write_all(b", appended").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second, appended");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_a_plain_file_of_its_own_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let said = || open_own(&path, "journal", Access::Append).unwrap_err().to_string();
        let is_named = |kind: &str| {
            let said = said();
            assert!(said.contains(&format!("journal is {kind}")) && !said.contains('\n'), "{kind}: {said}");
            assert!(open_own(&path, "journal", Access::Read).is_err());
        };
        assert!(said().contains("No such file"), "{}", said());

        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        is_named("a named pipe");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        is_named("a symbolic link");
        std::fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        is_named("a socket");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        is_named("a directory");
        std::fs::remove_dir(&path).unwrap();

        open_own(&path, "journal", Access::Create).unwrap().write_all(b"one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(open_own(&path, "journal", Access::Create).is_err(), "it is there");
        open_own(&path, "journal", Access::CreateIfMissing).unwrap().write_all(b", two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one, two");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap();
        assert!(said().contains("may be written by others (mode 0620)"), "{}", said());
        if Uid::effective().is_root() {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(said().contains("belongs to user 65534, not to user 0"), "{}", said());
        }
    }

    #[test]
    fn an_attempt_that_fails_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        assert!(replace_file(&path, b"text", FOR_OWNER).is_err(), "a directory is no file");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace_file(Path::new("/"), b"text", FOR_OWNER).is_err());
    }
}
