//! Viewers of a real `huddle run`, over its socket.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

mod support;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ended {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    fn end(mut self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
        self.0.wait().unwrap();
    }
}

fn skipped_without_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
    support::say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
    true
}

fn process() -> Ended {
    Ended(Command::new("sleep").arg("600").spawn().unwrap())
}

/// A loop over one process; it has done its first round.
fn start(state: &Path, process: &Ended, more: &[&str]) -> Ended {
    let name = format!("a={}", process.pid());
    let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["run", "--vm", &name, "--window", "0.1"])
        .args(more)
        .env("HUDDLE_STATE_DIR", state)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(huddle.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("round 1:")), "it ended");
    // Its log is read on, so that it is never held up by it.
    std::thread::spawn(move || said.for_each(drop));
    Ended(huddle)
}

struct Viewer {
    read: BufReader<UnixStream>,
    write: UnixStream,
}

impl Viewer {
    fn attach(socket: &Path) -> Self {
        let write = UnixStream::connect(socket).unwrap();
        write.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut viewer = Self { read: BufReader::new(write.try_clone().unwrap()), write };
        assert_eq!(viewer.hear()["hello"]["protocol"], "huddle/attach/1");
        viewer
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.read.read_line(&mut line).unwrap() > 0, "the loop has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// The next snapshot that is as wanted.
    fn snapshot(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let snapshot = self.hear()["snapshot"].take();
            if !snapshot.is_null() && wanted(&snapshot) {
                return snapshot;
            }
            assert!(Instant::now() < until, "no such snapshot");
        }
    }

    fn ask(&mut self, wish: &Value) -> Value {
        writeln!(self.write, "{wish}").unwrap();
        loop {
            let answer = self.hear()["answer"].take();
            if !answer.is_null() {
                return answer;
            }
        }
    }
}

fn cpus(pid: Pid) -> usize {
    let set = sched_getaffinity(pid).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
}

#[test]
fn several_viewers_see_the_loop_and_one_that_reads_nothing_holds_nobody_up() {
    if skipped_without_root() {
        return;
    }
    let (dir, vm) = (tempfile::tempdir().unwrap(), process());
    let state = dir.path().join("state");
    let socket: PathBuf = state.join("attach.sock");
    let huddle = start(&state, &vm, &[]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let _silent = Viewer::attach(&socket);
    let (mut one, mut other) = (Viewer::attach(&socket), Viewer::attach(&socket));
    for viewer in [&mut one, &mut other] {
        let first = viewer.snapshot(|snapshot| snapshot["observation"]["available"].is_object());
        assert_eq!((&first["round"], &first["vms"][0]["name"]), (&json!(1), &json!("a")));
        let window = first["observation"]["available"]["window"].as_u64().unwrap();
        let later = |snapshot: &Value| {
            snapshot["observation"]["available"]["window"].as_u64().is_some_and(|now| now > window + 2)
        };
        viewer.snapshot(later);
    }
    huddle.end(Signal::SIGTERM);
    assert!(!socket.exists(), "the socket goes with the loop");

    // After a kill -9 it stays, and the next loop takes its place.
    start(&state, &vm, &[]).end(Signal::SIGKILL);
    assert!(socket.exists());
    let huddle = start(&state, &vm, &[]);
    Viewer::attach(&socket);
    let second = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["run", "--dry-run", "--vm", &format!("a={}", vm.pid()), "--socket", socket.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another huddle serves viewers at") && said.trim().lines().count() == 1, "{said}");
    huddle.end(Signal::SIGINT);
}

#[test]
fn wishes_are_done_and_answered() {
    if skipped_without_root() {
        return;
    }
    let (dir, vm) = (tempfile::tempdir().unwrap(), process());
    let (state, recording) = (dir.path().join("state"), dir.path().join("recording"));
    let before = cpus(vm.pid());
    let huddle = start(&state, &vm, &[]);
    let mut viewer = Viewer::attach(&state.join("attach.sock"));
    if before > 1 {
        assert!(cpus(vm.pid()) < before, "it is pinned");
    } else {
        support::say("one CPU: that restoring widens the affinity is not seen");
    }
    assert!(viewer.ask(&json!("restore"))["ok"].as_str().unwrap().contains("taken back"));
    assert_eq!(cpus(vm.pid()), before);
    let dry = |snapshot: &Value| {
        snapshot["pinned"]["unavailable"].as_str().is_some_and(|why| why.contains("dry run"))
    };
    assert_eq!(viewer.snapshot(dry)["round"], 2, "a wish that changes the placement is a round");
    assert!(viewer.ask(&json!("apply"))["ok"].is_string());
    assert!(viewer.ask(&json!({"set_policy": "opposed"}))["ok"].as_str().unwrap().contains("opposed"));
    viewer.snapshot(|snapshot| snapshot["plan"]["available"]["policy"] == "opposed");

    let dir_named = json!({"start_recording": {"dir": recording.to_str().unwrap()}});
    assert!(viewer.ask(&dir_named)["ok"].is_string());
    assert!(viewer.ask(&dir_named)["error"].as_str().unwrap().contains("is running"));
    assert!(viewer.ask(&json!("stop_recording"))["ok"].as_str().unwrap().contains("recorded"));
    assert!(viewer.ask(&json!("stop_recording"))["error"].as_str().unwrap().contains("no recording"));
    assert!(recording.join("manifest.json").exists());
    assert!(viewer.ask(&json!("make_coffee"))["error"].as_str().unwrap().contains("not understood"));
    huddle.end(Signal::SIGTERM);
    assert_eq!(cpus(vm.pid()), before);
}
