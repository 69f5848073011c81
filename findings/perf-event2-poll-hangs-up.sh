#!/usr/bin/env bash
# perf-event2 0.7.4 on Linux: poll(2) on a counter says POLLHUP at once, while the counted thread lives and the counter
# counts.
#
# A counter hangs up when its thread has ended, so one poll of many counters looks like a cheap way to learn which
# threads are gone. But the kernel begins with "hung up" as the answer and replaces it only by what a ring buffer
# says, and a plain counter has no ring buffer: it answers POLLHUP always. The crate's documentation of Counter shows
# nothing of it.
#
# Seen with Linux 6.18 and Rust 1.95, for page faults of the calling thread:
#   thread alive, counting: true, poll says: POLLHUP
#
# Needs cargo, access to crates.io, and leave to count one's own page faults. Ends with 0 while this holds, with 1
# when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir "$lab/src"
cat >"$lab/Cargo.toml" <<'TOML'
[package]
name = "poll-hangs-up"
version = "0.0.0"
edition = "2024"

[dependencies]
perf-event2 = "=0.7.4"
libc = "=0.2.180"

[workspace]
TOML
cat >"$lab/src/main.rs" <<'RUST'
use std::os::fd::AsRawFd;

use perf_event::Builder;
use perf_event::events::Software;

fn main() {
    let mut counter = Builder::new(Software::PAGE_FAULTS).enabled(true).build().unwrap();
    let before = counter.read().unwrap();
    std::hint::black_box(vec![1_u8; 16 << 20]);
    let counts = counter.read().unwrap() > before;
    let mut polled = libc::pollfd { fd: counter.as_raw_fd(), events: 0, revents: 0 };
    let ready = unsafe { libc::poll(&mut polled, 1, 0) };
    let says = match (ready, polled.revents) {
        (0, 0) => "nothing".to_owned(),
        (1, libc::POLLHUP) => "POLLHUP".to_owned(),
        (_, other) => format!("{other:#x}"),
    };
    println!("thread alive, counting: {counts}, poll says: {says}");
}
RUST
cd "$lab"
seen="$(CARGO_TARGET_DIR="$lab/target" "${CARGO:-cargo}" run --quiet)"
echo "$seen"
[ "$seen" = 'thread alive, counting: true, poll says: POLLHUP' ]
