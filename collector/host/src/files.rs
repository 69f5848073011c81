//! Files that are whole or not there, whatever happens meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

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
