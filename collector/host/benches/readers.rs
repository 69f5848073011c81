//! What reading one file of `/proc` costs with our own readers and with procfs-core
//! (docs/decisions/procfs.md). Prints microseconds for each read, the best of several rounds.
//! Run it with `cargo bench -p huddle-host --bench readers`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::hint::black_box;
use std::time::Instant;

use huddle_host::limits::Limits;
use huddle_host::{HostRoot, cpuinfo, maps, status, task};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::unistd::gettid;
use procfs_core::process::{MemoryMaps, Stat, Status};
use procfs_core::{CpuInfo, FromRead};

/// Mappings beside those that every process has, for smaps.
const MAPPINGS: usize = 2_000;

fn main() {
    let root = HostRoot::real();
    let (pid, tid) = (std::process::id().cast_signed(), gettid().as_raw());
    let of_thread = |file: &str| root.proc(format!("{pid}/task/{tid}/{file}"));

    println!("{:24} {:>10} {:>14}", "microseconds a read", "ours", "procfs-core");
    compare(
        "stat of a thread",
        20_000,
        || task::thread(&root, pid, tid).unwrap().last_cpu,
        || Stat::from_file(of_thread("stat")).unwrap().processor,
    );
    compare(
        "status of a thread",
        5_000,
        || status::thread(&root, pid, tid).unwrap().own_id,
        || Status::from_file(of_thread("status")).unwrap().nspid,
    );
    // Only the parsers: this host has few CPUs, and the kernel makes the same text for both.
    let (_dir, many) = cpuinfo_of(256);
    compare(
        "cpuinfo of 256 CPUs",
        20,
        || cpuinfo::read(&many).unwrap().model_name(),
        || CpuInfo::from_file(many.proc("cpuinfo")).unwrap().model_name(0).map(str::to_owned),
    );
    add_mappings();
    let limits = Limits::default();
    compare(
        "smaps, 2000 mappings",
        5,
        || maps::smaps(&root, pid, &limits).unwrap().len(),
        || MemoryMaps::from_file(root.proc(format!("{pid}/smaps"))).unwrap().0.len(),
    );
}

fn compare<A, B>(name: &str, reads: u32, ours: impl Fn() -> A, library: impl Fn() -> B) {
    // In turns, so that what else the machine does meets both.
    let (mut best_ours, mut best_library) = (f64::MAX, f64::MAX);
    for _ in 0..7 {
        best_ours = best_ours.min(microseconds(reads, &ours));
        best_library = best_library.min(microseconds(reads, &library));
    }
    println!("{name:24} {best_ours:10.1} {best_library:14.1}");
}

fn microseconds<T>(reads: u32, read: impl Fn() -> T) -> f64 {
    let begin = Instant::now();
    for _ in 0..reads {
        black_box(read());
    }
    begin.elapsed().as_secs_f64() * 1e6 / f64::from(reads)
}

/// A tree with the first CPU of this host many times.
fn cpuinfo_of(cpus: u32) -> (tempfile::TempDir, HostRoot) {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let (head, rest) = text.split_once("\n\n").unwrap().0.split_once('\n').unwrap();
    assert!(head.starts_with("processor"));
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::at(dir.path());
    std::fs::create_dir_all(root.proc("")).unwrap();
    let text: String = (0..cpus).map(|cpu| format!("processor\t: {cpu}\n{rest}\n\n")).collect();
    std::fs::write(root.proc("cpuinfo"), text).unwrap();
    (dir, root)
}

/// Mappings that the kernel does not join, because neighbours differ in what they allow.
fn add_mappings() {
    for index in 0..MAPPINGS {
        let protection = if index % 2 == 0 { ProtFlags::PROT_READ } else { ProtFlags::PROT_WRITE };
        let length = std::num::NonZeroUsize::new(4096).unwrap();
        // SAFETY: a new mapping, which nobody else uses; it stays until the program ends.
        unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    }
}
