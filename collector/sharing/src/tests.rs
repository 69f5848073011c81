//! The scan on fixtures: sparse files in place of `/proc/PID/pagemap` and `/proc/PID/mem`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::SharedGroup;
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId, VmmKind};

use super::pagemap::page_bytes;
use super::*;

const PRESENT: u64 = 1 << 63;
const FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
const ZERO_FRAME: u64 = 7;

struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        File::create(tree.root().proc("kpageflags")).unwrap();
        tree
    }

    fn root(&self) -> HostRoot {
        let root = HostRoot::at(self.dir.path());
        fs::create_dir_all(root.proc("")).unwrap();
        root
    }

    /// A process whose page number `page` has the given entry.
    fn process(&self, pid: i32, entries: &[(u64, u64)]) {
        let root = self.root();
        fs::create_dir_all(root.proc(pid.to_string())).unwrap();
        fs::write(
            root.proc(format!("{pid}/stat")),
            format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 50 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n"),
        )
        .unwrap();
        let pagemap = File::create(root.proc(format!("{pid}/pagemap"))).unwrap();
        pagemap.set_len(8 << 20).unwrap();
        for (page, entry) in entries {
            pagemap.write_all_at(&entry.to_ne_bytes(), page * 8).unwrap();
        }
        File::create(root.proc(format!("{pid}/mem"))).unwrap().set_len(4 << 30).unwrap();
    }

    fn content(&self, pid: i32, page: u64, byte_at: u64) {
        let mem = File::options().write(true).open(self.root().proc(format!("{pid}/mem"))).unwrap();
        mem.write_all_at(&[1], page * page_bytes() + byte_at).unwrap();
    }

    fn flags(&self, frame: u64, flags: u64) {
        let file = File::options().write(true).open(self.root().proc("kpageflags")).unwrap();
        file.write_all_at(&flags.to_ne_bytes(), frame * 8).unwrap();
    }

    /// KSM has merged pages on this host.
    fn merged(&self) {
        let ksm = self.dir.path().join("sys/kernel/mm/ksm");
        fs::create_dir_all(&ksm).unwrap();
        fs::write(ksm.join("pages_shared"), "1\n").unwrap();
    }

    fn scan(&self) -> MergedScan {
        MergedScan::new(self.root())
    }
}

/// Measures by pagemap and by page tables, which have to give the same.
fn by_both(scan: &MergedScan, vms: &[Vm]) -> Result<Measurement, SharingError> {
    let by_pagemap = scan.clone().with_read_by(ReadBy::Pagemap).measure_with(vms, ZERO_FRAME)?;
    // Not the kernel's: nothing else is tried.
    let fallen_back = scan.clone().measure_with(vms, ZERO_FRAME)?;
    let reading = fallen_back.matrix.frame_reading().unwrap();
    assert_eq!(reading.by, ReadBy::Pagemap);
    assert!(reading.reason.is_some());
    let scan = MergedScan { tables: Arc::new(KeptTables::of_test()), ..scan.clone() };
    let by_tables = scan.measure_with(vms, ZERO_FRAME)?;
    assert_eq!(by_tables.matrix.frame_reading().unwrap().by, ReadBy::PageTables);
    assert!(by_tables.matrix.same_sharing_as(&by_pagemap.matrix), "{by_tables:#?} {by_pagemap:#?}");
    assert_eq!(by_tables.unmeasured, by_pagemap.unmeasured);
    assert_eq!(by_tables.notes, by_pagemap.notes);
    Ok(by_tables)
}

fn task(pid: i32) -> TaskId {
    TaskId { id: pid, start_ticks: 50 }
}

fn region(pid: i32, first_page: u64, pages: u64, kind: MemoryKind) -> GuestRegion {
    let bytes = page_bytes();
    GuestRegion {
        process: Some(task(pid)),
        start: first_page * bytes,
        end: (first_page + pages) * bytes,
        kind,
    }
}

