//! `huddle top` in a real terminal, on real processes that KSM merges.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tenant::Tenant;
use crate::trial;
use huddle_testing::ksm::Ksm;
use huddle_testing::own_state;
use huddle_testing::tmux::{self, Terminal};

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 5] = [
        ("top_shows_every_view", shows_every_view),
        ("top_leaves_the_terminal_as_it_was", leaves),
        ("top_asks_a_terminal_of_unknown_size", asks_for_the_size),
        ("top_watches_a_loop_and_sends_commands", watches),
        ("a_recording_is_replayed_and_planned_anew", replays),
    ];
    tests.into_iter().map(|(name, test)| trial_in_tmux(name, test)).collect()
}

fn trial_in_tmux(name: &str, test: fn()) -> Trial {
    let Some(reason) = tmux::missing() else { return trial(name, test) };
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        return Trial::test(name, move || Err(format!("CI must not skip this: {reason}").into()));
    }
    eprintln!("{name}: skipped: {reason}");
    Trial::test(name, || Ok(())).with_ignored_flag(true)
}

/// Two pairs that hold the same data, merged.
fn pairs(ksm: &Ksm) -> Vec<Tenant> {
    let spec = |i: usize| format!("set:{}:{}", i / 2, [300, 200][i / 2]);
    let tenants: Vec<Tenant> = ["web-1", "web-2", "db-1", "db-2"]
        .iter()
        .enumerate()
        .map(|(i, name)| Tenant::start(name, &spec(i)))
        .collect();
    ksm.merge(&tenants.iter().map(Tenant::pid).collect::<Vec<_>>());
    tenants
}

fn vm_flags(tenants: &[Tenant]) -> String {
    tenants.iter().map(|tenant| format!(" --vm {}={}", tenant.name, tenant.pid())).collect()
}

/// Runs huddle between two readings of the terminal's settings, and does not exit.
fn script(dir: &Path, arguments: &str) -> String {
    let (dir, huddle) = (dir.display(), env!("CARGO_BIN_EXE_huddle"));
    format!(
        "cd {dir}; export HUDDLE_STATE_DIR={dir}/state HUDDLE_HOST_LOCK={dir}/host LC_ALL=C.UTF-8 TERM=tmux-256color\n\
         unset NO_COLOR COLORTERM; stty -a | grep -v rows > before\n\
         {huddle} {arguments} 2> stderr; echo ended with $?; stty -a | grep -v rows > after; echo settings-read; sleep 1000\n"
    )
}

fn cpus(pid: i32) -> usize {
    let set = sched_getaffinity(Pid::from_raw(pid)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
}

/// The terminal is left with this exit code, and in the state it was found in.
fn left(terminal: &Terminal, dir: &Path, code: i32) {
    let screen = terminal.shows("settings-read");
    assert!(screen.contains(&format!("ended with {code}")), "{screen}");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(read("before"), read("after"), "the settings of the terminal");
    for (name, value) in [("alternate_on", "0"), ("cursor_flag", "1"), ("mouse_any_flag", "0")] {
        assert_eq!(terminal.state(name), value, "{name}");
    }
}

/// As on a serial line.
fn asks_for_the_size() {
    let ksm = Ksm::start();
    let tenants = pairs(&ksm);
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), &format!("top --window 0.2{}", vm_flags(&tenants)));
    let terminal = Terminal::start(dir.path(), (100, 30), &format!("stty rows 0 cols 0\n{script}"));
    let screen = terminal.shows("share most: web-1 and web-2");
    // All of the terminal is used.
    let widest = screen.lines().map(|line| line.trim_end().chars().count()).max();
    assert!(widest.is_some_and(|columns| columns > 95), "{screen}");
    terminal.keys(&["q"]);
    left(&terminal, dir.path(), 0);
}

