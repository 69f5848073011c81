//! The scan of contents against known truth, and against the scan of frames once KSM has merged everything.

use std::num::NonZeroUsize;
use std::time::Duration;

use huddle_host::{HostRoot, task};
use huddle_model::matrix::{MemoryUse, Method};
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId, Vm};
use huddle_sharing::content::{ContentScan, ContentSettings, Share};
use huddle_sharing::{Measurement, MergedScan};
use libtest_mimic::Trial;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::tenant::Tenant;
use crate::trial;
use huddle_testing::ksm::Ksm;
use huddle_testing::memory::page_bytes;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("content_predicts_what_merging_does", predicts_what_merging_does),
        trial("content_measuring_changes_nothing", measuring_changes_nothing),
        trial("content_a_sample_is_within_its_interval", a_sample_is_within_its_interval),
        trial("content_tenant_ends_during_the_scan", tenant_ends_during_the_scan),
        trial("content_memory_is_freed_during_the_scan", memory_is_freed_during_the_scan),
    ]
}

fn unhurried() -> ContentSettings {
    ContentSettings { cpu_share: Share::ALL, ..ContentSettings::default() }
}

fn measure(vms: &[Vm], settings: ContentSettings) -> Measurement {
    ContentScan::new(HostRoot::real(), settings).measure(vms).unwrap()
}

fn memory(found: &Measurement, vm: usize) -> MemoryUse {
    found.matrix.vms()[vm].memory.unwrap()
}

fn shared(found: &Measurement) -> Vec<u64> {
    found.matrix.pairs().map(|(i, j)| found.matrix.shared_frames(i, j).unwrap()).collect()
}

/// Before anything is merged the scan predicts what merging will do; afterwards both methods agree to the page.
fn predicts_what_merging_does() {
    let ksm = Ksm::start();
    ksm.set("run", "0");
    let specs = [
        "set:1:400,set:2:300,zeros:0:90,set:3:200,set:10:150,copies:5:20,copies:7:1,read:0:30",
        "set:3:200,hole:0:900,set:1:400,set:2:300,set:11:77,copies:5:9,read:0:5",
        "set:4:123,set:12:1000,zeros:0:700,set:2:300,set:1:400,copies:6:200",
        "set:1:400,set:4:123,set:13:1,copies:7:1,hole:0:3,copies:6:1",
    ];
    let tenants: Vec<Tenant> =
        ["a", "b", "c", "d"].into_iter().zip(specs).map(|(name, spec)| Tenant::start(name, spec)).collect();
    let vms: Vec<Vm> = tenants.iter().map(Tenant::vm).collect();
    let merged_scan = MergedScan::new(HostRoot::real());

    let before = measure(&vms, unhurried());
    assert!(
        before.unmeasured.is_empty() && before.notes.is_empty(),
        "{:?} {:?}",
        before.unmeasured,
        before.notes
    );
    assert_eq!((before.matrix.method(), before.matrix.coverage()), (Method::Content, Some(1.0)));
    assert_eq!(shared(&before), [901, 700, 401, 700, 400, 524]);
    let expected = |used, distinct, zero, repeated| MemoryUse {
        pages_resident: used + zero,
        pages_used: used,
        frames_used: distinct,
        pages_zero: zero,
        self_shared_pages: repeated,
        pages_file: Some(0),
    };
    let truth = [
        expected(1071, 1052, 120, 20),
        expected(986, 978, 5, 9),
        expected(2023, 1824, 700, 200),
        expected(526, 526, 0, 0),
    ];
    assert_eq!([0, 1, 2, 3].map(|vm| memory(&before, vm)), truth);
    assert_eq!(shared(&merged_scan.measure(&vms).unwrap()), [0; 6], "nothing is merged yet");

    ksm.set("run", "1");
    ksm.merge(&tenants.iter().map(Tenant::pid).collect::<Vec<_>>());
    let merged = merged_scan.measure(&vms).unwrap();
    let after = measure(&vms, unhurried());
    assert_eq!(after.matrix.vms(), merged.matrix.vms());
    assert_eq!(shared(&after), shared(&merged));
    assert_eq!(after.matrix.vms(), before.matrix.vms());
    assert_eq!(shared(&after), shared(&before));
    // Read in several passes, the result is the same.
    let little = measure(&vms, ContentSettings { memory_mib: 1, cpu_share: Share::HALF, ..unhurried() });
    assert_eq!(little.matrix.vms(), after.matrix.vms());
}

/// Reading a merged page must not split it, nor reading a hole fill it.
fn measuring_changes_nothing() {
    let ksm = Ksm::start();
    let tenants = ["a", "b"].map(|name| Tenant::start(name, "set:1:500,zeros:0:50,hole:0:400,read:0:60"));
    ksm.merge(&tenants.each_ref().map(Tenant::pid));
    let vms = tenants.each_ref().map(Tenant::vm);
    let frames = MergedScan::new(HostRoot::real());
    let before = frames.measure(&vms).unwrap();
    for _ in 0..2 {
        assert_eq!(shared(&measure(&vms, unhurried())), [500]);
    }
    let after = frames.measure(&vms).unwrap();
    assert_eq!(after.matrix.vms(), before.matrix.vms());
    assert_eq!(shared(&after), shared(&before));
    assert_eq!(memory(&after, 0).pages_resident, 610);
}

