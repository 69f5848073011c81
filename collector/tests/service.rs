//! `huddle run` as a service: what it tells its manager, its reload, and its unit.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use huddle_testing::privileges;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const UNIT: &str = include_str!("../../packaging/huddle.service");

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
        Self::start_in(tempfile::tempdir().unwrap(), settings, arguments, watchdog)
    }

    fn start_in(dir: tempfile::TempDir, settings: &str, arguments: &[&str], watchdog: Duration) -> Self {
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

    /// How many messages with this line come within a time.
    fn told_within(&self, time: Duration, line: &str) -> usize {
        let until = Instant::now() + time;
        let mut count = 0;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.manager.set_read_timeout(Some(left)).unwrap();
            let mut message = [0; 4096];
            let Ok(length) = self.manager.recv(&mut message) else { break };
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            count += usize::from(message.lines().any(|one| one.starts_with(line)));
        }
        self.manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        count
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

/// A control group whose list of processes comes from a pipe: whoever reads it waits for a second, and for ever once it
/// hangs.
struct Group {
    directory: PathBuf,
    hangs: Arc<AtomicBool>,
    process: Child,
}

impl Group {
    fn new(dir: &Path) -> Self {
        let directory = dir.join("group");
        std::fs::create_dir(&directory).unwrap();
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(directory.join("cgroup.procs"), format!("{}\n", process.id())).unwrap();
        Self { directory, hangs: Arc::default(), process }
    }

    fn settings(&self) -> String {
        format!("[[vm]]\nname = \"group\"\ncgroup = {:?}\n", self.directory)
    }

    fn serve_from_a_pipe(&self) {
        let (procs, new) = (self.directory.join("cgroup.procs"), self.directory.join("new"));
        nix::unistd::mkfifo(&new, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        std::fs::rename(new, &procs).unwrap();
        let (hangs, id) = (Arc::clone(&self.hangs), self.process.id());
        std::thread::spawn(move || {
            // Returns when somebody opens it for reading.
            while let Ok(mut pipe) = OpenOptions::new().write(true).open(&procs) {
                std::thread::sleep(Duration::from_secs(1));
                while hangs.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                let _ = writeln!(pipe, "{id}");
                drop(pipe);
                // Until who has read it now has closed it, too: it is to be opened for the next one.
                std::thread::sleep(Duration::from_millis(300));
            }
        });
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One scrape; whether it was answered.
fn scrape(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: huddle\r\nConnection: close\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200 OK")
}

#[test]
fn a_reading_that_hangs_is_no_progress_whatever_else_the_process_does() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (group, socket) = (Group::new(dir.path()), dir.path().join("metrics"));
    group.serve_from_a_pipe();
    let settings = format!("{}[metrics]\nlisten = \"unix:{}\"\n", group.settings(), socket.display());
    let mut service = Service::start_in(dir, &settings, &[], Duration::from_secs(3));
    service.told("READY=1");
    std::fs::write(service.config(), format!("policy = \"none\"\n{settings}[trial]\nblocks = 9\n")).unwrap();
    service.send(Signal::SIGHUP);
    // It is said when the loop has the other settings, by which a round reads the group now.
    service.logged("some changes of the configuration need a restart");
    group.hangs.store(true, Ordering::Relaxed);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scraping = scope.spawn(|| {
            let mut answered = 0;
            while !is_done.load(Ordering::Relaxed) {
                answered += u32::from(scrape(&socket));
            }
            answered
        });
        // What was computed before is seen within a third of the time-out.
        service.told_within(Duration::from_secs(2), "WATCHDOG=1");
        let told = service.told_within(Duration::from_secs(4), "WATCHDOG=1");
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(told, 0, "the manager does not notice that the loop hangs");
        let answered = scraping.join().unwrap();
        assert!(answered > 100, "the metrics answered {answered} times");
    });
    // The loop goes on, and the manager is told so.
    group.hangs.store(false, Ordering::Relaxed);
    service.told("STATUS=2 VMs; policy none; ");
    service.told("WATCHDOG=1");
    service.send(Signal::SIGTERM);
    assert!(service.huddle.wait().unwrap().success());
}

#[test]
fn the_end_does_not_wait_for_a_reload_that_hangs() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new(dir.path());
    let mut service = Service::start_in(dir, &group.settings(), &[], Duration::from_secs(60));
    service.told("READY=1");
    group.hangs.store(true, Ordering::Relaxed);
    group.serve_from_a_pipe();
    std::fs::write(service.config(), format!("policy = \"none\"\n{}", group.settings())).unwrap();
    service.send(Signal::SIGHUP);
    service.told("RELOADING=1");
    // It looks for the VMs by now.
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    service.send(Signal::SIGTERM);
    assert!(service.huddle.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_key_changes_nothing_where_a_flag_wins() {
    if !is_root() {
        return;
    }
    let mut service = Service::start("policy = \"none\"\n", &["--policy", "spread"], Duration::from_secs(60));
    service.told("READY=1");
    service.logged("round 1: ");
    std::fs::write(service.config(), "policy = \"paper\"\n").unwrap();
    service.send(Signal::SIGHUP);
    let said = service.logged("configuration: policy: ");
    assert!(said.ends_with("\"none\" → \"paper\" (the flag --policy wins)"), "{said}");
    service.told("READY=1");
    std::fs::write(service.config(), "policy = \"paper\"\n[plan]\nload_per_cpu = 0.9\n").unwrap();
    service.send(Signal::SIGHUP);
    // The next round is that of the second reload.
    let next = service.logged("configuration: ");
    assert!(next.contains("plan.load_per_cpu: default → 0.9"), "{next}");
    let round = service.logged("round ");
    assert!(round.contains("round 2: "), "{round}");
}

/// The manifests of the recordings in a directory, in the order of their names.
fn manifests(directory: &Path) -> Vec<serde_json::Value> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.map(|path| path.join("manifest.json")).collect();
    found.sort();
    found.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
}

#[test]
fn a_recording_that_begins_after_a_reload_has_the_configuration_in_force() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    let record = format!("[record]\nkeep = \"10m\"\nkeep_dir = {kept:?}\n");
    let first = format!("# As installed.\npolicy = \"spread\"\ncache_level = 2\n{record}");
    let mut service = Service::start_in(dir, &first, &[], Duration::from_secs(60));
    service.told("READY=1");
    let save = |service: &mut Service| {
        service.send(Signal::SIGUSR1);
        service.logged("SIGUSR1: the last ");
        manifests(&kept).pop().unwrap()
    };
    assert_eq!(save(&mut service)["config"], first);
    // All of it is put in force: the file as it is.
    let second = format!("# By hand.\npolicy = \"none\"\ncache_level = 1\n{record}");
    std::fs::write(service.config(), &second).unwrap();
    service.send(Signal::SIGHUP);
    service.told("STATUS=1 VM; policy none; ");
    let manifest = save(&mut service);
    assert_eq!(manifest["config"], second);
    assert_eq!(manifest["topology"]["available"]["level"], 1, "{}", manifest["topology"]);
    // A part of it is.
    let third = format!("policy = \"spread\"\ncache_level = 1\nobjective = \"ipc\"\n{record}");
    std::fs::write(service.config(), &third).unwrap();
    service.send(Signal::SIGHUP);
    service.told("STATUS=1 VM; policy spread; ");
    let manifest = save(&mut service);
    let config = manifest["config"].as_str().unwrap();
    assert!(config.contains("policy = \"spread\"") && !config.contains("objective"), "{config}");
    // A mistake changes nothing.
    std::fs::write(service.config(), "police = 1\n").unwrap();
    service.send(Signal::SIGHUP);
    service.logged("the configuration is not reloaded");
    assert_eq!(save(&mut service)["config"], config);
}

