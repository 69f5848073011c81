//! The web experiment on the real host: root, KSM, two cache domains and Apache with PHP are needed, and
//! a test that misses one says that it is skipped. None of them looks at how large the effect is.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_collector::host::HostRoot;
use huddle_collector::pin::{StateDir, restore};
use huddle_experiments::web::apache::{APACHE, Programs};
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

/// Says that a test is skipped, also where the test harness keeps what passing tests print.
fn skip(reason: &str) {
    // Not a macro of printing: the harness catches those.
    std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
}

fn is_skipped() -> bool {
    let missing = if !Uid::effective().is_root() {
        Some("root is missing".to_owned())
    } else if !Path::new("/sys/kernel/mm/ksm/run").exists() {
        Some("this kernel has no KSM".to_owned())
    } else {
        Programs::find(Path::new(APACHE)).err().map(|error| error.to_string())
    };
    missing.inspect(|reason| skip(reason)).is_some()
}

/// A short run: little data, few requests.
fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle-experiment"));
    let options = ["--data-kib", "256", "--requests", "8", "--warm-up-requests", "2", "--format", "json"];
    command.arg("web").args(options).args([
        Path::new("--out"),
        &dir.join("run"),
        Path::new("--state-dir"),
        &dir.join("state"),
    ]);
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

fn is_gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// The directory of a server's run, by the file it was started with.
fn site_of(pid: i32) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let config = line.split('\0').find(|word| word.ends_with("apache.conf")).unwrap();
    Path::new(config).ancestors().nth(2).unwrap().to_owned()
}

/// A long run. A test that fails ends it too, gently, so that it puts KSM's settings back.
struct Run {
    child: Child,
    stderr: BufReader<ChildStderr>,
    servers: Vec<i32>,
    site: PathBuf,
}

