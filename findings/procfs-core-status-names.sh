#!/usr/bin/env bash
# procfs-core 0.18.0 (also through procfs 0.18.0): reading /proc/PID/status fails for a thread whose
# name is not UTF-8, while reading /proc/PID/stat of the same thread succeeds.
#
# Linux keeps 15 bytes of a thread's name and cuts longer ones wherever that is, also inside a letter
# of several bytes. So a program that names a thread "12345678901234é" gets a name that ends with half
# a letter, and the whole status of the thread (affinity, capabilities, memory) cannot be read.
#
# Seen on Linux 6.18 with Rust 1.95:
#   stat: Ok("12345678901234�")
#   status: Err(Io(Error { kind: InvalidData, message: "stream did not contain valid UTF-8" }, Some("/proc/thread-self/status")))
#
# Needs cargo and access to crates.io. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir "$lab/src"
cat >"$lab/Cargo.toml" <<'TOML'
[package]
name = "status-names"
version = "0.0.0"
edition = "2024"

[dependencies]
procfs-core = { version = "=0.18.0", default-features = false }

[workspace]
TOML
cat >"$lab/src/main.rs" <<'RUST'
use procfs_core::FromRead;
use procfs_core::process::{Stat, Status};

fn main() {
    let thread = std::thread::spawn(|| {
        std::fs::write("/proc/thread-self/comm", "12345678901234é").unwrap();
        let stat = Stat::from_file("/proc/thread-self/stat").map(|stat| stat.comm);
        let status = Status::from_file("/proc/thread-self/status").map(|status| status.name);
        println!("stat: {stat:?}");
        println!("status: {status:?}");
    });
    thread.join().unwrap();
}
RUST
output="$(cd "$lab" && CARGO_TARGET_DIR="$lab/target" cargo run --quiet)"
printf '%s\n' "$output"
if grep -q '^stat: Ok("12345678901234' <<<"$output" && grep -q '^status: Err(Io(.*InvalidData' <<<"$output"; then
  echo "as found: the status of a thread whose name was cut inside a letter cannot be read"
else
  echo "this has changed" >&2
  exit 1
fi
