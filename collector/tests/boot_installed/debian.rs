//! A clean Debian with systemd as its first process, in namespaces of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;

/// What `cargo xtask test` makes.
pub(crate) const DEBIAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests/debian/root");
const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/packages");

/// Why these tests cannot run here. In CI that is an error.
pub(crate) fn is_skipped() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "needs root, for namespaces"
    } else if !Path::new(DEBIAN).exists() {
        "target/guests/debian is missing, which `cargo xtask test` makes"
    } else if ["huddle", "huddle-analysis"].map(package).contains(&None) {
        "a package is missing in target/packages, which `cargo xtask test` makes"
    } else {
        return false;
    };
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {reason}");
    say(&format!("skipped: {reason}"));
    true
}

/// The newest package of a program.
pub(crate) fn package(name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(PACKAGES).ok()?.filter_map(Result::ok);
    let begin = format!("{name}_");
    let is_package = |file: &str| file.starts_with(&begin) && file.ends_with(".deb");
    let packages = entries.filter(|entry| is_package(&entry.file_name().to_string_lossy()));
    packages
        .map(|entry| entry.path())
        .max_by_key(|path| path.metadata().and_then(|found| found.modified()).ok())
}

/// The running system. Dropping it ends every process in it; its files vanish with `dir`.
pub(crate) struct Debian {
    unshare: Child,
    /// Its systemd, as the host sees it.
    init: u32,
    cgroup: PathBuf,
    dir: tempfile::TempDir,
}

impl Debian {
    /// Boots it; returns when systemd says that the system is up.
    pub(crate) fn boot() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = cgroups().join(format!("huddle-test-{}", std::process::id()));
        std::fs::create_dir_all(&cgroup).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boot_installed/boot.sh");
        let log = std::fs::File::create(dir.path().join("console")).unwrap();
        // The shell enters the group, and the namespace of control groups then begins there.
        let unshare = Command::new("sh")
            .arg("-c")
            .arg("echo $$ >\"$0/cgroup.procs\" && exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup sh \"$@\"")
            .arg(&cgroup)
            .arg(script)
            .args([Path::new(DEBIAN), dir.path(), Path::new(PACKAGES)])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut debian = Self { unshare, init: 0, cgroup, dir };
        debian.wait("a first process", |debian| {
            let id = debian.unshare.id();
            let children =
                std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            debian.init = children.trim().parse().unwrap_or(0);
            let name = std::fs::read_to_string(format!("/proc/{}/comm", debian.init)).unwrap_or_default();
            name.trim() == "systemd"
        });
        debian.wait("the end of the boot", |debian| {
            let state = debian.run("systemctl is-system-running");
            ["running", "degraded"].contains(&printed(&state).trim())
        });
        debian
    }

    /// Runs a line of shell in it.
    pub(crate) fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "sh", "-c", line]).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The output of a line that must succeed.
    pub(crate) fn done(&self, line: &str) -> String {
        let output = self.run(line);
        let said = printed(&output);
        assert!(output.status.success(), "{line}: {said}{}", self.logged());
        said
    }

    /// What the service logged, without its times.
    pub(crate) fn logged(&self) -> String {
        printed(&self.run("journalctl --unit huddle --no-pager --output cat"))
    }

    /// Waits until a line of the service's log contains `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        self.wait(text, |debian| debian.logged().contains(text));
    }

    /// Waits until something is so.
    pub(crate) fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            let console = std::fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
            assert!(Instant::now() < until, "waited for {what}: {}\nconsole: {console}", self.logged());
            assert!(self.unshare.try_wait().unwrap().is_none(), "it ended: {console}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A file in it, from outside.
    pub(crate) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).unwrap();
    }

    /// One of its paths, as the host sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// Installs the package of a program.
    pub(crate) fn install(&self, name: &str) {
        let package = package(name).unwrap();
        let file = package.file_name().unwrap().to_string_lossy();
        self.done(&format!("apt-get install --yes /mnt/packages/{file}"));
    }

    /// Whether a package's pages and completions are where programs look for them.
    pub(crate) fn has_help(&self, program: &str, pages: &[&str]) {
        for page in pages {
            self.done(&format!("zcat /usr/share/man/man1/{page}.1.gz | grep -q '^.SH SYNOPSIS'"));
        }
        self.done(&format!(
            "bash -c '. /usr/share/bash-completion/completions/{program} && complete -p {program}'"
        ));
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // The first process of a namespace takes all others of it along.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let until = Instant::now() + Duration::from_secs(10);
        while remove_groups(&self.cgroup).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Control groups of version 2.
fn cgroups() -> PathBuf {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    places.into_iter().find(|at| at.join("cgroup.procs").exists()).expect("no control groups of version 2")
}

/// A group, after those below it.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

/// Everything that a program printed.
pub(crate) fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}