impl Run {
    fn signal(&self, signal: Signal) {
        // It may have ended, which the test then finds by its exit code.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    fn end(&mut self) -> (Option<i32>, String) {
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
fn started(dir: &Path) -> Option<Run> {
    let mut child = command(dir)
        .args(["--repetitions", "5000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
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

fn finished(mut command: Command) -> Option<Value> {
    let output = command.output().unwrap();
    if cannot(output.status.code(), &stderr(&output)) {
        return None;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    Some(serde_json::from_slice(&output.stdout).expect("one JSON object on stdout"))
}

#[test]
fn a_run_leaves_its_files_and_the_host_as_it_was() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let mut command = command(dir.path());
    command.args(["--repetitions", "6"]);
    let Some(summary) = finished(command) else { return };
    assert_eq!(settings(), before);

    let file = std::fs::read(dir.path().join("run/summary.json")).unwrap();
    assert_eq!(summary, serde_json::from_slice::<Value>(&file).unwrap());
    assert_eq!((&summary["schema"], &summary["experiment"]), (&"huddle/summary/1".into(), &"web".into()));
    assert_eq!((&summary["guest"], &summary["page"]), (&"process".into(), &"resident".into()));
    assert_eq!(summary["valid"], true, "{}", summary["invalid_blocks"]);
    let arms = ["not_merged", "not_merged_opposed", "recommended", "opposed", "kernel", "random", "control"];
    for arm in arms {
        let figure = &summary["arms"][arm];
        assert_eq!((&figure["n"], &figure["unit"]), (&6.into(), &"us".into()), "{arm}");
        let [low, high] = [0, 1].map(|end| figure["ci95"][end].as_f64().unwrap());
        let median = figure["median"].as_f64().unwrap();
        assert!(0.0 < low && low <= median && median <= high, "{figure}");
        let requests = &summary["requests"][arm];
        assert_eq!((&requests["sent"], &requests["failed"]), (&(6 * 4 * 8).into(), &0.into()), "{arm}");
        let latency = &summary["latency_us"][arm];
        assert!(latency["p99"]["ci95"].is_array() && latency["p99_9"].is_null(), "{latency}");
    }
    for ratio in ["opposed_over_recommended", "not_merged_opposed_over_not_merged"] {
        assert!(summary["ratios"][ratio]["ci95"].is_array(), "{ratio}");
    }
    // 64 pages of data: all merged within a pair, none across.
    assert!(summary["data_shared_pages"][0][1].as_u64().unwrap() >= 61, "{}", summary["data_shared_pages"]);
    assert_eq!(summary["data_shared_pages"][0][2], 0);
    let rate = |name: &str| summary[name].as_f64().unwrap();
    assert!(rate("sharing_rate") > rate("sharing_rate_across"));
    // Seven arms, of which the warm-up is not in the table.
    let table = std::fs::metadata(dir.path().join("run/responses/segment-000001.parquet")).unwrap();
    assert!(table.len() > 1000);
    let misses = &summary["llc_misses"];
    assert!(misses["available"].is_object() || misses["unavailable"].is_string(), "{misses}");
}

#[test]
fn the_page_paper_an_open_loop_and_the_mixed_preset_run_through() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let run = |options: &[&str]| {
        let mut command = command(dir.path());
        command.args(["--repetitions", "1"]).args(options);
        finished(command)
    };
    let Some(paper) = run(&["--page", "paper", "--rate", "40"]) else { return };
    assert_eq!((&paper["page"], &paper["config"]["loop_kind"]), (&"paper".into(), &"open".into()));
    assert_eq!(paper["requests"]["opposed"]["failed"], 0);
    assert_eq!(paper["placed_by"], "the data that servers are known to hold");
    let Some(mixed) = run(&["--preset", "mixed"]) else { return };
    assert_eq!(mixed["tenants"].as_array().unwrap().len(), 7);
    assert_eq!(mixed["data_shared_pages"][4][5], 0, "what a writer writes is not merged");
    assert_eq!(settings(), before);
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
        let (code, said) = run.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("interrupted; the host is as it was before"), "{said}");
        assert_eq!(settings(), before);
        assert!(run.servers.iter().all(|server| is_gone(*server)) && !run.site.exists());
    }
}

#[test]
fn a_server_that_dies_ends_the_run_with_its_name() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(mut run) = started(dir.path()) else { return };
    kill(Pid::from_raw(run.servers[2]), Signal::SIGKILL).unwrap();
    let (code, said) = run.end();
    assert_eq!(code, Some(1), "{said}");
    let named = format!("(pid {})", run.servers[2]);
    assert!(said.contains("the guest vm") && said.contains(&named) && said.contains("SIGKILL"), "{said}");
    assert_eq!(settings(), before);
    assert!(run.servers.iter().all(|server| is_gone(*server)) && !run.site.exists());
}

#[test]
fn after_a_kill_no_server_is_left_and_restore_and_the_next_run_clean_up() {
    if is_skipped() {
        return;
    }
    let _lock = ksm_lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(mut run) = started(dir.path()) else { return };
    run.signal(Signal::SIGKILL);
    run.end();
    assert_ne!(settings(), before, "a killed run cannot put KSM back itself");
    let until = Instant::now() + Duration::from_secs(10);
    while !run.servers.iter().all(|server| is_gone(*server)) {
        assert!(Instant::now() < until, "its servers outlive it: {:?}", run.servers);
        std::thread::sleep(Duration::from_millis(10));
    }
    let next = command(dir.path()).output().unwrap();
    assert_eq!(next.status.code(), Some(1));
    assert!(stderr(&next).contains("huddle restore"), "{}", stderr(&next));

    let state = StateDir::open(Some(&dir.path().join("state"))).unwrap().lock().unwrap();
    let report = restore(&HostRoot::real(), &state).unwrap();
    assert_eq!((settings(), report.failures), (before, Vec::new()));
    drop(state);
    let mut next = command(dir.path());
    next.args(["--repetitions", "1"]);
    assert!(finished(next).is_some());
    assert!(!run.site.exists(), "the next run removes what the killed one left");
}

#[test]
fn without_apache_it_says_how_to_get_it_and_changes_nothing() {
    if !Uid::effective().is_root() {
        return skip("root is missing");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path()).args(["--apache", "/nonexistent/apache2"]).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("/nonexistent/apache2") && said.contains("cargo xtask setup"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!dir.path().join("run").exists());
}

#[test]
fn wrong_usage_ends_with_two() {
    for options in [
        &["--requests", "0"][..],
        &["--rate", "-1"],
        &["--guest", "xen"],
        &["--page", "other"],
        &["--preset", "best"],
        &["--spec", "/nonexistent/spec.toml"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_huddle-experiment")).arg("web").args(options).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {}", stderr(&output));
    }
}
