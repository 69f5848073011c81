//! The web experiment on the real host: root, KSM, two cache domains and Apache with PHP are needed, and a
//! test that misses one prints that it is skipped. None of them looks at how large the effect is.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod run_support;
mod web_support;

use std::path::Path;
use std::process::Command;

use huddle_experiments::web::apache::{APACHE, ApacheFiles};
use huddle_testing::ksm;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use run_support::{
    Run, assert_fails, assert_interrupted, assert_restored_after_kill, assert_summary, finished, settings,
    skip, stderr,
};
use web_support::{assert_ends_with_server, command, directory_of};

fn is_skipped() -> bool {
    let apache = || ApacheFiles::find(Path::new(APACHE)).err().map(|error| error.to_string());
    ksm::missing().or_else(apache).inspect(|reason| skip(reason)).is_some()
}

#[test]
fn a_run_leaves_its_files_and_the_host_as_it_was() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(summary) = finished(command(dir.path(), &["--repetitions", "6"])) else { return };
    assert_eq!(settings(), before);

    let arms = ["not_merged", "not_merged_opposed", "recommended", "opposed", "kernel", "random", "control"];
    assert_summary(&summary, dir.path(), "web", &arms, "us");
    assert_eq!(summary["page"], "resident");
    for arm in arms {
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
}

#[test]
fn the_page_paper_an_open_loop_and_the_mixed_preset_run_through() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let run = |options: &[&str]| {
        let mut command = command(dir.path(), &["--repetitions", "1"]);
        command.args(options);
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
    let _lock = ksm::lock();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let before = settings();
        let Some(run) = Run::start(command(dir.path(), &[])) else { return };
        let directory = directory_of(&run);
        assert_interrupted(run, signal, &before);
        assert!(!directory.exists());
    }
}

#[test]
fn a_server_that_dies_ends_the_run_with_its_name() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(run) = Run::start(command(dir.path(), &[])) else { return };
    assert_ends_with_server(run, 2, &[], &before);
}

#[test]
fn after_a_kill_no_server_is_left_and_restore_and_the_next_run_clean_up() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(run) = Run::start(command(dir.path(), &[])) else { return };
    let directory = directory_of(&run);
    assert_restored_after_kill(run, dir.path(), command(dir.path(), &[]), &before);
    assert!(finished(command(dir.path(), &["--repetitions", "1"])).is_some());
    assert!(!directory.exists(), "the next run removes what the killed one left");
}

#[test]
fn without_apache_it_says_how_to_get_it_and_changes_nothing() {
    if !Uid::effective().is_root() {
        return skip("root is missing");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), &["--apache", "/nonexistent/apache2"]).output().unwrap();
    assert_fails(&output, 3, &["/nonexistent/apache2", "cargo xtask setup"]);
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
