//! Viewers of a real `huddle run`, over its socket.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

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
    say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
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
        .env("HUDDLE_HOST_LOCK", state.with_file_name("host"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(huddle.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("round 1:")), "it ended");
    // The rest of the log is read, so that a full pipe never blocks the loop.
    std::thread::spawn(move || log.for_each(drop));
    Ended(huddle)
}

struct Viewer {
    read: BufReader<UnixStream>,
    write: UnixStream,
    /// Answers that came while an update was waited for.
    answers: VecDeque<Value>,
}

impl Viewer {
    /// Connects and reads the hello only.
    fn connect(socket: &Path) -> Self {
        let write = UnixStream::connect(socket).unwrap();
        write.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut viewer =
            Self { read: BufReader::new(write.try_clone().unwrap()), write, answers: VecDeque::new() };
        assert_eq!(viewer.read()["hello"]["protocol"], "huddle/attach/4");
        viewer
    }

    fn attach(socket: &Path) -> Self {
        let mut viewer = Self::connect(socket);
        viewer.write(&json!({"hello": {"protocol": "huddle/attach/4", "version": "of a test"}}));
        viewer
    }

    fn write(&mut self, line: &Value) {
        writeln!(self.write, "{line}").unwrap();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.read.read_line(&mut line).unwrap() > 0, "the loop has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// The complete view that comes first.
    fn view(&mut self) -> Value {
        loop {
            let view = self.read()["view"].take();
            if !view.is_null() {
                assert_eq!(view["missed"], 0);
                return view["state"].clone();
            }
        }
    }

    /// The next update of a kind that is as wanted.
    fn update(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut line = self.read();
            self.answers.extend(line.get_mut("answer").map(Value::take));
            let updates = line["updates"].take();
            for update in updates.as_array().into_iter().flatten().map(|update| &update[kind]) {
                if !update.is_null() && wanted(update) {
                    return update.clone();
                }
            }
            assert!(Instant::now() < until, "no such update");
        }
    }

    /// The complete view that comes first and the state of the recording, in either order.
    fn view_and_recording(&mut self) -> (Value, Value) {
        let (mut view, mut recording) = (None, None);
        loop {
            let mut line = self.read();
            if let Some(found) = line.get_mut("view") {
                view = Some(found["state"].take());
            }
            recording = line.get_mut("recording").map(Value::take).or(recording);
            match (view, recording) {
                (Some(view), Some(recording)) => return (view, recording),
                missing => (view, recording) = missing,
            }
        }
    }