fn shows_every_view() {
    let ksm = Ksm::start();
    let tenants = pairs(&ksm);
    let before: Vec<usize> = tenants.iter().map(|tenant| cpus(tenant.pid())).collect();
    let dir = tempfile::tempdir().unwrap();
    let top = format!("top --window 0.2{}", vm_flags(&tenants));
    let terminal = Terminal::start(dir.path(), (100, 30), &script(dir.path(), &top));

    // Which share most, and where they run.
    let screen = terminal.shows("share most: web-1 and web-2");
    assert!(screen.contains("[1 overview]") && screen.contains("domain 0"), "{screen}");
    assert!(screen.contains("shared within domains"), "{screen}");
    assert_eq!(terminal.state("alternate_on"), "1");
    // Every view, and the help.
    for (key, words) in [
        ("3", "MPKI"),
        ("4", "n/a: placements are not tried"),
        ("5", "pages_to_scan"),
        ("6", "vm_appeared"),
        ("?", "everywhere"),
    ] {
        terminal.keys(&[key]);
        terminal.shows(words);
    }
    terminal.keys(&["?"]);

    terminal.keys(&["2"]);
    // The heading alone may be a screen that is half drawn.
    let screen =
        terminal.until(|screen| screen.contains("cell under the cursor") && screen.contains(" share "));
    assert!(screen.contains("share 300 frames"), "it begins at the highest: {screen}");
    terminal.keys(&["Right"]);
    let screen = terminal.until(|screen| screen.contains("share 0 frames"));
    assert!(screen.contains("web-1 and db-"), "{screen}");
    terminal.keys(&["Down", "Down"]);
    terminal.shows("with itself");

    // Paused, the picture stays while the loop goes on.
    terminal.keys(&["Space"]);
    terminal.shows("PAUSED");
    terminal.keys(&["1", "d"]);
    terminal.shows("Applying the plan would");
    terminal.keys(&["Escape"]);
    terminal.keys(&["W"]);
    terminal.shows("saved as");
    terminal.keys(&["Space"]);
    terminal.until(|screen| !screen.contains("PAUSED"));

    terminal.resize(40, 10);
    terminal.shows("too small");
    terminal.resize(120, 40);
    terminal.shows("share most: web-1 and web-2");

    terminal.keys(&["r"]);
    terminal.shows("recording into");
    std::thread::sleep(Duration::from_millis(500));
    terminal.keys(&["r"]);
    terminal.shows("recorded ");
    terminal.keys(&["q"]);
    left(&terminal, dir.path(), 0);
    let after: Vec<usize> = tenants.iter().map(|tenant| cpus(tenant.pid())).collect();
    assert_eq!(after, before, "affinities are as before");
    let made: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("huddle-"))
        .collect();
    assert_eq!(made.len(), 2, "{made:?}");
    let svg = made.iter().find(|name| name.ends_with(".svg")).unwrap();
    assert!(std::fs::read_to_string(dir.path().join(svg)).unwrap().contains("web-1"));
    let recording = made.iter().find(|name| name.starts_with("huddle-recording-")).unwrap();
    assert!(dir.path().join(recording).join("manifest.json").exists());
}

/// The pid of the only `huddle` that was started with this state directory.
fn pid_of_huddle(dir: &Path) -> Pid {
    let ours = format!("HUDDLE_STATE_DIR={}/state", dir.display());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.trim() == "huddle"
                && environment.split(|byte| *byte == 0).any(|line| line == ours.as_bytes())
            {
                return Pid::from_raw(entry.file_name().to_str().unwrap().parse().unwrap());
            }
        }
        assert!(Instant::now() < deadline, "huddle was not found");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn leaves() {
    let ksm = Ksm::start();
    let tenants = pairs(&ksm);
    let before = cpus(tenants[0].pid());
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR2, Signal::SIGXCPU] {
        let dir = tempfile::tempdir().unwrap();
        let top = format!("top{}", vm_flags(&tenants));
        let terminal = Terminal::start(dir.path(), (80, 24), &script(dir.path(), &top));
        terminal.shows("share most");
        kill(pid_of_huddle(dir.path()), signal).unwrap();
        left(&terminal, dir.path(), 0);
        assert_eq!(cpus(tenants[0].pid()), before);
    }

    // After a kill -9 only `huddle restore` can clean up; the recording is still readable.
    let dir = tempfile::tempdir().unwrap();
    let top = format!("top --record {}/run{}", dir.path().display(), vm_flags(&tenants));
    let terminal = Terminal::start(dir.path(), (80, 24), &script(dir.path(), &top));
    terminal.shows("share most");
    kill(pid_of_huddle(dir.path()), Signal::SIGKILL).unwrap();
    terminal.shows("settings-read");
    assert!(dir.path().join("run/manifest.json").exists());
    let restored =
        Command::new(env!("CARGO_BIN_EXE_huddle")).arg("restore").envs(own_state(dir.path())).status();
    assert!(restored.unwrap().success());
    assert_eq!(cpus(tenants[0].pid()), before);

    // Without a terminal.
    let output = Command::new(env!("CARGO_BIN_EXE_huddle"))
        .args(["top", "--dry-run", "--vm", &format!("a={}", tenants[0].pid())])
        .envs(own_state(dir.path()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("huddle run"), "{stderr}");
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watches() {
    let ksm = Ksm::start();
    let tenants = pairs(&ksm);
    let before = cpus(tenants[0].pid());
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
        huddle.args(["run", "--window", "0.2"]).envs(own_state(dir.path()));
        tenants
            .iter()
            .for_each(|tenant| _ = huddle.args(["--vm", &format!("{}={}", tenant.name, tenant.pid())]));
        Ended(huddle.stderr(Stdio::null()).spawn().unwrap())
    };
    let first = run();
    let socket = dir.path().join("state/attach.sock");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no loop serves");
        std::thread::sleep(Duration::from_millis(20));
    }
    let terminal = Terminal::start(dir.path(), (120, 30), &script(dir.path(), "top --attach"));
    terminal.shows(&format!("of process {}", first.0.id()));
    terminal.shows("share most: web-1 and web-2");
    // Changes of the host need a confirmation.
    terminal.keys(&["R"]);
    terminal.shows("Undo all pinning?");
    terminal.keys(&["n", "R"]);
    terminal.shows("Undo all pinning?");
    terminal.keys(&["y"]);
    terminal.shows("undone;");
    assert_eq!(cpus(tenants[0].pid()), before);
    terminal.keys(&["p", "Down", "Enter"]);
    terminal.shows("Change the policy");
    terminal.keys(&["y"]);
    terminal.shows("planned by policy sharing from now on");
    // The loop ends, and another one begins: the terminal stays.
    drop(first);
    terminal.shows("LOST");
    let second = run();
    terminal.shows(&format!("of process {}", second.0.id()));
    terminal.keys(&["q"]);
    left(&terminal, dir.path(), 0);
    kill(Pid::from_raw(second.0.id() as i32), None).unwrap();
}