fn vm(name: &str, pid: i32, memory: Vec<GuestRegion>) -> Vm {
    Vm {
        name: name.to_owned(),
        id: task(pid).into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::Process,
        vcpus: Vec::new(),
        memory,
        allowed_cpus: CpuSet::default(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn memory(measurement: &Measurement, vm: usize) -> MemoryUse {
    measurement.matrix.vms()[vm].memory.unwrap()
}

#[test]
fn frames_pages_and_repeats_are_distinguished() {
    let tree = Tree::new();
    let a: &[(u64, u64)] = &[
        (100, PRESENT | EXCLUSIVE | 1000),
        (101, PRESENT | 0xffff),
        (102, PRESENT | 0x1_0000),
        (103, PRESENT | 0x1_0000),
        (104, PRESENT | ZERO_FRAME),
        (105, 1 << 62 | 99),
        (106, PRESENT | FILE | 5000),
        (200, PRESENT | EXCLUSIVE | 1001),
    ];
    tree.process(1, a);
    tree.process(2, &[(300, PRESENT | 0xffff), (301, PRESENT | 0x1_0000), (302, PRESENT | FILE | 5000)]);
    let vms = [
        vm("a", 1, vec![region(1, 100, 10, MemoryKind::PrivateFile)]),
        vm("b", 2, vec![region(2, 299, 10, MemoryKind::PrivateFile)]),
    ];
    for threads in [1, 3] {
        let scan = tree.scan().with_threads(NonZeroUsize::new(threads).unwrap());
        let found = by_both(&scan, &vms).unwrap();
        assert_eq!(
            memory(&found, 0),
            MemoryUse {
                pages_resident: 6,
                pages_used: 5,
                frames_used: 4,
                pages_zero: 1,
                self_shared_pages: 2,
                pages_file: Some(1)
            }
        );
        assert_eq!(memory(&found, 1).frames_used, 3);
        assert_eq!(found.matrix.shared_frames(0, 1), Some(3));
        assert_eq!(found.matrix.shared_frames(1, 0), Some(3));
        assert_eq!(found.matrix.shared_file_frames(0, 1), Some(1));
        let both = SharedGroup { vms: vec![0, 1], frames: 3 };
        assert_eq!(found.matrix.shared_groups(), Some(&SharedGroups::of([both], 0)));
        assert!(found.unmeasured.is_empty() && found.notes.is_empty(), "{:?}", found.notes);
    }
}

#[test]
fn merged_frames_are_checked_by_content_at_each_scan() {
    const KSM: u64 = 1 << 21;
    let tree = Tree::new();
    let entries = [(100, PRESENT | 40), (101, PRESENT | 41), (102, PRESENT | 42), (103, PRESENT | 43)];
    tree.process(1, &entries);
    tree.process(2, &entries);
    // 40 is zero; 41 differs in its last byte only; 42 is zero but not merged; 43 differs at the start.
    tree.flags(40, KSM);
    tree.flags(41, KSM);
    tree.flags(43, KSM);
    for pid in [1, 2] {
        tree.content(pid, 101, page_bytes() - 1);
        tree.content(pid, 103, 0);
    }
    let vms =
        [1, 2].map(|pid| vm(&format!("vm{pid}"), pid, vec![region(pid, 100, 4, MemoryKind::Mergeable)]));
    tree.merged();
    let scan = tree.scan();
    let first = by_both(&scan, &vms).unwrap();
    assert_eq!((memory(&first, 0).pages_zero, memory(&first, 0).frames_used), (1, 3));
    assert_eq!(first.matrix.shared_frames(0, 1), Some(3));

    for pid in [1, 2] {
        File::create(tree.root().proc(format!("{pid}/mem"))).unwrap().set_len(4 << 30).unwrap();
    }
    let later = by_both(&scan, &vms).unwrap();
    assert_eq!(later.matrix.shared_frames(0, 1), Some(1), "42 is not KSM's");
    assert_eq!(memory(&later, 1).pages_zero, 3);
}

#[test]
fn frames_that_were_never_merged_are_not_read() {
    let tree = Tree::new();
    for pid in [1, 2] {
        tree.process(pid, &[(100, PRESENT | 40)]);
        fs::remove_file(tree.root().proc(format!("{pid}/mem"))).unwrap();
    }
    let vms =
        [1, 2].map(|pid| vm(&format!("vm{pid}"), pid, vec![region(pid, 100, 1, MemoryKind::Mergeable)]));
    let found = by_both(&tree.scan(), &vms).unwrap();
    assert_eq!(found.matrix.shared_frames(0, 1), Some(1));
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    // If it may have been merged, and its content cannot be read, there is a note. The count of one process is no
    // proof: what was merged before it was forked is not in it.
    fs::write(tree.root().proc("1/ksm_merging_pages"), "0\n").unwrap();
    tree.merged();
    let found = by_both(&tree.scan(), &vms).unwrap();
    assert_eq!(found.matrix.shared_frames(0, 1), Some(1));
    assert!(found.notes[0].contains("proc/1/mem"), "{:?}", found.notes);
}

#[test]
fn the_huge_zero_page_is_zero() {
    let tree = Tree::new();
    let base = 0x3_0000 + 512;
    let entries: Vec<_> = (0..512).map(|page| (512 + page, PRESENT | (base + page))).collect();
    tree.process(1, &entries);
    tree.process(2, &entries);
    let vms =
        [1, 2].map(|pid| vm(&format!("vm{pid}"), pid, vec![region(pid, 512, 512, MemoryKind::Anonymous)]));
    let not_zero = by_both(&tree.scan(), &vms).unwrap();
    assert_eq!(not_zero.matrix.shared_frames(0, 1), Some(512));
    tree.flags(base, 1 << 24);
    let zero = by_both(&tree.scan(), &vms).unwrap();
    assert_eq!(zero.matrix.shared_frames(0, 1), Some(0));
    assert_eq!((memory(&zero, 0).pages_zero, memory(&zero, 0).frames_used), (512, 0));
}

#[test]
fn a_vm_that_ended_or_lost_its_memory_is_named_and_left_out() {
    let tree = Tree::new();
    for pid in [1, 2, 3] {
        tree.process(pid, &[(100, PRESENT | 40)]);
    }
    let mut vms = [1, 2, 3, 4]
        .map(|pid| vm(&format!("vm{pid}"), pid, vec![region(pid, 100, 1, MemoryKind::Anonymous)]));
    // The pid was reused; another program was executed; no process.
    vms[0].id = TaskId { start_ticks: 49, ..task(1) }.into();
    fs::write(tree.root().proc("2/pagemap"), b"").unwrap();
    let found = by_both(&tree.scan(), &vms).unwrap();
    let names: Vec<_> = found.unmeasured.iter().map(|gone| gone.vm.as_str()).collect();
    assert_eq!(names, ["vm1", "vm4", "vm2"]);
    assert_eq!(found.matrix.len(), 1);
    assert_eq!(found.matrix.vms()[0].name, "vm3");
    assert_eq!(memory(&found, 0).frames_used, 1);
}

#[test]
fn a_cgroup_goes_on_without_one_of_its_processes() {
    let tree = Tree::new();
    tree.process(1, &[(100, PRESENT | 40)]);
    tree.process(2, &[(100, PRESENT | 40)]);
    let mut group = vm(
        "group",
        1,
        vec![region(1, 100, 1, MemoryKind::Anonymous), region(9, 100, 1, MemoryKind::Anonymous)],
    );
    group.vmm = VmmKind::Cgroup;
    let vms = [group, vm("other", 2, vec![region(2, 100, 1, MemoryKind::Anonymous)])];
    let found = by_both(&tree.scan(), &vms).unwrap();
    assert_eq!(found.matrix.shared_frames(0, 1), Some(1));
    assert!(found.notes[0].contains("process 9 of \"group\""), "{:?}", found.notes);
}

#[test]
fn memory_claimed_twice_and_impossible_frames_are_refused() {
    let tree = Tree::new();
    tree.process(1, &[(100, PRESENT | 1 << 50)]);
    let one = |name: &str| vm(name, 1, vec![region(1, 100, 4, MemoryKind::Anonymous)]);
    let error = by_both(&tree.scan(), &[one("a"), one("b")]).unwrap_err().to_string();
    assert!(error.contains("\"a\"") && error.contains("\"b\"") && error.contains("process 1"), "{error}");
    let error = by_both(&tree.scan(), &[one("a")]).unwrap_err().to_string();
    assert!(error.contains("/proc/1/pagemap") && error.contains("0x4000000000000"), "{error}");
}

#[test]
fn no_vm_is_an_empty_matrix() {
    let found = by_both(&Tree::new().scan(), &[]).unwrap();
    assert!(found.matrix.is_empty());
}

#[test]
fn many_vms_on_random_frames_agree_with_sets() {
    use std::collections::{BTreeMap, BTreeSet};
    let tree = Tree::new();
    let mut state = 88172645463325252u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Frames around two boundaries of buckets, 130 VMs: three words of bits.
    let count = 130;
    let mut frames: Vec<BTreeMap<u64, u64>> = Vec::new();
    for vm in 0..count {
        let mut pages = Vec::new();
        let mut mapped = BTreeMap::new();
        for page in 0..40 {
            let frame = 0xffe0 + random() % 64 + 0x1_0000 * (random() % 2);
            pages.push((page, PRESENT | frame));
            *mapped.entry(frame).or_insert(0) += 1;
        }
        tree.process(vm + 1, &pages);
        frames.push(mapped);
    }
    let vms: Vec<_> = (0..count)
        .map(|at| vm(&format!("vm{at}"), at + 1, vec![region(at + 1, 0, 40, MemoryKind::Anonymous)]))
        .collect();
    let found = by_both(&tree.scan(), &vms).unwrap();
    for (i, left) in frames.iter().enumerate() {
        assert_eq!(memory(&found, i).frames_used, left.len() as u64);
        assert_eq!(memory(&found, i).self_shared_pages, left.values().filter(|n| **n > 1).sum::<u64>());
        let left: BTreeSet<_> = left.keys().collect();
        for (j, right) in frames.iter().enumerate().filter(|(j, _)| *j != i) {
            let both = right.keys().filter(|frame| left.contains(frame)).count() as u64;
            assert_eq!(found.matrix.shared_frames(i, j), Some(both), "{i} {j}");
        }
    }
    let mut vms_of: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (at, mapped) in (0..).zip(&frames) {
        mapped.keys().for_each(|frame| vms_of.entry(*frame).or_default().push(at));
    }
    let sets = vms_of.into_values().map(|vms| SharedGroup { vms, frames: 1 });
    assert_eq!(found.matrix.shared_groups(), Some(&SharedGroups::of(sets, 0)));
}

#[test]
fn frames_of_the_page_cache_are_told_from_merged_ones() {
    let tree = Tree::new();
    // A template: pages 0 to 3 were not written by either, 4 by the first only, 5 by both, and merged; 6 twice.
    let frames = |own: u64| {
        let mut entries: Vec<_> = (0..4).map(|page| (100 + page, PRESENT | FILE | (5000 + page))).collect();
        let fifth = if own == 1 { PRESENT | EXCLUSIVE | 9000 } else { PRESENT | EXCLUSIVE | FILE | 5004 };
        entries.extend([(104, fifth), (105, PRESENT | 0x2_0000), (106, PRESENT | FILE | 5000)]);
        entries
    };
    (1..=2).for_each(|pid| tree.process(pid, &frames(pid as u64)));
    tree.process(3, &[(100, PRESENT | 0x2_0000), (101, PRESENT | EXCLUSIVE | 42)]);
    let kinds = [MemoryKind::PrivateFile, MemoryKind::SharedFile, MemoryKind::Mergeable];
    let vms = [1, 2, 3].map(|pid| {
        let kind = kinds[pid as usize - 1];
        vm(&format!("vm{pid}"), pid, vec![region(pid, 100, 7, kind)])
    });
    for threads in [1, 3] {
        let scan = tree.scan().with_threads(NonZeroUsize::new(threads).unwrap());
        let found = by_both(&scan, &vms).unwrap();
        let matrix = &found.matrix;
        let of = |i, j| (matrix.shared_frames(i, j), matrix.shared_file_frames(i, j));
        assert_eq!(
            [of(0, 1), of(0, 2), of(1, 2)],
            [(Some(5), Some(4)), (Some(1), Some(0)), (Some(1), Some(0))]
        );
        let files = [0, 1, 2].map(|vm| (memory(&found, vm).pages_file, memory(&found, vm).frames_used));
        assert_eq!(files, [(Some(5), 6), (Some(6), 6), (Some(0), 2)]);
        assert_eq!(memory(&found, 0).self_shared_pages, 2);
    }
    // Without any page of a file that is known, and costs nothing.
    let found = by_both(&tree.scan(), &vms[2..]).unwrap();
    assert_eq!(memory(&found, 0).pages_file, Some(0));
}

/// The entries of a huge page that is mapped as a whole all say of their frames what is true of the first.
#[test]
fn pages_of_a_huge_page_that_others_map_are_shared() {
    let huge = 512;
    let all_alone: Vec<(u64, u64)> =
        (0..huge).map(|at| (huge + at, PRESENT | EXCLUSIVE | (4096 + at))).collect();
    // The other has a copy of the first page, its own alone pages elsewhere, and one page twice.
    let mut of_other: Vec<(u64, u64)> = (1..huge).map(|at| (huge + at, PRESENT | (4096 + at))).collect();
    of_other.extend([(huge, PRESENT | EXCLUSIVE | 9000), (2000, PRESENT | (4096 + 7))]);
    for border in [huge, huge + 1, huge + 300, 2 * huge] {
        let tree = Tree::new();
        tree.process(1, &all_alone);
        tree.process(2, &of_other);
        let regions = |pid| {
            let anonymous = |first, pages| region(pid, first, pages, MemoryKind::Anonymous);
            vec![anonymous(huge, border - huge), anonymous(border, 3000 - border)]
        };
        let found = by_both(&tree.scan(), &[vm("a", 1, regions(1)), vm("b", 2, regions(2))]).unwrap();
        assert_eq!(found.matrix.shared_frames(0, 1), Some(511), "{border}");
        let figures = |vm| {
            let memory = memory(&found, vm);
            (memory.pages_resident, memory.pages_used, memory.frames_used, memory.self_shared_pages)
        };
        assert_eq!((figures(0), figures(1)), ((512, 512, 512, 0), (513, 513, 512, 2)), "{border}");
        // Both processes in one VM.
        let both = vm("c", 1, [regions(1), regions(2)].concat());
        let found = by_both(&tree.scan(), &[both]).unwrap();
        let memory = memory(&found, 0);
        assert_eq!((memory.frames_used, memory.self_shared_pages), (513, 2 * 511 + 1), "{border}");
    }
}