    /// The next state of the recording that is as wanted.
    fn recording(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut line = self.read();
            if let Some(state) = line.get_mut("recording").filter(|state| wanted(state)) {
                return state.take();
            }
            assert!(Instant::now() < until, "no such state");
        }
    }

    fn command(&mut self, command: &Value) -> Value {
        self.write(command);
        self.answer()
    }

    fn answer(&mut self) -> Value {
        if let Some(answer) = self.answers.pop_front() {
            return answer;
        }
        loop {
            let answer = self.read()["answer"].take();
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
fn several_viewers_see_the_loop_and_one_that_reads_nothing_delays_no_other() {
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
        let first = viewer.view();
        assert_eq!((&first["round"]["number"], &first["round"]["vms"][0]["name"]), (&json!(1), &json!("a")));
        // Each window that ends is sent once, and nothing else is sent.
        let window = |seen: &Value| seen["available"]["window"].as_u64();
        let next = viewer.update("window", |seen| window(seen).is_some());
        for later in 1..=3 {
            let seen = viewer.update("window", |_| true);
            assert_eq!(window(&seen), window(&next).map(|window| window + later));
        }
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
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(
        stderr.contains("another huddle serves viewers at") && stderr.trim().lines().count() == 1,
        "{stderr}"
    );
    huddle.end(Signal::SIGINT);
}

#[test]
fn commands_are_done_and_answered() {
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
        say("one CPU: that restoring widens the affinity is not seen");
    }
    viewer.write(&json!("restore"));
    let round = viewer.update("round", |_| true);
    assert_eq!((&round["number"], &round["pinning"]), (&json!(2), &json!("dry_run")), "it is a round");
    // What was found stays, and is not sent again.
    assert_eq!(round["vms"], "unchanged");
    assert!(round["matrix"]["unchanged"].is_object() && round["topology"] == "unchanged", "{round}");
    assert!(viewer.answer()["ok"].as_str().unwrap().contains("undone"));
    assert_eq!(cpus(vm.pid()), before);
    assert!(viewer.command(&json!("apply"))["ok"].is_string());
    viewer.write(&json!({"set_policy": "opposed"}));
    viewer.update("round", |round| round["plan"]["new"]["available"]["policy"] == "opposed");
    assert!(viewer.answer()["ok"].as_str().unwrap().contains("opposed"));
    let late = Viewer::attach(&state.join("attach.sock")).view();
    assert_eq!(late["round"]["plan"]["available"]["policy"], "opposed");

    let dir_named = json!({"start_recording": {"dir": recording.to_str().unwrap()}});
    assert!(viewer.command(&dir_named)["ok"].is_string());
    assert!(viewer.command(&dir_named)["error"].as_str().unwrap().contains("is running"));
    assert!(viewer.command(&json!("stop_recording"))["ok"].as_str().unwrap().contains("recorded"));
    assert!(viewer.command(&json!("stop_recording"))["error"].as_str().unwrap().contains("no recording"));
    assert!(recording.join("manifest.json").exists());
    assert!(viewer.command(&json!("make_coffee"))["error"].as_str().unwrap().contains("not understood"));
    huddle.end(Signal::SIGTERM);
    assert_eq!(cpus(vm.pid()), before);
}

/// The directory of a recording is removed while the loop runs: viewers are notified, and recording goes on in it.
#[test]
fn viewers_are_notified_when_recording_is_interrupted_and_when_it_goes_on() {
    if skipped_without_root() {
        return;
    }
    let (dir, vm) = (tempfile::tempdir().unwrap(), process());
    let (state, recording) = (dir.path().join("state"), dir.path().join("recording"));
    // A dry run makes no state directory.
    let socket = dir.path().join("attach.sock");
    let huddle = start(
        &state,
        &vm,
        &["--dry-run", "--record", recording.to_str().unwrap(), "--socket", socket.to_str().unwrap()],
    );
    let mut viewer = Viewer::attach(&socket);
    let named = json!({"dir": recording.to_str().unwrap(), "interrupted": null});
    assert_eq!(viewer.recording(|_| true), named);
    // In one step, since it is written meanwhile.
    std::fs::rename(&recording, dir.path().join("moved")).unwrap();
    let interrupted = viewer.recording(|state| !state["interrupted"].is_null());
    let reason = interrupted["interrupted"]["reason"].as_str().unwrap();
    assert!(reason.contains("is gone while it was being written"), "{interrupted}");
    // A new viewer gets that state first.
    let mut late = Viewer::attach(&socket);
    let (view, state) = late.view_and_recording();
    assert!(state == interrupted || state == named, "{state}");
    let event = view["events"].as_array().unwrap().iter().find_map(|event| {
        let message = event["message"].as_str().unwrap();
        message.contains("nothing is recorded into").then(|| message.to_owned())
    });
    assert!(event.is_some_and(|message| message.contains(reason)));
    assert_eq!(viewer.recording(|state| state["interrupted"].is_null()), named, "it is tried again");
    huddle.end(Signal::SIGTERM);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(recording.join("manifest.json")).unwrap()).unwrap();
    let gap = &manifest["gaps"][0];
    assert!(gap["end_us"].is_i64() && gap["rows_lost"].as_u64() > Some(0), "{gap}");
    assert_eq!((manifest["gaps"].as_array().unwrap().len(), &manifest["stopped"]), (1, &Value::Null));
    // A replay of the recording reports it too.
    let replayed = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["plan", "--replay", recording.to_str().unwrap(), "--format", "json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert!(stderr.contains("the recording was interrupted from"), "{stderr}");
}

#[test]
fn another_version_is_reported_to_the_viewer_and_in_the_log() {
    if skipped_without_root() {
        return;
    }
    let (dir, vm) = (tempfile::tempdir().unwrap(), process());
    let state = dir.path().join("state");
    let socket = state.join("attach.sock");
    let name = format!("a={}", vm.pid());
    let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["run", "--vm", &name])
        .env("HUDDLE_STATE_DIR", &state)
        .env("HUDDLE_HOST_LOCK", dir.path().join("host"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(huddle.stderr.take().unwrap()).lines().map(Result::unwrap);
    let huddle = Ended(huddle);
    assert!(log.any(|line| line.contains("round 1:")), "it ended");
    // One that says its version, and one of attach/1, which says none and begins with a command.
    for (line, why) in [
        (
            json!({"hello": {"protocol": "huddle/attach/9", "version": "9.9.9"}}),
            "is huddle 9.9.9 and speaks huddle/attach/9",
        ),
        (json!("restore"), "does not speak huddle/attach/4, as this loop does"),
    ] {
        let mut viewer = Viewer::connect(&socket);
        let answer = viewer.command(&line);
        assert!(answer["error"].as_str().unwrap().contains(why), "{answer}");
        let mut rest = String::new();
        assert_eq!(viewer.read.read_line(&mut rest).unwrap(), 0, "it is disconnected");
        assert!(log.any(|line| line.contains(why)), "the log has it too");
    }
    huddle.end(Signal::SIGTERM);
    // The other way round: a loop that speaks attach/1.
    let old = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = old.accept().unwrap();
        let hello =
            json!({"hello": {"protocol": "huddle/attach/1", "version": "0.0.1", "pid": 1, "can_pin": true}});
        writeln!(stream, "{hello}").unwrap();
    });
    let top = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["top", "--attach", socket.to_str().unwrap()])
        .output()
        .unwrap();
    serving.join().unwrap();
    let stderr = String::from_utf8(top.stderr).unwrap();
    assert!(
        stderr.contains("does not speak huddle/attach/4: it is huddle 0.0.1 and speaks huddle/attach/1"),
        "{stderr}"
    );
}
