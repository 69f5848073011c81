//! The files of all servers of a run: one directory, gone when the run ends, or, after a kill -9, when
//! the next one begins.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid};
use tempfile::TempDir;

use crate::host::HostFailure;

/// Where they are: root's own, so that nobody else can put anything in its place.
pub const PLACE: &str = "/run";

const PREFIX: &str = "huddle-web-";
const LOCK: &str = "lock";

/// The files of every server, the directory `pages` being what it serves.
const SERVED: [(&str, &str); 8] = [
    ("php.ini", include_str!("../../web/php.ini")),
    ("pages/memory.php", include_str!("../../web/memory.php")),
    ("pages/put.php", include_str!("../../web/put.php")),
    ("pages/load.php", include_str!("../../web/load.php")),
    ("pages/resident.php", include_str!("../../web/resident.php")),
    ("pages/writer.php", include_str!("../../web/writer.php")),
    ("pages/paper.php", include_str!("../../web/paper.php")),
    ("pages/ready.php", include_str!("../../web/ready.php")),
];

/// The files that every server serves or is set up by: where beneath its directory, and the text.
pub(super) fn served() -> impl Iterator<Item = (&'static str, &'static str)> {
    SERVED.into_iter()
}

/// The directory of a run. Dropping it removes it.
#[derive(Debug)]
pub struct Site {
    dir: TempDir,
    /// Held while the run lives: what tells its directory from one that was left behind.
    _lock: Flock<File>,
}

/// The directory of one server.
#[derive(Clone, Debug)]
pub struct TenantDir(PathBuf);

impl TenantDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Site {
    /// Makes a directory beneath `place`, after removing those that killed runs have left there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(place: &Path) -> Result<Self, HostFailure> {
        let failed = |error: io::Error| {
            HostFailure::Failed(format!(
                "cannot make a directory for web servers beneath {}: {error}",
                place.display()
            ))
        };
        sweep(place);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place).map_err(failed)?;
        // Servers are other users.
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

    /// Makes the directory of a server that runs as `user` on this host, with its pages.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn tenant(&self, name: &str, user: (Uid, Gid)) -> io::Result<TenantDir> {
        let dir = TenantDir(self.dir.path().join(name));
        std::fs::create_dir_all(dir.file("pages"))?;
        served().try_for_each(|(file, text)| std::fs::write(dir.file(file), text))?;
        // Apache writes its process id and the data here.
        nix::unistd::chown(dir.path(), Some(user.0), Some(user.1))?;
        Ok(dir)
    }
}

/// Removes the directories of runs that were killed: those whose lock nobody holds. What cannot be
/// removed stays, and does no harm.
fn sweep(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let is_ours =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        let owned = std::fs::symlink_metadata(&path)
            .is_ok_and(|about| about.is_dir() && about.uid() == Uid::effective().as_raw());
        if !is_ours || !owned {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok() {
            let _ = std::fs::remove_dir_all(&path);
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

        let first = Site::make(place.path()).unwrap();
        assert!(!left.exists() && foreign.exists());
        let user = (Uid::effective(), Gid::effective());
        let tenant = first.tenant("vm1", user).unwrap();
        assert!(tenant.file("pages").join("resident.php").is_file() && tenant.file("php.ini").is_file());

        let second = Site::make(place.path()).unwrap();
        assert!(tenant.path().exists(), "a run that lives keeps its files");
        drop(first);
        assert!(!tenant.path().exists());
        drop(second);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = Site::make(Path::new("/nonexistent/place")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/place"), "{error}");
    }
}
