//! What VMs read of the frames that they share.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use huddle_host::HostRoot;
use huddle_model::matrix::ReadBy;
use huddle_model::vm::{MemoryKind, Vm, VmmKind};
use huddle_sharing::content::Share;
use huddle_sharing::{Measurement, MergedScan, ReadSettings};
use huddle_testing::memory::{Fork, huge, huge_page_pages};
use libtest_mimic::Trial;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use serde_json::Value;

use crate::map::{Map, PAGE, vm};
use crate::reference::check_reading;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("reads_of_a_quarter", reads_of_a_quarter),
        trial("reads_of_huge_pages", reads_of_huge_pages),
        trial("reads_of_a_file", reads_of_a_file),
        trial("reads_that_are_not_seen", reads_that_are_not_seen),
        trial("plans_go_by_what_is_read", plans_go_by_what_is_read),
    ]
}

/// Pages of a test.
const PAGES: usize = 16_000;

const WINDOW_MS: u32 = 1000;

fn measure(vms: &[Vm]) -> Measurement {
    // Long enough for a busy machine.
    let settings = ReadSettings { window_ms: WINDOW_MS, ..ReadSettings::default() };
    let found = MergedScan::new(HostRoot::real()).with_reads(settings).measure(vms).unwrap();
    check_reading(&found, ReadBy::PageTables);
    found
}

/// Frames that two VMs read; `None` where this kernel does not let page tables be read, which is said.
fn read(found: &Measurement) -> Option<u64> {
    let read = found.matrix.shared_frames_read(0, 1);
    if read.is_none() {
        let reason = found.matrix.reads_unavailable(0).unwrap();
        assert_eq!(found.matrix.frame_reading().unwrap().by, ReadBy::Pagemap, "{reason}");
        println!("reads are not seen: {reason}");
    }
    read
}

/// Whether two counts are within one hundredth of `whole`: a page may be read through a TLB that still has its entry.
fn is_near(found: u64, expected: usize, whole: usize) -> bool {
    found.abs_diff(expected as u64) * 100 <= whole as u64
}

fn reads_of_a_quarter() {
    let map = Map::written(PAGES);
    let quarter = PAGES / 4;
    // Both read one quarter; one of them reads another quarter, too.
    let [first, second] = [0..2 * quarter, quarter..2 * quarter]
        .map(|pages| Fork::that_repeats(move || map.read(pages.clone())));
    let vms = [vm("first", first.pid(), &[map]), vm("second", second.pid(), &[map])];
    let found = measure(&vms);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(PAGES as u64));
    assert_eq!(found.matrix.read_window_ms(), Some(WINDOW_MS));
    let Some(read) = read(&found) else { return };
    assert!(is_near(read, quarter, PAGES), "{read} of {PAGES}, expected {quarter}");
    let group = &found.matrix.read_groups().unwrap().groups()[0];
    assert_eq!((&group.vms[..], group.frames), (&[0, 1][..], read));
    // Clearing keeps its share of a CPU by the time to the next measurement.
    let tenth = ReadSettings { cpu_share: Share::try_from(0.1).unwrap(), window_ms: 1 };
    let scan = MergedScan::new(HostRoot::real()).with_reads(tenth);
    let least_interval = scan.measure(&vms).unwrap().least_interval;
    assert!(
        least_interval > Duration::ZERO && least_interval < Duration::from_secs(60),
        "{least_interval:?}"
    );
    // Also where another measurement comes too early.
    let hundredth = ReadSettings { cpu_share: Share::try_from(1e-300).unwrap(), window_ms: 1 };
    let scan = MergedScan::new(HostRoot::real()).with_reads(hundredth);
    assert_eq!(scan.measure(&vms).unwrap().least_interval, Duration::from_secs(86_400), "a day at most");
    let early = scan.measure(&vms).unwrap();
    assert_eq!(
        (early.matrix.shared_frames(0, 1), early.matrix.shared_frames_read(0, 1)),
        (Some(PAGES as u64), None)
    );
    assert!(early.matrix.reads_unavailable(0).unwrap().contains("cleared again in"));
    let without = MergedScan::new(HostRoot::real()).measure(&vms).unwrap();
    assert_eq!((without.least_interval, without.matrix.read_window_ms()), (Duration::ZERO, None));
    assert_eq!(without.matrix.shared_frames(0, 1), Some(PAGES as u64));
}

/// A huge page has one accessed bit.
fn reads_of_huge_pages() {
    let pages = huge_page_pages();
    let Some(words) = huge(4) else {
        println!("the kernel gives no huge pages");
        return;
    };
    let start = std::ptr::NonNull::new(words.as_mut_ptr().cast()).unwrap();
    let map = Map { start, pages: 4 * pages, kind: MemoryKind::Anonymous };
    let [first, second] = [[3, 2 * pages], [7, 3 * pages]]
        .map(|of| Fork::that_repeats(move || of.iter().for_each(|page| map.read(*page..page + 1))));
    let vms = [vm("first", first.pid(), &[map]), vm("second", second.pid(), &[map])];
    let found = measure(&vms);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(4 * pages as u64));
    if let Some(read) = read(&found) {
        assert_eq!(read, pages as u64, "they read different pages of one huge page");
    }
}