#[test]
fn a_start_that_fails_removes_no_recording() {
    if !is_root() {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let old = runs.path().join("20260101T000000Z-7");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("manifest.json"), vec![b' '; 2 << 20]).unwrap();
    let record = format!("[record]\ndirectory = {:?}\ntotal_max_mib = 1\n", runs.path());
    let settings = format!("{record}[plan]\napart = [[\"a\", \"nobody\"]]\n");
    let mut service = Service::start(&settings, &["--rounds", "1"], Duration::from_secs(60));
    assert!(!service.huddle.wait().unwrap().success());
    assert!(old.exists());
    assert_eq!(std::fs::read_dir(runs.path()).unwrap().count(), 1, "nor begins one");
    let mut service = Service::start(&record, &["--rounds", "1"], Duration::from_secs(60));
    service.logged("1 old recording removed from ");
    assert!(service.huddle.wait().unwrap().success());
    assert!(!old.exists());
}

/// Names after `prefix` in the lines of the unit.
fn of_unit(prefix: &str) -> BTreeSet<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(prefix)).flat_map(str::split_ascii_whitespace).collect()
}

#[test]
fn the_unit_has_the_capabilities_of_the_table() {
    let mut needed = privileges::of_a_loop();
    needed.extend(privileges::row("restore"));
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

/// Text files of metrics go where the page says, which the unit does not make read-only.
#[test]
fn the_unit_can_write_where_the_page_of_metrics_says() {
    let page = include_str!("../../docs/metrics.md");
    let (_, path) = page.split_once("`textfile = \"").unwrap();
    let (path, _) = path.split_once('"').unwrap();
    let directory = Path::new(path).parent().unwrap().to_str().unwrap();
    assert!(of_unit("ReadWritePaths=").contains(format!("-{directory}").as_str()), "{directory}");
    let (_, dropin) = page.split_once("```ini\n").unwrap();
    let (dropin, _) = dropin.split_once("```").unwrap();
    let example = include_str!("../../packaging/metrics.conf");
    for line in dropin.lines() {
        assert!(example.lines().any(|of| of.trim_start_matches('#') == line), "{line}");
    }
}

/// The scripts of both packages for a removal, with what they run it with.
fn removals() -> [(String, &'static str); 2] {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let rpm = manifest["package"]["metadata"]["generate-rpm"]["post_uninstall_script"].as_str().unwrap();
    [(include_str!("../../packaging/scripts/postrm").to_owned(), "remove"), (rpm.to_owned(), "0")]
}

#[test]
fn a_removal_keeps_a_journal_of_what_is_not_undone() {
    if !is_root() {
        return;
    }
    for (script, argument) in removals() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("script"), script).unwrap();
        // With a /run of its own, in which `huddle` has this file.
        let remove = |file: &str| {
            let line = "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir /run/huddle && \
                        touch \"/run/huddle/$3\" && sh \"$1/script\" \"$2\" && \
                        { ls /run/huddle 2>/dev/null || true; }";
            let output = Command::new("unshare")
                .args(["--mount", "sh", "-c", line, "sh"])
                .arg(dir.path())
                .args([argument, file])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
        };
        assert_eq!(remove("lock"), ["", ""].map(str::to_owned));
        for journal in ["journal", "journal-sharing"] {
            let [left, said] = remove(journal);
            assert_eq!(left, format!("{journal}\n"), "{said}");
            assert!(said.contains(&format!("/run/huddle/{journal} lists")), "{said}");
            assert!(said.contains("huddle restore --state-dir /run/huddle"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
