//! The directory of a run: files of all its servers. It is removed when the run ends, or, after a kill -9, when
//! the next one begins.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid};
use tempfile::TempDir;

use crate::host::HostFailure;

/// Where it is created: root's own, so that nobody else can put anything in its place.
pub const BASE: &str = "/run";

const PREFIX: &str = "huddle-web-";
const LOCK: &str = "lock";

/// The files of every server, in `pages` what it serves: their paths and contents.
pub(super) const SERVER_FILES: [(&str, &str); 8] = [
    ("php.ini", include_str!("../../web/php.ini")),
    ("pages/memory.php", include_str!("../../web/memory.php")),
    ("pages/put.php", include_str!("../../web/put.php")),
    ("pages/load.php", include_str!("../../web/load.php")),
    ("pages/resident.php", include_str!("../../web/resident.php")),
    ("pages/writer.php", include_str!("../../web/writer.php")),
    ("pages/paper.php", include_str!("../../web/paper.php")),
    ("pages/ready.php", include_str!("../../web/ready.php")),
];

/// The directory of a run. Dropping it removes it.
#[derive(Debug)]
pub struct RunDirectory {
    dir: TempDir,
    /// Held by a running run, which distinguishes its directory from one that was left behind.
    _lock: Flock<File>,
}

impl RunDirectory {
    /// Creates a directory in `base`, after removing those that killed runs have left there.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create(base: &Path) -> Result<Self, HostFailure> {
        let failed = |error: io::Error| {
            let base = base.display();
            HostFailure::Failed(format!("cannot create a directory for web servers in {base}: {error}"))
        };
        remove_abandoned(base);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base).map_err(failed)?;
        // Servers run as other users.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).map_err(failed)?;
        let lock = File::create(dir.path().join(LOCK)).map_err(failed)?;
        let lock =
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| failed(errno.into()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Creates the directory of a server that runs as `user` on this host, with its files.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create_server(&self, name: &str, user: (Uid, Gid)) -> io::Result<PathBuf> {
        let dir = self.path().join(name);
        std::fs::create_dir_all(dir.join("pages"))?;
        SERVER_FILES.iter().try_for_each(|(file, text)| std::fs::write(dir.join(file), text))?;
        // Apache writes its process id and the data here.
        nix::unistd::chown(&dir, Some(user.0), Some(user.1))?;
        Ok(dir)
    }
}

/// Removes the directories of runs that were killed: those whose lock nobody holds. What cannot be
/// removed stays, and does no harm.
fn remove_abandoned(base: &Path) {
    let entries = std::fs::read_dir(base).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let is_own = |about: std::fs::Metadata| about.is_dir() && about.uid() == Uid::effective().as_raw();
        // Not by following a link.
        if entry.metadata().is_ok_and(is_own)
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_in_use_or_foreign_stays() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join("huddle-web-left");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        let foreign = place.path().join("other");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join(LOCK), "").unwrap();

        let first = RunDirectory::create(place.path()).unwrap();
        assert!(!left.exists() && foreign.exists());
        let user = (Uid::effective(), Gid::effective());
        let server = first.create_server("vm1", user).unwrap();
        assert!(server.join("pages/resident.php").is_file() && server.join("php.ini").is_file());

        let second = RunDirectory::create(place.path()).unwrap();
        assert!(server.exists(), "a run that lives keeps its files");
        drop(first);
        assert!(!server.exists());
        drop(second);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = RunDirectory::create(Path::new("/nonexistent/place")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/place"), "{error}");
    }
}
