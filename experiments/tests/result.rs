//! The result of an experiment in a real terminal: what the real programs write and show.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use huddle_testing::output::say;
use huddle_testing::{ksm, own_state, tmux};

/// `huddle`, which the package of experiments does not build.
fn huddle() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_huddle-experiment")).with_file_name("huddle")
}

fn is_skipped(missing: Option<String>) -> bool {
    let unbuilt =
        (!huddle().exists()).then(|| format!("{} is missing: build the workspace", huddle().display()));
    let Some(reason) = unbuilt.or(missing) else { return false };
    assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {reason}");
    say(&format!("skipped: {reason}"));
    true
}

/// Waits until all of these are on the screen, which may be seen half drawn.
fn shows_all(terminal: &tmux::Terminal, words: &[&str]) -> String {
    terminal.until(|screen| words.iter().all(|word| screen.contains(word)))
}

#[test]
fn simulated_misses_of_every_arm_are_shown_as_simulated() {
    if is_skipped(ksm::missing().or_else(tmux::missing)) {
        return;
    }
    let lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let mut experiment = Command::new(env!("CARGO_BIN_EXE_huddle-experiment"));
    experiment.args([
        "microbench",
        "--simulate",
        "paper",
        "--untimed",
        "--repetitions",
        "2",
        "--data-kib",
        "256",
    ]);
    experiment
        .arg("--out")
        .arg(dir.path().join("microbench-1"))
        .arg("--state-dir")
        .arg(dir.path().join("own"));
    let output = experiment.envs(own_state(dir.path())).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        return say(&format!("skipped: {stderr}"));
    }
    assert!(output.status.success(), "{stderr}");
    drop(lock);

    for (width, height) in [(80, 24), (120, 40)] {
        let place = tempfile::tempdir().unwrap();
        let (state, host) = (place.path().join("state"), place.path().join("host"));
        let script = format!(
            "cd {}; export HUDDLE_STATE_DIR={} HUDDLE_HOST_LOCK={} LC_ALL=C.UTF-8 TERM=tmux-256color\n\
             {} top --replay microbench-1\necho ended with $?; exec sleep 1000\n",
            dir.path().display(),
            state.display(),
            host.display(),
            huddle().display()
        );
        let terminal = tmux::Terminal::start(place.path(), (width, height), &script);
        // The recommended arm comes first: pairs that hold the same data are together.
        shows_all(&terminal, &["arm recommended, 1 of 5; the result of experiment microbench-1", "100.0 %"]);
        shows_all(&terminal, &["share most: vm1 and vm2"]);
        terminal.keys(&["t"]);
        shows_all(&terminal, &["arm opposed, 2 of 5", "0 frames (0 B, 0.0 %)"]);
        terminal.keys(&["2"]);
        terminal.shows("share 64 frames");
        terminal.keys(&["3"]);
        let label = "SIMULATED with model paper, not measured: misses of 1000 reads";
        let reason = "measured misses: n/a: nothing was timed";
        let screen = shows_all(&terminal, &[reason, label, ">opposed", " vm4 ", "caches of paper"]);
        assert!(!screen.contains("MPKI"), "{screen}");
        terminal.keys(&["T"]);
        terminal.shows(">recommended");
        terminal.keys(&[">"]);
        terminal.shows("arm random, 5 of 5");
        terminal.keys(&["1"]);
        terminal.shows("anew in each block");
        terminal.keys(&["Space"]);
        terminal.shows("arms do not follow one another in time");
        terminal.keys(&["a"]);
        terminal.shows("a replay cannot change the host");
        terminal.keys(&["q"]);
        terminal.shows("ended with 0");
    }
}

#[test]
fn what_cannot_be_shown_is_one_sentence() {
    if is_skipped(None) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let scan = "{\"schema\":\"huddle/summary/1\",\"experiment\":\"microbench_scan\",\"guest\":\"process\",\"arms\":{},\
                \"sizes\":[{\"directory\":\"512-kib\",\"data_kib\":512},{\"directory\":\"1024-kib\"}]}";
    let no_arm = "{\"schema\":\"huddle/summary/1\",\"experiment\":\"x\",\"guest\":\"process\",\"arms\":{}}";
    for (name, text, words) in [
        ("empty", None, "neither a recording (it has no manifest.json) nor the result of an experiment"),
        ("damaged", Some("{\"schema\":\"huddle/summary/1\",\"arms\":"), "not an experiment's result"),
        ("foreign", Some("{\"schema\":\"a\\u001b[2J\\nb\"}"), "its schema is"),
        ("scan", Some(scan), "each of which has its own in 512-kib, 1024-kib; name one of these"),
        ("no-arm", Some(no_arm), "no placement to show"),
    ] {
        let run = dir.path().join(name);
        std::fs::create_dir(&run).unwrap();
        if let Some(text) = text {
            std::fs::write(run.join("summary.json"), text).unwrap();
        }
        let mut command = Command::new(huddle());
        command.args(["top", "--replay"]).arg(&run).envs(own_state(dir.path())).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.trim_end().lines().count()), (Some(1), 1), "{name}: {said}");
        assert!(said.contains(words) && said.contains(run.to_str().unwrap()), "{name}: {said}");
        assert!(!said.trim_end().contains(char::is_control), "{name}: {said}");
    }
}
