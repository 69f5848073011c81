//! The web experiment with servers in real VMs, which boot the image of `cargo xtask experiment web --guest
//! qemu`: root, KSM, two cache domains and QEMU with that image are needed, and a test that misses one says
//! that it is skipped.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod run_support;
mod web_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use huddle_experiments::guest::qemu::PROGRAM;
use huddle_experiments::web::vm::IMAGE;
use huddle_testing::ksm;

use run_support::{Run, finished, settings, skip, stderr};
use web_support::{assert_ends_with_server, command};

/// The images beside the test's own programs, in `target/guests`.
fn images() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_huddle-experiment")).ancestors().nth(2).unwrap().join("guests")
}

fn is_skipped() -> bool {
    let program = || {
        let missing = Command::new(PROGRAM).arg("--version").output().is_err();
        missing.then(|| format!("{PROGRAM} is missing"))
    };
    let missing =
        ksm::missing().or_else(|| huddle_experiments::images::find(&images(), IMAGE).err()).or_else(program);
    if let Some(reason) = &missing {
        assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {reason}");
        skip(reason);
    }
    missing.is_some()
}

fn vms(dir: &Path) -> Command {
    command(dir, &["--guest", "qemu"])
}

#[test]
fn vms_answer_every_request_and_what_they_read_is_merged() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let mut command = vms(dir.path());
    command.args(["--repetitions", "1", "--simulate", "paper"]);
    let Some(summary) = finished(command) else { return };
    assert_eq!(settings(), before);
    assert_eq!((&summary["guest"], &summary["page"]), (&"qemu".into(), &"paper".into()));
    assert_eq!(summary["accelerator"], "tcg", "only an emulator records accesses");
    assert_eq!(summary["valid"], true, "{}", summary["invalid_blocks"]);
    for arm in ["recommended", "opposed", "kernel"] {
        let requests = &summary["requests"][arm];
        assert_eq!((&requests["sent"], &requests["failed"]), (&(4 * 8).into(), &0.into()), "{arm}");
    }
    // The page reads its file: 64 pages, in the page cache, which is a VM's own memory.
    let shared = |a: usize, b: usize| summary["data_shared_pages"][a][b].as_u64().unwrap();
    assert!(shared(0, 1) >= 61 && shared(2, 3) >= 61, "{}", summary["data_shared_pages"]);
    assert_eq!(shared(0, 2), 0, "{}", summary["data_shared_pages"]);
    // What the same requests miss on the paper's machine; 256 KiB of data are few beside all that servers read.
    let simulated = &summary["simulated"];
    assert_eq!((&simulated["origin"], &simulated["fold"]), (&"emulator".into(), &64.into()));
    for arm in ["recommended", "opposed", "not_merged", "random"] {
        let misses = simulated["arms"][arm]["median"].as_f64().unwrap();
        assert!(misses > 0.0 && misses < 500.0, "{arm}: {misses}");
    }
    for vcpu in simulated["blocks"][0]["samples"][0]["vcpus"].as_array().unwrap() {
        // Each request is millions of instructions, of which one of 64 lines is recorded.
        for kind in ["reads", "writes", "fetches"] {
            assert!(vcpu["accesses"][kind].as_u64().unwrap() > 1000, "{kind}: {vcpu}");
        }
    }
}

#[test]
fn a_vm_that_dies_ends_the_run_with_its_name_and_its_last_words() {
    if is_skipped() {
        return;
    }
    let _lock = ksm::lock();
    let dir = tempfile::tempdir().unwrap();
    let before = settings();
    let Some(run) = Run::start(vms(dir.path())) else { return };
    assert_ends_with_server(run, 1, &["the end of its log"], &before);
}

#[test]
fn without_the_image_it_says_how_to_get_it_and_changes_nothing() {
    if let Some(reason) = ksm::missing() {
        return skip(&reason);
    }
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = vms(dir.path()).arg("--images").arg(empty.path()).output().unwrap();
    // Before it may stand that KVM is emulated here.
    let text = stderr(&output);
    let last = text.lines().next_back().unwrap_or_default();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(last.contains("web/vmlinuz") && last.contains("cargo xtask experiment web"), "{text}");
    assert!(!dir.path().join("run").exists());
}
