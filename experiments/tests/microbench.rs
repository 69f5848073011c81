//! The microbenchmark on the real host: root, KSM and two cache domains are needed, and a test that
//! misses one prints that it is skipped. None of them looks at how large the effect is.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod run_support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use huddle_testing::ksm;
use nix::sys::signal::Signal;

use run_support::{
    Run, assert_fails, assert_interrupted, assert_restored_after_kill, assert_summary, finished, settings,
    skip, stderr,
};

fn is_skipped() -> bool {
    ksm::missing().inspect(|reason| skip(reason)).is_some()
}

/// A short run: little data, short windows.
fn command(dir: &Path, options: &[&str]) -> Command {
    let short = ["--data-kib", "256", "--settle-seconds", "0.05", "--seconds-per-arm", "0.2"];
    let mut command = run_support::command(dir, "microbench", &short);
    command.args(options);
    command
}

#[test]
fn a_run_leaves_its_summary_and_the_host_as_it_was() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(summary) = finished(command(dir.path(), &["--repetitions", "6"])) else { return };
    assert_eq!(settings(), before);

    let arms = ["not_merged", "recommended", "opposed", "kernel", "random", "control"];
    assert_summary(&summary, dir.path(), "microbench", &arms, "reads/s");
    let ratio = &summary["ratios"]["opposed_over_recommended"];
    assert!(ratio["value"].as_f64().unwrap() > 0.0 && ratio["ci95"].is_array(), "{ratio}");
    for ratio in ["not_merged_over_opposed", "control_over_recommended"] {
        assert!(summary["ratios"][ratio]["ci95"].is_array(), "{ratio}");
    }
    let probe = &summary["blocks"][0]["samples"][0]["guests"][0]["host"];
    assert!(probe["cpu_time_ns"]["available"].as_u64().unwrap() > 0, "{probe}");
    assert!(summary["boot"]["unavailable"].as_str().unwrap().contains("qemu"));
    // 64 of the 192 pages of each guest are data that its partner holds too.
    assert_eq!(summary["matrix"]["shared_frames"][0][1], 64);
    assert_eq!(summary["matrix"]["shared_frames"][0][2], 0);
    let rate = summary["sharing_rate"].as_f64().unwrap();
    assert!((0.3..=0.36).contains(&rate), "{rate}");
    assert!(summary["environment"]["kernel"].is_string());
}

#[test]
fn by_reads_pairs_are_together_that_read_the_same_and_by_bulk_those_that_share_most() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(summary) = finished(command(dir.path(), &["--preset", "cold", "--repetitions", "2"])) else {
        return;
    };
    assert_eq!(settings(), before);
    assert_eq!(summary["valid"], true, "{}", summary["invalid_blocks"]);
    let beside_first = |arm: &str| {
        let plan = &summary["plans"][arm];
        let domain = |vm: &str| {
            let placed = plan["placement"].as_array().unwrap().iter().find(|placed| placed["vm"] == vm);
            placed.unwrap_or_else(|| panic!("{vm} in {plan}"))["domain"].as_u64()
        };
        ["vm2", "vm3", "vm4"].into_iter().find(|vm| domain(vm) == domain("vm1")).unwrap()
    };
    assert_eq!(["recommended", "by_reads", "opposed"].map(beside_first), ["vm2", "vm3", "vm4"]);
    // 64 pages are read, and 256 are not.
    let matrix = &summary["matrix"];
    assert_eq!((&matrix["shared_frames"][0][1], &matrix["shared_frames"][0][2]), (&256.into(), &64.into()));
    let read = |j: usize| matrix["shared_frames_read"][0][j].as_u64().unwrap();
    assert!(read(1) <= 2 && read(2) >= 60, "{matrix}");
    assert_eq!(summary["config"]["cold_kib"], 1024);
    for arm in ["recommended", "by_reads", "opposed", "kernel", "control"] {
        assert_eq!(summary["arms"][arm]["n"], 2, "{arm}");
    }
    let ratio = &summary["ratios"]["recommended_over_by_reads"];
    assert!(ratio["value"].as_f64().unwrap() > 0.0 && ratio["n"] == 2, "{ratio}");
}

