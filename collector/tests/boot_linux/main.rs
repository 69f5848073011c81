//! Tests on hosts in QEMU: ARM64 with a PMU that counts what is known (one instruction is one cycle is one nanosecond, as
//! long as no other processor runs), with pages of 4 KiB and of 16 KiB, or with caches that ACPI describes, and x86 with
//! a real KVM. `cargo xtask host KIND
//! --make-only` makes the images, `cargo xtask test` the programs as well. What is missing is reported, and counts as
//! ignored, except in CI (`CI=true`), where it fails.
//!
//! One host after the other; each serves all of its tests.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: what fails, panics"
)]

mod counters;
mod guests;
mod host;
mod sharing;
mod terminal;
mod written;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::emulated::programs::Architecture;
use huddle_testing::emulated::trials::{self, Shared};
use libtest_mimic::Trial;
use serde_json::Value;

/// A program that is built beside those of the host.
const HUDDLE: &str = env!("CARGO_BIN_EXE_huddle");

/// For a command that does not wait for anything.
pub const SOON: Duration = Duration::from_secs(60);

/// For a run of huddle, in the host's time.
pub const RUN: Duration = Duration::from_secs(300);

/// A test on a host.
pub type Test = (&'static str, fn(&mut EmulatedHost));

fn main() {
    trials::run(|host| {
        let everywhere = [host::TESTS, sharing::TESTS].concat();
        let arm64 = [counters::TESTS, guests::TESTS, guests::ARM64, host::ARM64, written::ARM64].concat();
        let x86 = [guests::TESTS, guests::X86, host::X86, written::X86].concat();
        let of = |kind, tests: &[&[Test]]| -> Vec<Trial> {
            tests.concat().into_iter().map(|(name, test)| trial(kind, name, host, test)).collect()
        };
        let [arm64, arm64_16k] = [("arm64", arm64), ("arm64-16k", host::ARM64.to_vec())]
            .map(|(kind, own)| of(kind, &[&own, &everywhere]));
        let acpi = of("arm64-acpi", &[host::ACPI]);
        [arm64, arm64_16k, acpi, of("x86-kvm", &[&x86, &everywhere])].into_iter().flatten().collect()
    })
}

fn trial(kind: &str, name: &str, host: &Shared, test: fn(&mut EmulatedHost)) -> Trial {
    let boot = if kind == "x86-kvm" { x86 } else { arm64 };
    trials::trial(&format!("{kind}::{name}"), host, (kind, HUDDLE), boot, test)
}

fn arm64(image: &Path) -> EmulatedHost {
    boot(image, Architecture::Arm64)
}

fn x86(image: &Path) -> EmulatedHost {
    boot(image, Architecture::Own)
}

fn boot(image: &Path, architecture: Architecture) -> EmulatedHost {
    let begin = Instant::now();
    let programs = [
        ("huddle", "usr/bin/huddle"),
        ("huddle-workload", "usr/bin/huddle-workload"),
        ("huddle-check", "usr/bin/huddle-check"),
    ];
    let host = EmulatedHost::boot(image, &architecture.files(&programs, Path::new(HUDDLE)));
    eprintln!("{} was up after {:.1?}", image.display(), begin.elapsed());
    host
}

/// Starts a load or a guest and waits until it runs; returns its process.
pub fn start(host: &mut EmulatedHost, arguments: &str) -> i32 {
    start_with(host, "", arguments)
}

/// The same with a command in front of it, such as `taskset 1`.
pub fn start_with(host: &mut EmulatedHost, before: &str, arguments: &str) -> i32 {
    let command = format!(
        "o=/tmp/load.$$; {before} huddle-workload {arguments} >$o 2>&1 & p=$!; \
         for try in $(seq 100); do grep -q ready $o && break; sleep 0.1; done; cat $o >&2; echo $p"
    );
    let started = host.run(&command, SOON);
    assert!(started.stderr.contains("ready"), "{started:?}");
    started.stdout.trim().parse().unwrap()
}

/// Ends processes of this host.
pub fn end(host: &mut EmulatedHost, pids: &[i32]) {
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    let pids = pids.join(" ");
    host.run(&format!("kill {pids}; while kill -0 {pids} 2>/dev/null; do sleep 0.1; done"), SOON);
}

/// Runs `huddle run` with these arguments until some seconds (of the host) after its first round, then ends it as Ctrl-C
/// does; returns what it logged.
pub fn run_for(host: &mut EmulatedHost, seconds: u32, arguments: &str) -> String {
    let command = format!(
        "huddle run {arguments} 2>/tmp/log & p=$!; for try in $(seq 600); do grep -q 'round 1:' /tmp/log && break; \
         kill -0 $p 2>/dev/null || break; sleep 0.1; done; sleep {seconds}; kill -INT $p; wait $p; c=$?; \
         cat /tmp/log >&2; exit $c"
    );
    let output = host.run(&command, RUN);
    assert_eq!(output.code, 0, "{output:?}");
    output.stderr
}

/// A recording of this host, here.
pub fn recorded(host: &mut EmulatedHost, directory: &str) -> tempfile::TempDir {
    let archive = host.run(&format!("tar -C {directory} -czf - . | base64"), RUN).success();
    let here = tempfile::tempdir().unwrap();
    let mut tar = Command::new("sh")
        .args(["-c", "base64 -d | tar -xzf -"])
        .current_dir(here.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(archive.as_bytes()).unwrap();
    assert!(tar.wait().unwrap().success());
    here
}

/// What a command of huddle says in JSON.
pub fn json(host: &mut EmulatedHost, command: &str) -> Value {
    let text = host.run(command, RUN).success();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}