/// What is sampled is contents, however often a tenant has them.
fn a_sample_is_within_its_interval() {
    let tenants = [
        ("a", "set:1:6000,set:1:6000,set:1:6000,set:2:8000,zeros:0:4000"),
        ("b", "set:3:5000,set:1:6000,set:3:5000"),
    ]
    .map(|(name, spec)| Tenant::start(name, spec));
    let vms = tenants.each_ref().map(Tenant::vm);
    let full = measure(&vms, unhurried());
    assert_eq!((shared(&full), memory(&full, 0).frames_used), (vec![6_000], 14_000));
    // Which contents are drawn depends on them and the seed alone, so this passes or fails every time.
    let sample = Some(Share::try_from(0.2).unwrap());
    let mut covered = [0; 2];
    for seed in 0..20 {
        let found = measure(&vms, ContentSettings { sample, seed, ..unhurried() });
        for (at, (i, j)) in [(0, 1), (1, 0)].into_iter().enumerate() {
            let (rate, truth) = (found.matrix.rate(i, j), full.matrix.rate(i, j));
            let [low, high] = found.matrix.rate_ci95(i, j).unwrap();
            assert!(low < rate && rate < high && high - low < 0.06, "{low} {rate} {high}");
            assert!((rate - truth).abs() < 5.0 * found.matrix.rate_error(i, j).unwrap(), "{rate} {truth}");
            covered[at] += u32::from(low <= truth && truth <= high);
        }
        assert_eq!(found.matrix.coverage(), Some(0.2));
        assert_eq!(memory(&found, 0).pages_resident, 30_000, "pages are counted");
        assert_eq!(memory(&found, 0).pages_zero, 4_000);
    }
    // 20 of 20 in 36 of 100 cases, fewer than 17 in 2 of 100.
    assert!(covered.iter().all(|covered| *covered >= 17), "{covered:?}");
}

/// Whenever it ends, it is either measured or named, and the others are right.
fn tenant_ends_during_the_scan() {
    let others = ["a", "b"].map(|name| Tenant::start(name, "set:1:100"));
    let (mut vanished, mut measured) = (0, 0);
    for round in 0..30 {
        let mut short = Tenant::start("short", "set:2:30000,set:1:50");
        let vms = [short.vm(), others[0].vm(), others[1].vm()];
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(round * 3));
            short.end();
        });
        let found = measure(&vms, unhurried());
        ending.join().unwrap();
        let (a, b) = (found.matrix.len() - 2, found.matrix.len() - 1);
        assert_eq!(found.matrix.shared_frames(a, b), Some(100), "round {round}");
        if found.unmeasured.is_empty() {
            assert_eq!(memory(&found, 0).pages_resident, 30_050);
            measured += 1;
        } else {
            assert_eq!((found.unmeasured[0].vm.as_str(), found.matrix.len()), ("short", 2));
            vanished += 1;
        }
    }
    assert!(vanished > 0, "it never ended in time");
    println!("ended in {vanished} of 30 scans, measured in {measured}");
}

/// Memory that is unmapped during the scan is left out and never counted wrongly.
fn memory_is_freed_during_the_scan() {
    const PAGES: usize = 40_000;
    let other = Tenant::start("other", "set:1:100");
    let process = task::process(&HostRoot::real(), std::process::id() as i32).unwrap().id;
    let mut caught = 0;
    for round in 0..20 {
        let start = different_pages(PAGES);
        let vms = [own_memory(process, start, PAGES), other.vm()];
        let half = start + PAGES / 2 * page_bytes();
        let freeing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(round * 2));
            unmap(half, PAGES / 2);
        });
        let found = measure(&vms, unhurried());
        freeing.join().unwrap();
        unmap(start, PAGES / 2);
        assert!(found.unmeasured.is_empty(), "{:?}", found.unmeasured);
        let memory = memory(&found, 0);
        let resident = PAGES as u64 / 2..=PAGES as u64;
        assert!(resident.contains(&memory.pages_resident), "{memory:?}");
        assert_eq!(memory.frames_used, memory.pages_resident, "all are different");
        assert_eq!(found.matrix.shared_frames(0, 1), Some(0));
        // Between the two: part of the freed memory had been read, and was gone at the end.
        if (PAGES as u64 / 2 * 102 / 100..PAGES as u64).contains(&memory.pages_resident) {
            assert!(found.notes.iter().any(|note| note.contains("afterwards")), "{:?}", found.notes);
        }
        caught += usize::from(memory.pages_resident < PAGES as u64);
    }
    assert!(caught > 0, "it was never freed in time");
}

/// Pages of this process, all different from each other and from every tenant's; returns their address.
fn different_pages(pages: usize) -> usize {
    let length = NonZeroUsize::new(pages * page_bytes()).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    // SAFETY: the range is the mapping made above; the advice does not change its content.
    unsafe { madvise(map, length.get(), MmapAdvise::MADV_NOHUGEPAGE) }.unwrap();
    // SAFETY: the mapping is writable, page-aligned, `pages` pages long, and only used through this, here.
    let words =
        unsafe { std::slice::from_raw_parts_mut(map.cast::<u64>().as_ptr(), pages * page_bytes() / 8) };
    for (index, page) in words.chunks_exact_mut(page_bytes() / 8).enumerate() {
        page[0] = 1 << 63 | index as u64;
    }
    map.as_ptr() as usize
}

fn own_memory(process: TaskId, start: usize, pages: usize) -> Vm {
    let end = (start + pages * page_bytes()) as u64;
    let region =
        GuestRegion { process: Some(process), start: start as u64, end, kind: MemoryKind::Anonymous };
    Vm::of_process("own", process, vec![region])
}

fn unmap(start: usize, pages: usize) {
    let start = std::ptr::NonNull::new(start as *mut nix::libc::c_void).unwrap();
    // SAFETY: part of a mapping of `different_pages`, which nothing refers to any more.
    unsafe { munmap(start, pages * page_bytes()) }.unwrap();
}
