//! The web experiment on the real host: root, KSM, two cache domains and Apache with PHP are needed, and a
//! test that misses one says that it is skipped. None of them looks at how large the effect is.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod web_support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use huddle_experiments::web::apache::{APACHE, Programs};
use huddle_host::HostRoot;
use huddle_host::pin::{StateDir, Undoers, restore};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;

use web_support::{command, finished, is_gone, ksm_lock, lacks, settings, skip, started, stderr};

fn is_skipped() -> bool {
    let missing = lacks().or_else(|| Programs::find(Path::new(APACHE)).err().map(|error| error.to_string()));
    missing.inspect(|reason| skip(reason)).is_some()
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
        let Some(mut run) = started(command(dir.path())) else { return };
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
    let Some(mut run) = started(command(dir.path())) else { return };
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
    let Some(mut run) = started(command(dir.path())) else { return };
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

    let root = HostRoot::real().with_run(dir.path());
    let state = StateDir::open(Some(&dir.path().join("state"))).unwrap().lock(&root).unwrap();
    let report = restore(&Undoers::of_host(HostRoot::real()), &state).unwrap();
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
