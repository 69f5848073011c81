//! Reading files written by others: only regular files are opened, and no more than a limit is read.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RegularError {
    /// Not a regular file.
    #[error("it is {0}, and only a regular file is read here")]
    Other(&'static str),
    /// More than such a file can have.
    #[error("it has {bytes} bytes, and at most {most} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// The kernel refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl RegularError {
    /// Whether nothing is there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == ErrorKind::NotFound)
    }
}

/// Opens a regular file for reading. A symbolic link in the last component is not followed; anything but a regular file
/// is not opened at all, since opening alone can wait for a writer (fifo(7)) or have an effect (a tape rewinds).
///
/// # Errors
/// It is not a regular file, does not exist, or may not be read.
pub fn open(path: &Path) -> Result<(File, Metadata), RegularError> {
    check_regular(std::fs::symlink_metadata(path)?.file_type())?;
    // It may have been replaced by now: O_NOFOLLOW refuses a link, and O_NONBLOCK does not wait.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let about = file.metadata()?;
    check_regular(about.file_type())?;
    Ok((file, about))
}

/// The text of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open`]; it is larger, or not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String, RegularError> {
    let (file, about) = open(path)?;
    let mut text = String::new();
    // A file that grows meanwhile is read up to one byte beyond the limit.
    let bytes = match about.len() {
        bytes if bytes > most => bytes,
        _ => file.take(most + 1).read_to_string(&mut text)? as u64,
    };
    if bytes > most {
        return Err(RegularError::TooLarge { bytes, most });
    }
    Ok(text)
}

fn check_regular(kind: FileType) -> Result<(), RegularError> {
    if kind.is_file() { Ok(()) } else { Err(RegularError::Other(name_of(kind))) }
}

/// The kind of a file that is not regular, for messages.
pub fn name_of(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_symlink() => "a symbolic link",
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "no regular file",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        mkfifo(&at("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        symlink(at("pipe"), at("link-to-pipe")).unwrap();
        std::fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("link-to-device")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for (name, word) in [
            ("pipe", "a named pipe"),
            ("link-to-pipe", "a symbolic link"),
            ("link", "a symbolic link"),
            ("link-to-device", "a symbolic link"),
            ("socket", "a socket"),
            ("directory", "a directory"),
        ] {
            let error = read_text(&at(name), 100).unwrap_err().to_string();
            assert!(error.contains(word), "{name}: {error}");
        }
        let error = read_text(Path::new("/dev/zero"), 100).unwrap_err().to_string();
        assert!(error.contains("a device"), "{error}");
        assert_eq!(read_text(&at("file"), 4).unwrap(), "text");
        let error = read_text(&at("file"), 3).unwrap_err().to_string();
        assert_eq!(error, "it has 4 bytes, and at most 3 are read");
        assert!(read_text(&at("nothing"), 3).unwrap_err().is_not_found());
    }
}
