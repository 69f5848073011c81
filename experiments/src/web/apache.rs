//! One Apache with PHP as a process of this host, run apart from any other: configuration, port, log and
//! memory of its own.
//!
//! It runs as one process (`-X`: one worker and no parent that would start another), which the experiment treats
//! as a VM, and whose end is seen at once. It is not root, and all of its private memory may be merged
//! (PR_SET_MEMORY_MERGE, prctl(2), Linux 6.4 and later).

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, User, chown, setgid, setgroups, setuid};

use super::run_directory::RunDirectory;
use super::server::{Server, free_port};
use crate::guest::GuestError;
use crate::host::HostFailure;

/// Where Debian has Apache.
pub const APACHE: &str = "/usr/sbin/apache2";

/// Where Debian has Apache's modules.
pub(super) const DEBIAN_MODULES: &str = "/usr/lib/apache2/modules";

const REMEDY: &str = "install it with `cargo xtask setup` (Debian: apt-get install --no-install-recommends libapache2-mod-php), \
     which starts no service";

/// include/uapi/linux/prctl.h, Linux 6.4; neither libc nor nix has them.
const PR_SET_MEMORY_MERGE: libc::c_int = 67;
const PR_GET_MEMORY_MERGE: libc::c_int = 68;

/// Apache as it is installed on this host.
#[derive(Clone, Debug)]
pub struct ApacheFiles {
    apache: PathBuf,
    modules: PathBuf,
    php: PathBuf,
    user: (Uid, Gid),
}

impl ApacheFiles {
    /// Finds `apache`, its modules, and an unprivileged user.
    ///
    /// # Errors
    /// [`HostFailure::Cannot`]: something is missing, or the kernel cannot mark a process mergeable.
    pub fn find(apache: &Path) -> Result<Self, HostFailure> {
        let cannot = HostFailure::Cannot;
        if !apache.is_file() {
            return Err(cannot(format!("there is no Apache at {}; {REMEDY}", apache.display())));
        }
        let modules = PathBuf::from(DEBIAN_MODULES);
        let php = newest_php(&modules).ok_or_else(|| {
            cannot(format!("Apache has no PHP module in {DEBIAN_MODULES} (libphp*.so); {REMEDY}"))
        })?;
        let user = ["www-data", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user =
            user.ok_or_else(|| cannot("there is no user www-data or nobody to run Apache as".into()))?;
        // SAFETY: reads a flag of this process; the unused arguments must be 0.
        if unsafe { libc::prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) } < 0 {
            return Err(cannot(format!(
                "this kernel cannot mark Apache's memory mergeable (PR_SET_MEMORY_MERGE: {}); use Linux 6.4 or \
                 later with CONFIG_KSM=y",
                Errno::last()
            )));
        }
        Ok(Self { apache: apache.to_owned(), modules, php, user: (user.uid, user.gid) })
    }

    /// Starts Apache with files in `directory`, on a free port of the loopback, without waiting until it
    /// answers.
    ///
    /// # Errors
    /// The program cannot be started, or its files not be written.
    pub fn start(&self, name: &str, directory: &RunDirectory) -> Result<Server, GuestError> {
        let (uid, gid) = self.user;
        let prepare = || {
            let (own, address) = (directory.create_server(name, self.user)?, free_port()?);
            let (config, log) = (own.join("apache.conf"), own.join("log"));
            std::fs::write(&config, configuration(&self.modules, &self.php, &own, &log, address))?;
            File::create(&log)?;
            chown(&log, Some(uid), Some(gid))?;
            Ok((config, log, address))
        };
        let (config, log, address) =
            prepare().map_err(|source| GuestError::start(name, &self.apache, source))?;
        let mut process = Command::new(&self.apache);
        process
            .args(["-X", "-f"])
            .arg(&config)
            .env_clear()
            // Debian's snippets would load what no page here needs.
            .envs([("PATH", "/usr/bin:/bin"), ("PHP_INI_SCAN_DIR", "")]);
        Server::start(name, process, &log, address, move || {
            // SAFETY: sets a flag of the process that calls it; the unused arguments must be 0. Kept over
            // exec, and before the right to set it is given up.
            Errno::result(unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) })?;
            setgroups(&[])?;
            setgid(gid)?;
            setuid(uid)
        })
    }
}

fn newest_php(modules: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(modules).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let is_php = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libphp") && name.ends_with(".so")
    };
    entries.filter(is_php).max()
}

/// The configuration of an Apache, by paths as it finds them: its modules, its PHP module, its own files, its log.
pub(super) fn configuration(
    modules: &Path,
    php: &Path,
    own: &Path,
    log: &Path,
    address: SocketAddr,
) -> String {
    let paths = [("modules", modules), ("php", php), ("own", own), ("log", log)];
    let paths = paths.map(|(name, path)| format!("Define {name} \"{}\"\n", path.display())).concat();
    format!("{paths}Define address {address}\n{}", include_str!("../../web/apache.conf"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let error = ApacheFiles::find(Path::new("/nonexistent/apache2")).unwrap_err();
        assert!(matches!(error, HostFailure::Cannot(_)));
        let text = error.to_string();
        assert!(text.contains("/nonexistent/apache2") && text.contains("cargo xtask setup"), "{text}");
    }

    #[test]
    fn the_newest_php_is_taken_and_other_modules_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_php(dir.path()), None);
        for name in ["libphp8.2.so", "libphp8.4.so", "mod_php.txt", "mod_mime.so"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(newest_php(dir.path()), Some(dir.path().join("libphp8.4.so")));
        assert_eq!(newest_php(&dir.path().join("no")), None);
    }
}
