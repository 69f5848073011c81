#!/usr/bin/env bash
# procfs-core 0.18.0 (also through procfs 0.18.0): on a host where a CPU is offline, CpuInfo answers questions about a
# CPU with the values of another one.
#
# /proc/cpuinfo lists only the CPUs that are online, each with its number in "processor". get_field, get_info,
# model_name, physical_id and flags take a parameter `cpu_num`, but it is the position in that list. With CPU 1
# offline (as where the second threads of cores are switched off one by one), what is asked of CPU 2 is answered
# with the values of CPU 3, and CPU 3 has none.
#
# Seen with Rust 1.95, for a text with the processors 0, 2 and 3 of two packages:
#   asked for CPU 2: processor Some("3"), package Some(1), core Some("1")
#   asked for CPU 3: processor None, package None, core None
#
# Needs cargo and access to crates.io. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir "$lab/src"
cat >"$lab/Cargo.toml" <<'TOML'
[package]
name = "cpuinfo-offline"
version = "0.0.0"
edition = "2024"

[dependencies]
procfs-core = { version = "=0.18.0", default-features = false }

[workspace]
TOML
cat >"$lab/src/main.rs" <<'RUST'
use procfs_core::{CpuInfo, FromRead};

/// As Linux prints it on x86, shortened.
fn processor(number: u32, package: u32, core: u32) -> String {
    format!(
        "processor\t: {number}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Processor\n\
         physical id\t: {package}\ncore id\t\t: {core}\nflags\t\t: fpu vme de\n\n"
    )
}

fn main() {
    let text = [processor(0, 0, 0), processor(2, 1, 0), processor(3, 1, 1)].concat();
    let cpus = CpuInfo::from_read(text.as_bytes()).unwrap();
    let asked = |cpu: usize| {
        format!(
            "asked for CPU {cpu}: processor {:?}, package {:?}, core {:?}",
            cpus.get_field(cpu, "processor"),
            cpus.physical_id(cpu),
            cpus.get_field(cpu, "core id")
        )
    };
    println!("{}\n{}", asked(2), asked(3));
}
RUST
cd "$lab"
seen="$(CARGO_TARGET_DIR="$lab/target" "${CARGO:-cargo}" run --quiet)"
echo "$seen"
[ "$seen" = 'asked for CPU 2: processor Some("3"), package Some(1), core Some("1")
asked for CPU 3: processor None, package None, core None' ]
