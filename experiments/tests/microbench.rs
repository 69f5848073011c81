//! The microbenchmark on the real host: root, KSM and two cache domains are needed, and a test that
//! misses one says that it is skipped. None of them looks at how large the effect is.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_host::HostRoot;
use huddle_host::pin::{StateDir, Undoers, restore};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

const SETTINGS: [&str; 4] = ["run", "smart_scan", "pages_to_scan", "sleep_millisecs"];

/// The sole right to change KSM among the tests of this machine.
fn ksm_lock() -> Flock<std::fs::File> {
    let file = std::fs::File::create("/run/lock/huddle-ksm-test.lock").unwrap();
    Flock::lock(file, FlockArg::LockExclusive).unwrap()
}

fn settings() -> Vec<Option<String>> {
    let read = |file: &&str| std::fs::read_to_string(Path::new("/sys/kernel/mm/ksm").join(file)).ok();
    SETTINGS.iter().map(read).collect()
}

fn missing() -> Option<&'static str> {
    if !Uid::effective().is_root() {
        Some("root is missing")
    } else if !Path::new("/sys/kernel/mm/ksm/run").exists() {
        Some("this kernel has no KSM")
    } else {
        None
    }
}

/// Says that a test is skipped, also where the test harness keeps what passing tests print.
fn skip(reason: &str) {
    // Not a macro of printing: the harness catches those.
    std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
}

fn is_skipped() -> bool {
    missing().inspect(|reason| skip(reason)).is_some()
}