fn replays() {
    let ksm = Ksm::start();
    let tenants = pairs(&ksm);
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    // Passes follow one another quickly, so there are rounds with windows in between.
    ksm.set("run", "1");
    let huddle = |arguments: &[&str]| {
        let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
        huddle.args(arguments).envs(own_state(dir.path()));
        huddle
    };
    let mut run = huddle(&["run", "--rounds", "4", "--window", "0.2", "--policy", "opposed", "--record"]);
    run.arg(&run_dir);
    tenants.iter().for_each(|tenant| _ = run.args(["--vm", &format!("{}={}", tenant.name, tenant.pid())]));
    assert!(run.stderr(Stdio::null()).status().unwrap().success());
    ksm.set("run", "0");

    // What the other policy would have done: the same matrix, everything within.
    let recording = run_dir.to_str().unwrap();
    let answer = |policy: &str, more: &[&str]| {
        let output = huddle(
            &[&["plan", "--replay", recording, "--policy", policy, "--format", "json"], more].concat(),
        )
        .output()
        .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (paper, opposed) = (answer("paper", &[]), answer("opposed", &[]));
    assert_eq!(paper["schema"], "huddle/what-if/1");
    let rounds = |answer: &serde_json::Value| answer["rounds"].as_array().unwrap().clone();
    assert_eq!(rounds(&paper).len(), 4);
    for (paper, opposed) in rounds(&paper).iter().zip(&rounds(&opposed)) {
        assert_eq!(paper["shared_total"], 500);
        assert_eq!(paper["recorded"]["policy"], "opposed");
        assert_eq!(paper["recorded"]["shared_within"], 0);
        assert_eq!(paper["what_if"]["available"]["shared_within"], 500, "{paper}");
        assert_eq!(opposed["what_if"]["available"]["shared_within"], 0, "{opposed}");
    }
    let moves: Vec<u64> =
        rounds(&paper).iter().map(|round| round["what_if"]["available"]["moves"].as_u64().unwrap()).collect();
    assert!(moves[0] > 0 && moves[1..] == [0, 0, 0], "only the first round moves: {moves:?}");
    assert_eq!(answer("paper", &["--at", "2"])["schema"], "huddle/plan/1");
    let table = huddle(&["plan", "--replay", recording]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("0.0 % then, 100.0 % by policy paper"), "{table}");
    for (wrong, word) in [
        (vec!["plan", "--replay", recording, "--at", "99"], "its rounds are 1 to 4"),
        (vec!["plan", "--replay", dir.path().to_str().unwrap()], "is not a recording"),
        (vec!["top", "--replay", "/nowhere"], "/nowhere"),
    ] {
        let output = huddle(&wrong).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), stderr.trim().lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.contains(word), "{stderr}");
    }

    drop(tenants);
    let top = format!("top --replay {recording}");
    let terminal = Terminal::start(dir.path(), (120, 30), &script(dir.path(), &top));
    terminal.shows("replay of run");
    // Its first step may be one before the first round.
    terminal.shows("REPLAY round");
    terminal.keys(&["Space"]);
    terminal.shows("paused");
    terminal.keys(&["<"]);
    terminal.shows(": 1 of");
    terminal.keys(&["t"]);
    terminal.shows(": 2 of");
    terminal.keys(&["2"]);
    terminal.shows("share 300 frames");
    terminal.keys(&["a"]);
    terminal.shows("a replay cannot change the host");
    terminal.keys(&["+", "+", "Space"]);
    terminal.shows("playing at 4x");
    terminal.keys(&[">"]);
    terminal.shows("paused");
    terminal.keys(&["q"]);
    left(&terminal, dir.path(), 0);
}