/// Two caches of 384 KiB, in which one data set of 256 KiB fits and two do not.
fn small_machine(dir: &Path) -> String {
    let path = dir.join("small.toml");
    let text = "name = \"small\"\ndomains = 2\nsize_bytes = 393216\nways = 16\nreplacement = \"lru\"\n";
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// What [`small_machine`] misses of rings: next to nothing where partners are together, and all where they are not.
fn assert_simulated(summary: &serde_json::Value) {
    let simulated = &summary["simulated"];
    assert_eq!((&simulated["model"]["name"], &simulated["origin"]), (&"small".into(), &"known_reads".into()));
    let misses = |arm: &str| simulated["arms"][arm]["median"].as_f64().unwrap();
    assert!(misses("recommended") < 200.0, "{}", simulated["arms"]);
    for arm in ["opposed", "not_merged", "not_merged_opposed"] {
        assert!(misses(arm) > 700.0, "{arm}: {}", simulated["arms"]);
    }
    // Of misses there is no ratio where frames lie so well that all of the data fits.
    let ratio = &simulated["time_ratios"]["opposed_over_recommended"];
    assert!(ratio["ci95"][0].as_f64().unwrap() > 2.0, "{ratio}");
    assert!(simulated["verdict"].as_str().unwrap().starts_with("simulated, of 1000 reads"));
}

#[test]
fn simulated_caches_miss_what_does_not_fit_and_are_beside_what_is_timed() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let machine = small_machine(dir.path());
    let options = ["--repetitions", "6", "--simulate", &machine, "--simulated-fold", "1"];
    let Some(summary) = finished(command(dir.path(), &options)) else { return };
    assert_eq!(settings(), before);
    assert_simulated(&summary);
    assert_eq!(summary["blocks"].as_array().unwrap().len(), 6);
    assert!(summary["ratios"]["opposed_over_recommended"]["value"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_host_with_one_cache_simulates_another_and_says_that_it_times_nothing() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let machine = small_machine(dir.path());
    let command =
        command(dir.path(), &["--repetitions", "6", "--simulate", &machine, "--simulated-fold", "1"]);
    let mut confined = Command::new("taskset");
    confined.args(["-c", "0"]).arg(command.get_program()).args(command.get_args());
    confined.env("HUDDLE_HOST_LOCK", dir.path().join("host"));
    let Some(summary) = finished(confined) else { return };
    assert_simulated(&summary);
    assert!(summary["untimed"].as_str().unwrap().contains("share one cache"), "{}", summary["untimed"]);
    assert!(summary["verdict"].as_str().unwrap().starts_with("nothing was timed: "));
    assert_eq!((&summary["blocks"], &summary["arms"]), (&serde_json::json!([]), &serde_json::json!({})));
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let before = settings();
        let Some(run) = Run::start(command(dir.path(), &[])) else { return };
        assert_interrupted(run, signal, &before);
    }
}

#[test]
fn after_a_kill_the_next_run_asks_for_a_restore_which_puts_everything_back() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(run) = Run::start(command(dir.path(), &[])) else { return };
    assert_restored_after_kill(run, dir.path(), command(dir.path(), &[]), &before);
}

#[test]
fn of_two_runs_at_once_the_second_says_who_holds_the_lock() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let Some(mut first) = Run::start(command(dir.path(), &[])) else { return };
    let second = command(dir.path(), &[]).output().unwrap();
    assert_fails(&second, 1, &[&format!("pid {}", first.pid())]);
    first.signal(Signal::SIGINT);
    assert_eq!(first.end().0, Some(1));
}

#[test]
fn on_one_cpu_it_says_why_it_cannot_and_changes_nothing() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let mut confined = Command::new("taskset");
    let command = command(dir.path(), &[]);
    confined.args(["-c", "0"]).arg(command.get_program()).args(command.get_args());
    let output = match confined.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("taskset (util-linux) is missing");
            return;
        }
        output => output.unwrap(),
    };
    assert_fails(&output, 3, &["share one cache"]);
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
    let output = match command(dir.path(), &[]).uid(65_534).gid(65_534).output() {
        Err(error) => {
            skip(&format!("another user cannot start {}: {error}", program.display()));
            return;
        }
        Ok(output) => output,
    };
    assert_fails(&output, 3, &["root"]);
}

#[test]
fn wrong_usage_ends_with_two() {
    for args in [
        &["microbench", "--repetitions", "many"][..],
        &["microbench", "--seconds-per-arm", "-1"],
        &["microbench", "--preset", "best"],
        &["microbench", "--spec", "/nonexistent/spec.toml"],
        &["microbench", "--data-kib", "3"],
        &["microbench", "--untimed"],
        &["microbench", "--simulate", "/nonexistent/machine.toml"],
        &["microbench", "--simulate", "paper", "--guest", "qemu", "--simulated-fold", "8"],
        &["microbench", "--simulate", "paper", "--guest", "xen"],
        &["microbench", "--simulate", "paper", "--guest", "qemu", "--simulated-order", "random"],
        &["web", "--simulate", "paper"],
        &["nothing"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_huddle-experiment")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}