/// A short run: little data, few blocks.
fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle-experiment"));
    command.args(["microbench", "--data-kib", "256", "--settle-seconds", "0.05", "--format", "json"]).args([
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

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn children(pid: u32) -> Vec<i32> {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| read(task.unwrap().path().join("children")));
    lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// A long run. A test that fails ends it too, gently, so that it puts KSM's settings back.
struct Run {
    child: Child,
    stderr: BufReader<ChildStderr>,
    guests: Vec<i32>,
}

impl Run {
    fn signal(&self, signal: Signal) {
        // It may have ended, which the test then finds by its exit code.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
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
fn started(dir: &Path) -> Option<Run> {
    let mut child = command(dir)
        .args(["--repetitions", "1000", "--seconds-per-arm", "0.2"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut run = Run { child, stderr, guests: Vec::new() };
    let mut text = String::new();
    while !text.contains("block 1 of") {
        if run.stderr.read_line(&mut text).unwrap() == 0 {
            let code = run.code();
            assert!(cannot(code, &text), "it ended with {code:?}: {text}");
            return None;
        }
    }
    run.guests = children(run.child.id());
    assert_eq!(run.guests.len(), 4, "{text}");
    Some(run)
}

#[test]
fn a_run_leaves_its_summary_and_the_host_as_it_was() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let output =
        command(dir.path()).args(["--repetitions", "6", "--seconds-per-arm", "0.2"]).output().unwrap();
    if cannot(output.status.code(), &stderr(&output)) {
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(settings(), before);

    let summary: Value = serde_json::from_slice(&output.stdout).expect("one JSON object on stdout");
    let file = std::fs::read(dir.path().join("run/summary.json")).unwrap();
    assert_eq!(summary, serde_json::from_slice::<Value>(&file).unwrap());
    assert_eq!(summary["schema"], "huddle/summary/1");
    assert_eq!((&summary["experiment"], &summary["guest"]), (&"microbench".into(), &"process".into()));
    assert_eq!(summary["valid"], true, "{}", summary["invalid_blocks"]);
    for arm in ["not_merged", "recommended", "opposed", "kernel", "random", "control"] {
        let figure = &summary["arms"][arm];
        assert_eq!((&figure["n"], &figure["unit"]), (&6.into(), &"reads/s".into()));
        let [low, high] = [0, 1].map(|end| figure["ci95"][end].as_f64().unwrap());
        let median = figure["median"].as_f64().unwrap();
        assert!(0.0 < low && low <= median && median <= high, "{figure}");
    }
    let ratio = &summary["ratios"]["opposed_over_recommended"];
    assert!(ratio["value"].as_f64().unwrap() > 0.0 && ratio["ci95"].is_array(), "{ratio}");
    for ratio in ["not_merged_over_opposed", "control_over_recommended"] {
        assert!(summary["ratios"][ratio]["ci95"].is_array(), "{ratio}");
    }
    let probe = &summary["blocks"][0]["samples"][0]["guests"][0]["host"];
    assert!(probe["cpu_time_ns"]["available"].as_u64().unwrap() > 0, "{probe}");
    // A count, or why there is none; never nothing.
    let misses = &summary["llc_misses"];
    assert!(misses["available"].is_object() || misses["unavailable"].is_string(), "{misses}");
    assert!(summary["boot"]["unavailable"].as_str().unwrap().contains("qemu"));
    // 64 of the 192 pages of each guest are data that its partner holds too.
    assert_eq!(summary["matrix"]["shared_frames"][0][1], 64);
    assert_eq!(summary["matrix"]["shared_frames"][0][2], 0);
    let rate = summary["sharing_rate"].as_f64().unwrap();
    assert!((0.3..=0.36).contains(&rate), "{rate}");
    assert!(summary["environment"]["kernel"].is_string());
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let before = settings();
        let Some(mut run) = started(dir.path()) else { return };
        run.signal(signal);
        let mut said = String::new();
        run.stderr.read_to_string(&mut said).unwrap();
        assert_eq!(run.code(), Some(1), "{said}");
        assert!(said.contains("interrupted; the host is as it was before"), "{said}");
        assert_eq!(settings(), before);
        for guest in &run.guests {
            assert!(!Path::new(&format!("/proc/{guest}")).exists(), "guest {guest} still runs");
        }
    }
}

#[test]
fn after_a_kill_the_next_run_asks_for_a_restore_which_puts_everything_back() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(mut run) = started(dir.path()) else { return };
    run.signal(Signal::SIGKILL);
    run.code();
    assert_ne!(settings(), before, "a killed run cannot put KSM back itself");
    let gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
    let until = Instant::now() + Duration::from_secs(10);
    while !run.guests.iter().all(gone) {
        assert!(Instant::now() < until, "its guests outlive it: {:?}", run.guests);
        std::thread::sleep(Duration::from_millis(10));
    }

    let next = command(dir.path()).output().unwrap();
    assert_eq!(next.status.code(), Some(1));
    assert!(stderr(&next).contains("huddle restore"), "{}", stderr(&next));

    let root = HostRoot::real().with_run(dir.path());
    let state = StateDir::open(Some(&dir.path().join("state"))).unwrap().lock(&root).unwrap();
    let report = restore(&Undoers::of_host(HostRoot::real()), &state).unwrap();
    assert_eq!((settings(), report.failures), (before, Vec::new()));
}

#[test]
fn of_two_runs_at_once_the_second_says_who_holds_the_lock() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let Some(mut first) = started(dir.path()) else { return };
    let second = command(dir.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = stderr(&second);
    assert!(said.contains(&format!("pid {}", first.child.id())), "{said}");
    first.signal(Signal::SIGINT);
    assert_eq!(first.code(), Some(1));
}

#[test]
fn on_one_cpu_it_says_why_it_cannot_and_changes_nothing() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let mut confined = Command::new("taskset");
    let command = command(dir.path());
    confined.args(["-c", "0"]).arg(command.get_program()).args(command.get_args());
    let output = match confined.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("taskset (util-linux) is missing");
            return;
        }
        output => output.unwrap(),
    };
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("share one cache"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(settings(), before);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn without_root_it_says_so() {
    if is_skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_huddle-experiment"));
    let output = match command(dir.path()).uid(65_534).gid(65_534).output() {
        Err(error) => {
            skip(&format!("another user cannot start {}: {error}", program.display()));
            return;
        }
        Ok(output) => output,
    };
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("root"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn wrong_usage_ends_with_two() {
    for args in [
        &["microbench", "--repetitions", "many"][..],
        &["microbench", "--seconds-per-arm", "-1"],
        &["microbench", "--preset", "best"],
        &["microbench", "--spec", "/nonexistent/spec.toml"],
        &["microbench", "--data-kib", "3"],
        &["nothing"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_huddle-experiment")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}
