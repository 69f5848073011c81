//! One Apache with PHP, as Debian packages them, run apart from any other: configuration, port, log and
//! memory of its own.
//!
//! It runs as one process (`-X`: one worker and no parent that would start another), so that this
//! process is to the experiment what a VM is, and its end is seen at once. It is not root, and all of its
//! private memory may be merged (PR_SET_MEMORY_MERGE, prctl(2), Linux 6.4 and later).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, User, getpid, getppid, setgid, setgroups, setuid};

use super::site::TenantDir;
use crate::guest::GuestError;
use crate::host::HostFailure;

/// Where Debian has Apache.
pub const APACHE: &str = "/usr/sbin/apache2";

/// Where Debian has Apache's modules.
const MODULES: &str = "/usr/lib/apache2/modules";

const REMEDY: &str = "install it with `cargo xtask setup` (Debian: apt-get install --no-install-recommends libapache2-mod-php), \
     which starts no service";

/// include/uapi/linux/prctl.h, Linux 6.4; neither libc nor nix has them.
const PR_SET_MEMORY_MERGE: libc::c_int = 67;
const PR_GET_MEMORY_MERGE: libc::c_int = 68;

/// Lines of a log that are shown when its server dies.
const LOG_LINES: usize = 15;

/// The programs of a server, found on this host.
#[derive(Clone, Debug)]
pub struct Programs {
    apache: PathBuf,
    modules: PathBuf,
    php: PathBuf,
    user: (Uid, Gid),
}

impl Programs {
    /// Looks for `apache`, its modules, and a user without rights.
    ///
    /// # Errors
    /// [`HostFailure::Cannot`]: something is missing, or the kernel cannot mark a process mergeable.
    pub fn find(apache: &Path) -> Result<Self, HostFailure> {
        let cannot = HostFailure::Cannot;
        if !apache.is_file() {
            return Err(cannot(format!("there is no Apache at {}; {REMEDY}", apache.display())));
        }
        let modules = PathBuf::from(MODULES);
        let php = newest_php(&modules)
            .ok_or_else(|| cannot(format!("Apache has no PHP module in {MODULES} (libphp*.so); {REMEDY}")))?;
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

    /// The user that servers run as.
    pub fn user(&self) -> (Uid, Gid) {
        self.user
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

/// A running server. Dropping it ends the process and waits for its end.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Starts Apache in `dir` on a free port of the loopback, without waiting until it answers. It dies
    /// with the thread that calls this (PR_SET_PDEATHSIG), so that a runner that is killed leaves none.
    ///
    /// # Errors
    /// The program or its files cannot be had.
    pub fn start(name: &str, programs: &Programs, dir: &TenantDir) -> Result<Self, GuestError> {
        let program = programs.apache.display().to_string();
        let failed = |source: std::io::Error| GuestError::Start {
            name: name.to_owned(),
            program: program.clone(),
            source,
        };
        let address = free_port().map_err(failed)?;
        let (config, log) = (dir.file("apache.conf"), dir.file("log"));
        std::fs::write(&config, configuration(programs, dir, address)).map_err(failed)?;
        let output = std::fs::File::create(&log).map_err(failed)?;
        nix::unistd::chown(&log, Some(programs.user.0), Some(programs.user.1))
            .map_err(|errno| failed(errno.into()))?;
        let mut process = Command::new(&programs.apache);
        process
            .args(["-X", "-f"])
            .arg(&config)
            .env_clear()
            // Debian's snippets would load what no page here needs.
            .envs([("PATH", "/usr/bin:/bin"), ("PHP_INI_SCAN_DIR", "")])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            // A group of its own: Ctrl-C on the terminal is for the runner, which ends it itself.
            .process_group(0);
        let (parent, (uid, gid)) = (getpid(), programs.user);
        // SAFETY: only system calls between fork and exec: no allocation, no lock.
        unsafe {
            process.pre_exec(move || {
                // The runner blocks signals in its threads, and a child inherits that (execve(2)).
                SigSet::all().thread_unblock()?;
                // Huge pages merge only once they are split.
                prctl::set_thp_disable(true)?;
                // Before the rights to do so are given up; kept over exec.
                Errno::result(libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))?;
                setgroups(&[])?;
                setgid(gid)?;
                setuid(uid)?;
                // After that: a change of user forgets it.
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The runner may have died before the signal was asked for.
                if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
            });
        }
        let child = process.spawn().map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        // A pid of Linux is at most 2^22 (proc(5), pid_max).
        self.child.id() as i32
    }

    /// Makes sure that it runs.
    ///
    /// # Errors
    /// It has ended: with how, and the last lines of its log.
    pub fn check(&mut self, asked: &'static str) -> Result<(), GuestError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(asked, status.to_string())),
            Err(error) => Err(self.ended(asked, error.to_string())),
        }
    }

    /// As [`Self::check`], where its connection broke: the process ends a little later.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_broken(&mut self, asked: &'static str) -> Result<(), GuestError> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            self.check(asked)?;
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ended(&self, asked: &'static str, status: String) -> GuestError {
        GuestError::Ended {
            name: self.name.clone(),
            pid: self.pid(),
            asked,
            status,
            console: self.last_words(),
        }
    }

    /// The last lines of its log, for messages; empty when there are none.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
        if shown.is_empty() {
            String::new()
        } else {
            format!("\nthe end of its log:\n  {}", shown.join("\n  "))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback that nobody uses. Somebody may take it before Apache does; Apache says so then.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn configuration(programs: &Programs, dir: &TenantDir, address: SocketAddr) -> String {
    let (modules, php) = (programs.modules.display(), programs.php.display());
    let (own, pages) = (dir.path().display(), dir.file("pages"));
    let pages = pages.display();
    format!(
        "ServerRoot \"{own}\"\n\
         ServerName {address}\n\
         Listen {address}\n\
         PidFile \"{own}/pid\"\n\
         DefaultRuntimeDir \"{own}\"\n\
         ErrorLog \"{own}/log\"\n\
         LogLevel warn\n\
         LoadModule mpm_prefork_module \"{modules}/mod_mpm_prefork.so\"\n\
         LoadModule authz_core_module \"{modules}/mod_authz_core.so\"\n\
         LoadModule php_module \"{php}\"\n\
         PHPINIDir \"{own}\"\n\
         DocumentRoot \"{pages}\"\n\
         <Directory \"{pages}\">\n\
         Require all granted\n\
         </Directory>\n\
         <FilesMatch \"\\.php$\">\n\
         SetHandler application/x-httpd-php\n\
         </FilesMatch>\n\
         ServerLimit 1\n\
         MaxRequestWorkers 1\n\
         MaxConnectionsPerChild 0\n\
         KeepAlive On\n\
         MaxKeepAliveRequests 0\n\
         KeepAliveTimeout 3600\n\
         Timeout 3600\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let error = Programs::find(Path::new("/nonexistent/apache2")).unwrap_err();
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
