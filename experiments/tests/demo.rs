//! The demo in a real terminal: it shows its stand-ins, and leaves nothing behind.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, reason = "tests")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use huddle_testing::tmux;
use nix::fcntl::{Flock, FlockArg};

/// What is missing to run it here.
fn missing() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("not root".into());
    }
    if !Path::new("/sys/kernel/mm/ksm/run").exists() {
        return Some("this kernel has no KSM".into());
    }
    let huddle = Path::new(env!("CARGO_BIN_EXE_huddle-demo")).with_file_name("huddle");
    if !huddle.exists() {
        return Some(format!("{} is missing: build the workspace", huddle.display()));
    }
    tmux::missing()
}

/// Processes with this in their environment, by name.
fn processes(ours: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|line| line == ours.as_bytes()) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            names.push(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn the_demo_shows_stand_ins_and_leaves_nothing() {
    if let Some(reason) = missing() {
        assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {reason}");
        let _ = writeln!(std::io::stderr(), "skipped: {reason}");
        return;
    }
    let lock = "/run/lock/huddle-ksm-test.lock";
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let ksm = || std::fs::read_to_string("/sys/kernel/mm/ksm/run").unwrap();
    let before = ksm();
    let dir = tempfile::tempdir().unwrap();
    let (state, demo) = (dir.path().join("state"), env!("CARGO_BIN_EXE_huddle-demo"));
    let ours = format!("HUDDLE_STATE_DIR={}", state.display());
    let host = dir.path().join("host");
    let host = host.display();
    let script = format!(
        "export {ours} HUDDLE_HOST_LOCK={host} LC_ALL=C.UTF-8\n{demo} --vms 6\necho ended with $?\nunset HUDDLE_STATE_DIR\nexec sleep 1000\n"
    );
    let terminal = tmux::Terminal::start(dir.path(), (100, 30), &script);
    terminal.shows("share most");
    let screen = terminal.screen();
    assert!(screen.contains("6 VMs") && screen.contains("web-1"), "{screen}");
    assert_eq!(processes(&ours).iter().filter(|name| *name == "huddle-standin").count(), 6);
    terminal.keys(&["4"]);
    terminal.shows("operations per second that workloads report");
    terminal.keys(&["q"]);
    terminal.shows("ended with 0");
    assert_eq!(ksm(), before);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes(&ours).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes(&ours));
        std::thread::sleep(Duration::from_millis(50));
    }
}
