//! The real `huddle` on real processes: what it answers, what it refuses, and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "tests")]

mod doctor;
mod loops;
mod measuring;
mod offline;
mod refusals;

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use huddle_testing::recording::columns;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A `huddle` with a state directory of its own.
struct Huddle {
    dir: tempfile::TempDir,
}

impl Huddle {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).env("HUDDLE_STATE_DIR", self.state_dir()).env_remove("HUDDLE_LOG");
        // Tests run side by side, each on processes of its own.
        command.env("HUDDLE_HOST_LOCK", self.dir.path().join("host"));
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.output(&[args, &["--format", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it, expects this exit code, nothing on stdout and one line on stderr, and gives that line.
    fn refusal(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert_eq!(output.stdout, b"", "{args:?}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{args:?}: {stderr}");
        stderr
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// A process to treat as a VM; ended with the test.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    fn cpus(&self) -> Vec<usize> {
        cpus(&sched_getaffinity(self.pid()).unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpus(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Prints why a test is skipped; in CI none may be.
fn skipped_without_root() -> bool {
    if is_root() {
        return false;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
    say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
    true
}

const TABLE_1: &str = "vm,VM1,VM2,VM3,VM4\nVM1,-,71.17,0.07,0.05\nVM2,71.43,-,0.06,0.05\n\
    VM3,0.06,0.05,-,52.18\nVM4,0.04,0.05,52.38,-\n";
const TWO_SOCKETS: &str = r#"{"domains":[{"id":0,"cpus":[0,1,2,3,4,5,6,7],"size_bytes":20971520,"node":0},
    {"id":1,"cpus":[8,9,10,11,12,13,14,15],"size_bytes":20971520,"node":1}]}"#;

#[test]
fn the_version_names_the_revision() {
    let output = Huddle::new().output(&["--version"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let revision = option_env!("HUDDLE_GIT_REVISION").unwrap_or("source archive");
    assert_eq!(stdout, format!("huddle {} ({revision})\n", env!("CARGO_PKG_VERSION")));
}