/// Pages of the page cache are shared without KSM, and read as others are.
fn reads_of_a_file() {
    // In memory, where pages are small by default: one of a disk's file system may be mapped by huge pages.
    let file = File::from(memfd_create("read", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all_at(&vec![7; 1000 * PAGE], 0).unwrap();
    let (access, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
    let map = Map::of_file(file.as_fd(), 1000, access, flags, MemoryKind::PrivateFile);
    map.read(0..1000);
    let [first, second] =
        [0..500, 400..1000].map(|pages| Fork::that_repeats(move || map.read(pages.clone())));
    std::thread::sleep(Duration::from_millis(50));
    let vms = [vm("first", first.pid(), &[map]), vm("second", second.pid(), &[map])];
    let found = measure(&vms);
    if let Some(read) = read(&found) {
        // The kernel may map some pages around each that is read, without reading them.
        assert!((100..150).contains(&read), "{read}");
    }
}

fn reads_that_are_not_seen() {
    let map = Map::written(100);
    let [first, second] = [(); 2].map(|()| Fork::that_repeats(move || map.read(0..100)));
    let vms = [vm("first", first.pid(), &[map]), vm("second", second.pid(), &[map])];
    let in_kvm = [vms[0].clone(), Vm { vmm: VmmKind::QemuKvm, ..vms[1].clone() }];
    let found = measure(&in_kvm);
    let (shared, read) = (found.matrix.shared_frames(0, 1), found.matrix.shared_frames_read(0, 1));
    assert_eq!((shared, read), (Some(100), None), "not 0");
    assert!(found.matrix.reads_unavailable(1).unwrap().contains("KVM"));
    assert!(found.matrix.of_reads().unwrap_err().contains("second"));
    let by_pagemap = MergedScan::new(HostRoot::real()).with_read_by(ReadBy::Pagemap);
    let found = by_pagemap.with_reads(ReadSettings::default()).measure(&vms).unwrap();
    let reason = found.matrix.reads_unavailable(0).unwrap();
    assert!(reason.contains("page tables, which are not read: it was configured"), "{reason}");
}

/// Pairs that share much and read little, and pairs that share less and read it all.
fn plans_go_by_what_is_read() {
    let (cold, hot) = (8000, 2000);
    // a and b share one cold part, c and d another; a and c share one hot part, b and d another.
    let maps = [cold, cold, hot, hot].map(Map::written);
    // What is not theirs they write, which gives them frames of their own.
    let of = |number: u64, of_cold: usize, of_hot: usize| {
        let others = [0, 1, 2, 3].into_iter().filter(|map| ![of_cold, of_hot].contains(map));
        let write = || others.for_each(|map| maps[map].write(0..maps[map].pages, number));
        Fork::that_then_repeats(write, || maps[of_hot].read(0..hot))
    };
    let tenants = [("a", of(2, 0, 2)), ("b", of(3, 0, 3)), ("c", of(4, 1, 2)), ("d", of(5, 1, 3))];
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("reads.toml");
    std::fs::write(&config, "[sharing]\nread_window_ms = 1000\n").unwrap();
    let topology = dir.path().join("two-caches.json");
    let two = r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[2,3]}]}"#;
    std::fs::write(&topology, two).unwrap();
    let run = |arguments: &[&str]| {
        let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
        huddle.args(["--format", "json", "--config"]).arg(&config);
        for (name, child) in &tenants {
            huddle.args(["--vm", &format!("{name}={}", child.pid())]);
        }
        let output = huddle.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let plan = |weigh: &str| {
        let path = topology.to_str().unwrap();
        run(&["plan", "--policy", "sharing", "--weigh", weigh, "--topology", path])
    };
    let together = |plan: &Value| {
        let domain = |name: &str| {
            let placed = plan["placement"].as_array().unwrap().iter().find(|placed| placed["vm"] == name);
            placed.unwrap_or_else(|| panic!("{name} in {plan}"))["domain"].as_u64()
        };
        ["b", "c", "d"].into_iter().find(|other| domain("a") == domain(other)).unwrap()
    };
    let matrix = run(&["matrix", "--weigh", "read"]);
    if matrix["read_by"] != "page_tables" {
        println!("reads are not seen: {}", matrix["read_by_reason"]);
        return;
    }
    assert_eq!(matrix["read_window_ms"], 1000);
    let cell = |of: &str, i: usize, j: usize| matrix[of][i][j].as_u64().unwrap() as usize;
    assert!(cell("shared_frames", 0, 1) >= cold && cell("shared_frames", 0, 1) > cell("shared_frames", 0, 2));
    assert!(cell("shared_frames_read", 0, 2) >= hot * 99 / 100, "{matrix}");
    assert!(cell("shared_frames_read", 0, 1) < hot / 2, "{matrix}");
    assert_eq!(together(&plan("all")), "b");
    let by_reads = plan("read");
    assert_eq!(together(&by_reads), "c");
    assert!(by_reads["reasons"].to_string().contains("as far as both VMs read them"), "{by_reads}");
    // The same from the file.
    let file = dir.path().join("matrix.json");
    std::fs::write(&file, matrix.to_string()).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (file, topology) = (path(&file), path(&topology));
    let offline =
        run(&["plan", "--policy", "sharing", "--weigh", "read", "--matrix", &file, "--topology", &topology]);
    assert_eq!(together(&offline), "c");
}
