//! `huddle run` as a service: what it tells its manager, its reload, and its unit.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const UNIT: &str = include_str!("../../packaging/huddle.service");
const PRIVILEGES: &str = include_str!("../../docs/privileges.md");

/// A loop with a service manager and without a terminal, on a process of its own.
struct Service {
    dir: tempfile::TempDir,
    manager: UnixDatagram,
    process: Child,
    huddle: Child,
    log: std::io::Lines<BufReader<ChildStderr>>,
}

impl Service {
    fn start(settings: &str, arguments: &[&str], watchdog: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let config = dir.path().join("config.toml");
        std::fs::write(&config, settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command
            .args(["run", "--config"])
            .arg(&config)
            .args(["--vm", &format!("a={}", process.id()), "--window", "0.1"])
            .args(arguments)
            .envs(huddle_testing::own_state(dir.path()))
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
            .env_remove("HUDDLE_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: setsid(2) is async-signal-safe and touches no memory.
        unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
        let mut huddle = command.spawn().unwrap();
        let log = BufReader::new(huddle.stderr.take().unwrap()).lines();
        Self { dir, manager, process, huddle, log }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Waits for a message to the manager with this line.
    fn told(&self, line: &str) -> String {
        loop {
            let mut message = [0; 4096];
            let length = self.manager.recv(&mut message).unwrap_or_else(|error| panic!("{line}: {error}"));
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|one| one.starts_with(line)) {
                return message;
            }
        }
    }

    /// Waits for a line of the log with this text.
    fn logged(&mut self, text: &str) -> String {
        let mut seen = String::new();
        for line in self.log.by_ref().map(Result::unwrap) {
            if line.contains(text) {
                return line;
            }
            seen += &format!("{line}\n");
        }
        panic!("no {text:?} in:\n{seen}");
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.huddle.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for child in [&mut self.huddle, &mut self.process] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a loop can run here.
fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
    huddle_testing::output::say("skipped: needs root, to read frame numbers");
    false
}

#[test]
fn the_manager_is_told_what_happens() {
    if !is_root() {
        return;
    }
    let service = Service::start("policy = \"spread\"\n", &[], Duration::from_millis(300));
    let ready = service.told("READY=1");
    assert!(ready.contains("\nSTATUS=1 VM; policy spread; "), "{ready}");
    service.told("WATCHDOG=1");
    service.send(Signal::SIGHUP);
    let reloading = service.told("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    service.told("READY=1");
    service.send(Signal::SIGTERM);
    service.told("STOPPING=1");
    let mut service = service;
    assert!(service.huddle.wait().unwrap().success());
}

#[test]
fn a_hangup_reloads_what_can_be_and_names_the_rest() {
    if !is_root() {
        return;
    }
    let mut service =
        Service::start("policy = \"spread\"\n", &["--cache-level", "2"], Duration::from_secs(60));
    service.told("READY=1");
    service.logged("round 1: ");
    std::fs::write(service.config(), "policy = \"none\"\ncache_level = 1\n[trial]\nblocks = 9\n").unwrap();
    service.send(Signal::SIGHUP);
    for line in [
        "configuration: cache_level: default → 1 (the flag --cache-level wins)",
        "configuration: policy: \"spread\" → \"none\"",
        "configuration: trial.blocks: default → 9; takes effect after a restart",
    ] {
        // The loop reports them in the order of the keys.
        service.logged(line);
    }
    service.told("STATUS=1 VM; policy none; ");
    // The whole file is wrong: nothing of it is used.
    for (text, why) in [
        ("policy = \"paper\"\npolice = 1\n", "line 2: "),
        ("policy = \"paper\"\n[plan]\napart = [[\"a\", \"nobody\"]]\n", "nobody"),
        ("policy = \"paper\"\n[sharing]\nmethod = \"content\"\nweigh = \"read\"\n", "weigh"),
    ] {
        std::fs::write(service.config(), text).unwrap();
        service.send(Signal::SIGHUP);
        let line = service.logged("the configuration is not reloaded, and what was in force stays: ");
        assert!(line.contains(why), "{line}");
        service.told("READY=1");
    }
    std::fs::write(service.config(), "policy = \"none\"\ncache_level = 1\n[trial]\nblocks = 9\n").unwrap();
    service.send(Signal::SIGHUP);
    // What waits for a restart is said again.
    service.logged("configuration: trial.blocks: default → 9; takes effect after a restart");
    service.send(Signal::SIGINT);
    assert!(service.huddle.wait().unwrap().success());
}

#[test]
fn a_directory_for_recordings_gets_one_for_each_run() {
    if !is_root() {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let settings = format!("[record]\ndirectory = {:?}\n", runs.path());
    let mut service = Service::start(&settings, &["--rounds", "1"], Duration::from_secs(60));
    assert!(service.huddle.wait().unwrap().success());
    let found: Vec<_> = std::fs::read_dir(runs.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].join("manifest.json").exists(), "{found:?}");
}

/// Names after `prefix` in the lines of the unit.
fn of_unit(prefix: &str) -> BTreeSet<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(prefix)).flat_map(str::split_ascii_whitespace).collect()
}

#[test]
fn the_unit_has_the_capabilities_of_the_table() {
    let row = |command: &str| {
        let row = PRIVILEGES.lines().find(|line| line.starts_with(&format!("| `{command}` |"))).unwrap();
        row.split(['|', ',']).map(str::trim).filter(|cell| cell.starts_with("CAP_")).collect::<BTreeSet<_>>()
    };
    let mut needed = row("run");
    // Its column "uses if available" is that of `matrix`.
    needed.extend(row("matrix"));
    needed.extend(row("restore"));
    assert_eq!(of_unit("CapabilityBoundingSet="), needed);
}

#[test]
fn the_container_has_the_capabilities_of_the_table() {
    let text = include_str!("../../packaging/Containerfile");
    let given: BTreeSet<String> = text
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("--cap-add="))
        .flat_map(|names| names.split(','))
        .map(|name| format!("CAP_{name}"))
        .collect();
    let given: BTreeSet<&str> = given.iter().map(String::as_str).collect();
    assert_eq!(given, of_unit("CapabilityBoundingSet="));
}
