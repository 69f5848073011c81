//! What the tests of both kinds of servers share: short and long runs of the real binary.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use huddle_experiments::web::site::PLACE;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

const SETTINGS: [&str; 4] = ["run", "smart_scan", "pages_to_scan", "sleep_millisecs"];

/// The sole right to change KSM among the tests of this machine.
pub(crate) fn ksm_lock() -> Flock<std::fs::File> {
    let file = std::fs::File::create("/run/lock/huddle-ksm-test.lock").unwrap();
    Flock::lock(file, FlockArg::LockExclusive).unwrap()
}

pub(crate) fn settings() -> Vec<Option<String>> {
    let read = |file: &&str| std::fs::read_to_string(Path::new("/sys/kernel/mm/ksm").join(file)).ok();
    SETTINGS.iter().map(read).collect()
}

/// Says that a test is skipped, also where the test harness keeps what passing tests print.
pub(crate) fn skip(reason: &str) {
    // Not a macro of printing: the harness catches those.
    std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
}

/// What this host lacks for any run of the experiment.
pub(crate) fn lacks() -> Option<String> {
    if !Uid::effective().is_root() {
        Some("root is missing".to_owned())
    } else if !Path::new("/sys/kernel/mm/ksm/run").exists() {
        Some("this kernel has no KSM".to_owned())
    } else {
        None
    }
}

/// A short run: little data, few requests.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle-experiment"));
    let options = ["--data-kib", "256", "--requests", "8", "--warm-up-requests", "2", "--format", "json"];
    command.arg("web").args(options).args([
        Path::new("--out"),
        &dir.join("run"),
        Path::new("--state-dir"),
        &dir.join("state"),
    ]);
    command.env("HUDDLE_HOST_LOCK", dir.join("host"));
    command
}

/// Whether the host cannot run it at all; said, so that a skipped test is seen.
fn cannot(code: Option<i32>, stderr: &str) -> bool {
    if code == Some(3) {
        skip(stderr);
    }
    code == Some(3)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn children(pid: u32) -> Vec<i32> {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| read(task.unwrap().path().join("children")));
    lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

pub(crate) fn is_gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// The directory of a server's run, by a file it was started with: `-f FILE`, or what a VM boots.
fn site_of(pid: i32) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let is_site = |path: &Path| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        path.parent() == Some(Path::new(PLACE)) && name.starts_with("huddle-web-")
    };
    let site = |word: &str| Path::new(word).ancestors().find(|path| is_site(path)).map(Path::to_owned);
    line.split('\0').find_map(site).expect("a server's command line names its files")
}

/// A long run. A test that fails ends it too, gently, so that it puts KSM's settings back.
pub(crate) struct Run {
    child: Child,
    stderr: BufReader<ChildStderr>,
    pub(crate) servers: Vec<i32>,
    pub(crate) site: PathBuf,
}

impl Run {
    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended, which the test then finds by its exit code.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// Starts a long run and returns when its first block begins.
pub(crate) fn started(mut command: Command) -> Option<Run> {
    let mut child =
        command.args(["--repetitions", "5000"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut run = Run { child, stderr, servers: Vec::new(), site: PathBuf::new() };
    let mut text = String::new();
    while !text.contains("block 1 of") {
        if run.stderr.read_line(&mut text).unwrap() == 0 {
            let code = run.child.wait().unwrap().code();
            assert!(cannot(code, &text), "it ended with {code:?}: {text}");
            return None;
        }
    }
    run.servers = children(run.child.id());
    assert_eq!(run.servers.len(), 4, "{text}");
    run.site = site_of(run.servers[0]);
    Some(run)
}

pub(crate) fn finished(mut command: Command) -> Option<Value> {
    let output = command.output().unwrap();
    if cannot(output.status.code(), &stderr(&output)) {
        return None;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    Some(serde_json::from_slice(&output.stdout).expect("one JSON object on stdout"))
}
