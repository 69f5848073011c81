#!/usr/bin/env bash
# perf-event2 0.7.4: a counter of context switches that is built with the builder's defaults is opened
# without an error and reads 0 for ever.
#
# Builder::new leaves out what happens in the kernel and in a hypervisor (exclude_kernel, exclude_hv).
# A context switch, a migration to another CPU, always happens in the kernel, so Linux counts none of
# them for such an event. Nothing tells the caller: the counter is enabled, its time runs, its count
# stays 0. With exclude_kernel(false) the same counter counts.
#
# Seen on Linux 6.18 with Rust 1.95, for 100 sleeps of 50 microseconds, as root:
#   defaults: 0 context switches, ran: true
#   exclude_kernel(false): 100 context switches, ran: true
#
# Needs cargo, access to crates.io, and the right to count events of the kernel (root, CAP_PERFMON, or
# /proc/sys/kernel/perf_event_paranoid of 1 or less). Ends with 0 while this holds, with 1 when it has
# changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir "$lab/src"
cat >"$lab/Cargo.toml" <<'TOML'
[package]
name = "software-events"
version = "0.0.0"
edition = "2024"

[dependencies]
perf-event2 = "=0.7.4"

[workspace]
TOML
cat >"$lab/src/main.rs" <<'RUST'
use perf_event::Builder;
use perf_event::events::Software;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    for (name, with_kernel) in [("defaults", false), ("exclude_kernel(false)", true)] {
        let mut builder = Builder::new(Software::CONTEXT_SWITCHES);
        if with_kernel {
            builder.exclude_kernel(false);
        }
        let mut counter = builder.build()?;
        counter.enable()?;
        for _ in 0..100 {
            std::thread::sleep(Duration::from_micros(50));
        }
        let read = counter.read_full()?;
        let ran = read.time_running().is_some_and(|time| time > Duration::ZERO);
        println!("{name}: {} context switches, ran: {ran}", read.count());
    }
    Ok(())
}
RUST
output="$(cd "$lab" && CARGO_TARGET_DIR="$lab/target" cargo run --quiet)"
printf '%s\n' "$output"
if grep -q '^defaults: 0 context switches, ran: true$' <<<"$output" &&
  grep -q '^exclude_kernel(false): [1-9][0-9]* context switches, ran: true$' <<<"$output"; then
  echo "as found: with the defaults context switches are counted as 0, without a word"
else
  echo "this has changed" >&2
  exit 1
fi
