//! What a scan has to find, by every way it can go: each must give the figures of the simplest way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use huddle_host::HostRoot;
use huddle_model::matrix::{MemoryUse, ReadBy, SharedGroup, SharedGroups};
use huddle_model::vm::Vm;
use huddle_sharing::{Measurement, MergedScan, ZeroPages};
use huddle_testing::memory::page_bytes;

/// Scans by each way to read frames, page tables first.
pub fn scans() -> [MergedScan; 2] {
    [ReadBy::PageTables, ReadBy::Pagemap].map(|by| MergedScan::new(HostRoot::real()).with_read_by(by))
}

/// Checks that page tables were read if they had to be, and otherwise says why they were not: a kernel may have no
/// types, but what was read may not be wrong.
pub fn check_reading(found: &Measurement, by: ReadBy) {
    let reading = found.matrix.frame_reading().unwrap();
    if reading.by == by {
        return;
    }
    let reason = reading.reason.as_deref().unwrap();
    assert!(!reason.contains("differ") && !reason.contains("not found"), "{reason}");
    println!("page tables were not read: {reason}");
}

/// Measures by every way, each of which has to find the same.
pub fn measure(vms: &[Vm]) -> Measurement {
    let ways = [
        (ReadBy::PageTables, ZeroPages::ByBooks),
        (ReadBy::Pagemap, ZeroPages::ByBooks),
        (ReadBy::PageTables, ZeroPages::ByContent),
        (ReadBy::Pagemap, ZeroPages::ByContent),
    ];
    let mut first: Option<Measurement> = None;
    for (by, zero_pages) in ways {
        let scan = MergedScan::new(HostRoot::real()).with_read_by(by).with_zero_pages(zero_pages);
        let found = scan.measure(vms).unwrap();
        check_reading(&found, by);
        assert!(found.unmeasured.is_empty(), "{:?}", found.unmeasured);
        assert!(found.notes.is_empty(), "{:?}", found.notes);
        if zero_pages == ZeroPages::ByBooks && found.zero_pages == Some(ZeroPages::ByContent) {
            println!(
                "KSM's stable tree cannot be read on this kernel: the content of each merged frame is read"
            );
        }
        let first = first.get_or_insert(found.clone());
        assert!(
            found.matrix.same_sharing_as(&first.matrix),
            "{by} and {zero_pages:?} find {:#?}, and not {:#?}",
            found.matrix,
            first.matrix
        );
    }
    first.unwrap()
}

pub fn memory(found: &Measurement, vm: usize) -> MemoryUse {
    found.matrix.vms()[vm].memory.unwrap()
}

/// The same figures in the simplest way: page by page, every content read, plain sets.
pub struct Reference {
    memory: Vec<MemoryUse>,
    pub frames: Vec<BTreeSet<u64>>,
}

pub fn reference(vms: &[Vm]) -> Reference {
    let kpageflags = File::open("/proc/kpageflags").unwrap();
    let word = |file: &File, at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at * 8).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let page_size = page_bytes() as u64;
    let mut reference = Reference { memory: Vec::new(), frames: Vec::new() };
    for vm in vms {
        let mut pages_on: BTreeMap<u64, u64> = BTreeMap::new();
        let mut memory = MemoryUse { pages_file: Some(0), ..MemoryUse::default() };
        for region in &vm.memory {
            let process = region.process.unwrap();
            let pagemap = File::open(format!("/proc/{process}/pagemap")).unwrap();
            let mem = File::open(format!("/proc/{process}/mem")).unwrap();
            for page in region.start / page_size..region.end / page_size {
                let entry = word(&pagemap, page);
                if entry >> 63 == 0 {
                    continue;
                }
                memory.pages_resident += 1;
                let frame = entry & ((1 << 55) - 1);
                let flags = word(&kpageflags, frame);
                // The kernel takes its huge zero page for one of a file.
                *memory.pages_file.as_mut().unwrap() += entry >> 61 & 1 & !(flags >> 24 & 1);
                let mut content = vec![0; page_bytes()];
                mem.read_exact_at(&mut content, page * page_size).unwrap();
                let alone = entry >> 56 & 1 == 1;
                let merged_zero = flags >> 21 & 1 == 1 && !alone && content.iter().all(|byte| *byte == 0);
                if flags >> 24 & 1 == 1 || merged_zero {
                    memory.pages_zero += 1;
                } else {
                    memory.pages_used += 1;
                    *pages_on.entry(frame).or_default() += 1;
                }
            }
        }
        memory.frames_used = pages_on.len() as u64;
        memory.self_shared_pages = pages_on.values().filter(|pages| **pages > 1).sum();
        reference.memory.push(memory);
        reference.frames.push(pages_on.into_keys().collect());
    }
    reference
}

pub fn assert_is_reference(found: &Measurement, vms: &[Vm]) {
    let reference = reference(vms);
    for i in 0..vms.len() {
        assert_eq!(memory(found, i), reference.memory[i], "{}", vms[i].name);
        for j in (0..vms.len()).filter(|j| *j != i) {
            let both = reference.frames[i].intersection(&reference.frames[j]).count() as u64;
            assert_eq!(found.matrix.shared_frames(i, j), Some(both), "{} {}", vms[i].name, vms[j].name);
        }
    }
    let mut vms_of: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (vm, frames) in (0..).zip(&reference.frames) {
        frames.iter().for_each(|frame| vms_of.entry(*frame).or_default().push(vm));
    }
    let sets = vms_of.into_values().map(|vms| SharedGroup { vms, frames: 1 });
    assert_eq!(found.matrix.shared_groups(), Some(&SharedGroups::of(sets, 0)));
}
