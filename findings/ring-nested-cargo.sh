#!/usr/bin/env bash
# ring 0.17.14: a cargo that is started by `cargo run`, as every cargo xtask is, builds ring again, and all
# that stands on it; and the next cargo from a shell does so once more.
#
# `cargo run` puts CARGO_PKG_NAME and others of the package that it runs into the environment (the Cargo
# book, "Environment variables Cargo sets for crates"). ring's build script prints
# cargo:rerun-if-env-changed for each variable that it reads, CARGO_PKG_NAME among them. Cargo sets that
# variable itself when it runs the script, so its value there is always ring's own; but it compares what was
# in the environment of cargo. A crate may sit a dozen levels above ring (Polars does, by object_store and
# reqwest) and is built again all the same.
#
# Seen with cargo 1.95 on Linux, after a first build:
#   again: 0 crates compiled
#   with CARGO_PKG_NAME in the environment: 2 crates compiled
#   and without it again: 2 crates compiled
#
# Needs cargo, a C compiler and access to crates.io. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir "$lab/src"
cat >"$lab/Cargo.toml" <<'TOML'
[package]
name = "above-ring"
version = "0.0.0"
edition = "2024"

[dependencies]
ring = "=0.17.14"

[workspace]
TOML
echo 'pub fn random() -> ring::rand::SystemRandom { ring::rand::SystemRandom::new() }' >"$lab/src/lib.rs"
cd "$lab"
export CARGO_TARGET_DIR="$lab/target"
cargo=(env -u CARGO_PKG_NAME "${CARGO:-cargo}")
compiled() { "$@" build 2>&1 | grep -c '^ *Compiling' || true; }

"${cargo[@]}" build --quiet
again="$(compiled "${cargo[@]}")"
nested="$(compiled env CARGO_PKG_NAME=xtask "${CARGO:-cargo}")"
back="$(compiled "${cargo[@]}")"
echo "again: $again crates compiled"
echo "with CARGO_PKG_NAME in the environment: $nested crates compiled"
echo "and without it again: $back crates compiled"
[ "$again" = 0 ] && [ "$nested" = 2 ] && [ "$back" = 2 ]
