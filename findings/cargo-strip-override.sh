#!/usr/bin/env bash
# cargo 1.95.0: a profile with strip = "symbols" no longer strips symbols from a program as soon as the package of that
# program has an override of its own in the profile, whatever the override sets.
#
# The Cargo book ("Profiles", "Overrides") says that an override sets what it names and the rest is the profile's. It
# cannot name strip at all. But with, say, [profile.release.package.NAME] opt-level = "s" for the package that is
# built, rustc is called with strip=debuginfo, which is what cargo uses where a profile has no strip and no debug
# information: the program keeps its symbol table (2.3 of 16.4 MB of ours). Overrides of other packages change nothing.
#
# Seen with cargo 1.95.0 on Linux:
#   without an override: strip=symbols, 0 symbol tables
#   with an override of another package: strip=symbols, 0 symbol tables
#   with an override of its own: strip=debuginfo, 1 symbol tables
#
# Needs cargo, readelf and access to crates.io. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir "$lab/src"
echo 'fn main() { println!("{}", itoa::Buffer::new().format(7)); }' >"$lab/src/main.rs"
cd "$lab"
export CARGO_TARGET_DIR="$lab/target"

# What a release build with these overrides calls rustc with for the program, and what the program has.
build() {
  cat >Cargo.toml <<TOML
[package]
name = "stripped"
version = "0.0.0"
edition = "2024"

[dependencies]
itoa = "=1.0.15"

[profile.release]
strip = "symbols"
$1

[workspace]
TOML
  rm -rf target
  local strip tables
  strip="$("${CARGO:-cargo}" build --release --verbose 2>&1 | grep 'crate-name stripped' | grep -o 'strip=[a-z]*')"
  tables="$(readelf --sections --wide target/release/stripped | grep -c '\.symtab' || true)"
  echo "$strip, $tables symbol tables"
}

seen="without an override: $(build '')
with an override of another package: $(build $'[profile.release.package.itoa]\nopt-level = "s"')
with an override of its own: $(build $'[profile.release.package.stripped]\nopt-level = "s"')"
echo "$seen"
[ "$seen" = 'without an override: strip=symbols, 0 symbol tables
with an override of another package: strip=symbols, 0 symbol tables
with an override of its own: strip=debuginfo, 1 symbol tables' ]
