//! Short and long runs of the real binary, whose host is to be as it was before.
#![allow(dead_code, reason = "no test program uses all of it")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_host::pin::{StateDir, Undoers, restore};
use huddle_testing::output::say;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SETTINGS: [&str; 4] = ["run", "smart_scan", "pages_to_scan", "sleep_millisecs"];

/// KSM's settings that experiments change.
pub(crate) fn settings() -> Vec<Option<String>> {
    let read = |file: &&str| std::fs::read_to_string(Path::new("/sys/kernel/mm/ksm").join(file)).ok();
    SETTINGS.iter().map(read).collect()
}

/// Prints that a test is skipped.
pub(crate) fn skip(reason: &str) {
    say(&format!("skipped: {reason}"));
}

/// An experiment with its output in `dir`.
pub(crate) fn command(dir: &Path, experiment: &str, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle-experiment"));
    command.arg(experiment).args(options).args(["--format", "json"]);
    command.arg("--out").arg(dir.join("run")).arg("--state-dir").arg(dir.join("state"));
    command.env("HUDDLE_HOST_LOCK", dir.join("host"));
    command
}

/// Whether the host cannot run it at all; printed, so that a skipped test is seen.
pub(crate) fn cannot(code: Option<i32>, stderr: &str) -> bool {
    if code == Some(3) {
        skip(stderr);
    }
    code == Some(3)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn is_gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn children(pid: u32) -> Vec<i32> {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| read(task.unwrap().path().join("children")));
    lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// A long run. A test that fails ends it too, by a signal, so that it puts KSM's settings back.
pub(crate) struct Run {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Processes of its guests.
    pub(crate) guests: Vec<i32>,
}

impl Run {
    /// Starts it and returns when its first block begins; `None` where the host cannot run it.
    pub(crate) fn start(mut command: Command) -> Option<Self> {
        command.args(["--repetitions", "5000"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut run = Self { child, stderr, guests: Vec::new() };
        let mut text = String::new();
        while !text.contains("block 1 of") {
            if run.stderr.read_line(&mut text).unwrap() == 0 {
                let code = run.child.wait().unwrap().code();
                assert!(cannot(code, &text), "it ended with {code:?}: {text}");
                return None;
            }
        }
        run.guests = children(run.child.id());
        assert_eq!(run.guests.len(), 4, "{text}");
        Some(run)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended, which the test then finds by its exit code.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Waits for its end: exit code and the rest of its standard error.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
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

/// The summary of a short run; `None` where the host cannot run it.
pub(crate) fn finished(mut command: Command) -> Option<Value> {
    let output = command.output().unwrap();
    if cannot(output.status.code(), &stderr(&output)) {
        return None;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    Some(serde_json::from_slice(&output.stdout).expect("one JSON object on stdout"))
}

/// The summary of a run of six blocks of processes in `dir` has what every one has, these arms among it.
pub(crate) fn assert_summary(summary: &Value, dir: &Path, experiment: &str, arms: &[&str], unit: &str) {
    let file = std::fs::read(dir.join("run/summary.json")).unwrap();
    assert_eq!(summary, &serde_json::from_slice::<Value>(&file).unwrap());
    assert_eq!(summary["schema"], "huddle/summary/1");
    assert_eq!((&summary["experiment"], &summary["guest"]), (&experiment.into(), &"process".into()));
    assert_eq!(summary["valid"], true, "{}", summary["invalid_blocks"]);
    for arm in arms {
        let figure = &summary["arms"][arm];
        assert_eq!((&figure["n"], &figure["unit"]), (&6.into(), &unit.into()), "{arm}");
        let [low, high] = [0, 1].map(|end| figure["ci95"][end].as_f64().unwrap());
        let median = figure["median"].as_f64().unwrap();
        assert!(0.0 < low && low <= median && median <= high, "{figure}");
    }
    // A count, or why there is none; never nothing.
    let misses = &summary["llc_misses"];
    assert!(misses["available"].is_object() || misses["unavailable"].is_string(), "{misses}");
}

/// A run that is signalled ends by itself, with the host as it was and its guests gone.
pub(crate) fn assert_interrupted(mut run: Run, signal: Signal, before: &[Option<String>]) {
    run.signal(signal);
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("interrupted; the host is as it was before"), "{text}");
    assert_eq!(settings(), before);
    assert!(run.guests.iter().all(|guest| is_gone(*guest)), "guests still run: {:?}", run.guests);
}

/// After a run in `dir` is killed its guests end, the next run asks for `huddle restore`, and that puts everything
/// back.
pub(crate) fn assert_restored_after_kill(
    mut run: Run,
    dir: &Path,
    mut next: Command,
    before: &[Option<String>],
) {
    run.signal(Signal::SIGKILL);
    run.end();
    assert_ne!(settings(), before, "a killed run cannot put KSM back itself");
    let until = Instant::now() + Duration::from_secs(10);
    while !run.guests.iter().all(|guest| is_gone(*guest)) {
        assert!(Instant::now() < until, "its guests outlive it: {:?}", run.guests);
        std::thread::sleep(Duration::from_millis(10));
    }
    let next = next.output().unwrap();
    assert_eq!(next.status.code(), Some(1));
    assert!(stderr(&next).contains("huddle restore"), "{}", stderr(&next));

    let root = HostRoot::real().with_run(dir);
    let state = StateDir::open(Some(&dir.join("state"))).unwrap().lock(&root).unwrap();
    let report = restore(&Undoers::of_host(HostRoot::real()), &state).unwrap();
    assert_eq!((&settings()[..], report.failures), (before, Vec::new()));
}

/// It fails with this exit code and one line that has these words.
pub(crate) fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
