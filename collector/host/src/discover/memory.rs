//! Which ranges of a process are guest memory.
//!
//! # The rule
//! a. Every mapping marked mergeable (`mg` in `VmFlags`), which is how QEMU, cloud-hypervisor and
//!    prctl(PR_SET_MEMORY_MERGE) mark what KSM looks at.
//! b. And every memfd, `/dev/shm`, System V, shared anonymous (`/dev/zero`) and hugetlbfs mapping that
//!    is writable and at least 1 MiB long. It adds to (a): QEMU with a memfd for its RAM still marks
//!    its small ROM and video blocks mergeable.
//! c. Where a process has neither: all its private anonymous memory that can be accessed: heap, stack
//!    and unnamed mappings.
//!
//! Never mappings of ordinary files: two VMs of one VMM map the same binary and libraries, which says
//! nothing of their guests, and prctl(PR_SET_MEMORY_MERGE) marks even those mergeable. So a guest
//! restored from a snapshot file that is mapped privately (Firecracker can do so) is not covered.
//!
//! # When it is read again
//! smaps reports the flags, but the kernel walks all page tables for it, as expensive as the scan. So
//! the answer for a process (same id, same start) is kept while all of this holds, and is read again
//! otherwise:
//! - the text of its `maps` is the same, as far as a hash of 64 bits with random keys tells;
//! - `ksm_merge_any` and `ksm_mergeable` of its `ksm_stat` are the same (where the kernel has them);
//! - `/sys/kernel/mm/ksm/run` is the same;
//! - it is younger than [`MAX_AGE`].
//!
//! What that can miss, for at most [`MAX_AGE`]: madvise on exactly one whole mapping of a process
//! that already has another mergeable mapping changes neither text. And where `ksm_stat` says that
//! nothing is mergeable and `maps` has no name that could be hugetlbfs, smaps is not needed at all.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use huddle_model::vm::{GuestRegion, MemoryKind, TaskId};

use crate::limits::{Limits, VmTime};
use crate::maps::{self, Mapping};
use crate::process_ksm::{self, KsmMarks};
use crate::{HostError, HostRoot};

/// Longest time that the regions of a process are kept without reading smaps again.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// Smallest mapping of shared memory that is taken for guest memory, in bytes: smaller ones are
/// rings and mailboxes.
const MIN_SHARED_BYTES: u64 = 1 << 20;

/// The guest memory of a process by the rule of this module, ascending.
pub fn guest_memory(process: TaskId, mappings: &[Mapping]) -> Vec<GuestRegion> {
    let region = |mapping: &Mapping, kind| GuestRegion {
        process: Some(process),
        start: mapping.start,
        end: mapping.end,
        kind,
    };
    let marked = mappings.iter().filter_map(|mapping| Some(region(mapping, marked_kind(mapping)?)));
    let mut regions: Vec<GuestRegion> = marked.collect();
    if regions.is_empty() {
        let anonymous = mappings.iter().filter(|mapping| is_private_anonymous(mapping));
        regions.extend(anonymous.map(|mapping| region(mapping, MemoryKind::Anonymous)));
    }
    regions.sort_by_key(|region| region.start);
    regions
}

/// The kind of a mapping that rule (a) or (b) takes.
fn marked_kind(mapping: &Mapping) -> Option<MemoryKind> {
    let flags = mapping.flags.unwrap_or_default();
    let memory_file = is_memory_file(&mapping.name);
    if flags.mergeable && (memory_file || !mapping.name.starts_with('/')) {
        return Some(MemoryKind::Mergeable);
    }
    if !mapping.writable || mapping.len_bytes() < MIN_SHARED_BYTES {
        return None;
    }
    if flags.huge_tlb {
        return Some(MemoryKind::HugeTlb);
    }
    match (memory_file, mapping.shared) {
        (true, true) => Some(MemoryKind::SharedMemory),
        // Written pages of a private mapping are anonymous: KSM would take them if they were marked.
        (true, false) => Some(MemoryKind::Anonymous),
        (false, _) => None,
    }
}

/// Files that live in memory only, by the names the kernel gives them in `maps`.
fn is_memory_file(name: &str) -> bool {
    ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero", "/anon_hugepage", "[anon_shmem:"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn is_private_anonymous(mapping: &Mapping) -> bool {
    let name = mapping.name.as_str();
    let anonymous =
        name.is_empty() || name == "[heap]" || name.starts_with("[stack") || name.starts_with("[anon:");
    // Reserved address space without any permission holds nothing.
    anonymous && !mapping.shared && (mapping.readable || mapping.writable || mapping.executable)
}

/// The regions of processes, kept between scans by the rule of this module.
#[derive(Debug, Default)]
pub struct MemoryCache {
    entries: BTreeMap<TaskId, Entry>,
    /// Its keys are random, so that nobody can make two texts alike.
    hasher: RandomState,
    smaps_reads: u64,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    read_at: Instant,
    regions: Vec<GuestRegion>,
}

/// What must be the same for regions to be used again.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// Hash of the text of `maps`: the text may have megabytes.
    maps: u64,
    ksm_run: Option<u64>,
    marks: KsmMarks,
}

impl MemoryCache {
    /// How often smaps was read so far.
    pub fn smaps_reads(&self) -> u64 {
        self.smaps_reads
    }

    /// Forgets processes that are not in `alive`.
    pub fn retain(&mut self, alive: &BTreeSet<TaskId>) {
        self.entries.retain(|process, _| alive.contains(process));
    }

    /// The guest memory of `process` now; `ksm_run` is `/sys/kernel/mm/ksm/run` where there is KSM.
    ///
    /// # Errors
    /// Its files cannot be read or understood, it has more mappings than `limits` has, or `time` is over.
    pub fn regions(
        &mut self,
        root: &HostRoot,
        process: TaskId,
        ksm_run: Option<u64>,
        limits: &Limits,
        time: VmTime,
    ) -> Result<Vec<GuestRegion>, HostError> {
        self.regions_at(root, process, ksm_run, limits, time, Instant::now())
    }

    fn regions_at(
        &mut self,
        root: &HostRoot,
        process: TaskId,
        ksm_run: Option<u64>,
        limits: &Limits,
        time: VmTime,
        now: Instant,
    ) -> Result<Vec<GuestRegion>, HostError> {
        let maps = maps::maps_text(root, process.id, limits)?;
        time.check()?;
        let marks = process_ksm::marks(root, process.id)?;
        let key = Key { maps: self.hasher.hash_one(&maps), ksm_run, marks };
        if let Some(entry) = self.entries.get(&process)
            && entry.key == key
            && now.saturating_duration_since(entry.read_at) < MAX_AGE
        {
            return Ok(entry.regions.clone());
        }
        let by_maps = maps::parse_maps(root, process.id, &maps)?;
        let mappings = if key.marks.nothing_marked() && !by_maps.iter().any(may_be_huge_tlb) {
            by_maps
        } else {
            self.smaps_reads += 1;
            maps::smaps(root, process.id, limits)?
        };
        let regions = guest_memory(process, &mappings);
        self.entries.insert(process, Entry { key, read_at: now, regions: regions.clone() });
        Ok(regions)
    }
}

/// hugetlbfs memory always has a name with a slash; only smaps distinguishes it from another file.
fn may_be_huge_tlb(mapping: &Mapping) -> bool {
    mapping.writable && mapping.name.starts_with('/') && mapping.len_bytes() >= MIN_SHARED_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Budget;
    use crate::maps::MappingFlags;

    fn time() -> VmTime {
        Budget::of_round(&Limits { vm_ms: 60_000, ..Limits::default() }).vm()
    }

    const PROCESS: TaskId = TaskId { id: 9, start_ticks: 90 };

    fn mapping(start_mib: u64, mib: u64, name: &str) -> Mapping {
        Mapping {
            start: start_mib << 20,
            end: (start_mib + mib) << 20,
            readable: true,
            writable: true,
            executable: false,
            shared: false,
            name: name.into(),
            flags: Some(MappingFlags::default()),
        }
    }

    fn marked(mapping: Mapping) -> Mapping {
        Mapping { flags: Some(MappingFlags { mergeable: true, huge_tlb: false }), ..mapping }
    }

    fn shared(mapping: Mapping) -> Mapping {
        Mapping { shared: true, ..mapping }
    }

    fn found(mappings: &[Mapping]) -> Vec<(u64, MemoryKind)> {
        guest_memory(PROCESS, mappings).iter().map(|region| (region.start >> 20, region.kind)).collect()
    }

    #[test]
    fn marked_and_shared_memory_add_up_and_keep_the_rest_out() {
        let huge = MappingFlags { mergeable: false, huge_tlb: true };
        let mappings = [
            mapping(1, 4, "[heap]"),
            marked(mapping(10, 1, "")),
            shared(mapping(20, 64, "/memfd:ram (deleted)")),
            shared(mapping(90, 2, "/SYSV00000000 (deleted)")),
            shared(mapping(95, 2, "/dev/zero (deleted)")),
            Mapping { flags: Some(huge), ..shared(mapping(100, 2, "/mnt/pages/ram")) },
            marked(mapping(110, 8, "/usr/lib/libc.so.6")),
            shared(mapping(120, 8, "/var/lib/disk.img")),
            Mapping { writable: false, ..shared(mapping(130, 8, "/dev/shm/read-only")) },
            Mapping { end: (140 << 20) + 4096, ..shared(mapping(140, 1, "/memfd:ring (deleted)")) },
            mapping(150, 2, "/memfd:private (deleted)"),
        ];
        assert_eq!(
            found(&mappings),
            [
                (10, MemoryKind::Mergeable),
                (20, MemoryKind::SharedMemory),
                (90, MemoryKind::SharedMemory),
                (95, MemoryKind::SharedMemory),
                (100, MemoryKind::HugeTlb),
                (150, MemoryKind::Anonymous),
            ]
        );
    }

    #[test]
    fn without_either_all_private_anonymous_memory_counts() {
        let mappings = [
            mapping(1, 1, "/usr/bin/sleep"),
            mapping(2, 1, "[heap]"),
            mapping(3, 1, ""),
            mapping(4, 1, "[anon:arena]"),
            Mapping { readable: false, writable: false, ..mapping(5, 64, "") },
            mapping(6, 1, "[stack]"),
            mapping(7, 1, "[vdso]"),
            mapping(8, 1, "[vvar]"),
            shared(mapping(9, 1, "/var/log/file")),
        ];
        let starts: Vec<u64> = found(&mappings).iter().map(|(start, _)| *start).collect();
        assert_eq!(starts, [2, 3, 4, 6]);
        assert!(found(&mappings).iter().all(|(_, kind)| *kind == MemoryKind::Anonymous));
    }

    struct Tree {
        _dir: tempfile::TempDir,
        root: HostRoot,
    }

    const LINE: &str = "7f0000000000-7f0004000000 rw-p 00000000 00:00 0 \n";

    impl Tree {
        fn new(marks: &str, flags: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = HostRoot::at(dir.path());
            std::fs::create_dir_all(root.proc("9")).unwrap();
            let tree = Self { _dir: dir, root };
            tree.write("maps", LINE);
            tree.write("smaps", &format!("{LINE}VmFlags: rd wr {flags}\n"));
            tree.write("ksm_stat", marks);
            tree
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.root.proc("9").join(name), text).unwrap();
        }

        fn kind(&self, cache: &mut MemoryCache, run: u64, now: Instant) -> MemoryKind {
            cache.regions_at(&self.root, PROCESS, Some(run), &Limits::default(), time(), now).unwrap()[0].kind
        }
    }

    #[test]
    fn smaps_is_read_again_only_when_something_speaks_for_it() {
        let tree = Tree::new("ksm_merge_any: no\nksm_mergeable: yes\n", "mg");
        let (mut cache, begin) = (MemoryCache::default(), Instant::now());
        assert_eq!(tree.kind(&mut cache, 1, begin), MemoryKind::Mergeable);
        tree.kind(&mut cache, 1, begin + MAX_AGE / 2);
        assert_eq!(cache.smaps_reads(), 1);

        tree.write("smaps", &format!("{LINE}VmFlags: rd wr\n"));
        assert_eq!(tree.kind(&mut cache, 1, begin + MAX_AGE), MemoryKind::Anonymous);
        assert_eq!(cache.smaps_reads(), 2, "too old");
        tree.kind(&mut cache, 2, begin + MAX_AGE);
        assert_eq!(cache.smaps_reads(), 3, "KSM was switched");
        tree.write("ksm_stat", "ksm_merge_any: yes\nksm_mergeable: yes\n");
        tree.kind(&mut cache, 2, begin + MAX_AGE);
        assert_eq!(cache.smaps_reads(), 4, "marked by prctl");
        tree.write("maps", &LINE.replace("0004", "0002"));
        tree.kind(&mut cache, 2, begin + MAX_AGE);
        assert_eq!(cache.smaps_reads(), 5, "other mappings");
        cache.retain(&BTreeSet::new());
        tree.kind(&mut cache, 2, begin + MAX_AGE);
        assert_eq!(cache.smaps_reads(), 6, "forgotten");
    }

    #[test]
    fn smaps_is_not_needed_where_nothing_is_marked_and_nothing_can_be_hugetlb() {
        let tree = Tree::new("ksm_merge_any: no\nksm_mergeable: no\n", "");
        let mut cache = MemoryCache::default();
        assert_eq!(tree.kind(&mut cache, 1, Instant::now()), MemoryKind::Anonymous);
        assert_eq!(cache.smaps_reads(), 0);
        let huge = "7f0000000000-7f0004000000 rw-p 00000000 00:0f 3 /anon_hugepage (deleted)\n";
        tree.write("maps", huge);
        tree.write("smaps", &format!("{huge}VmFlags: rd wr ht\n"));
        assert_eq!(tree.kind(&mut cache, 1, Instant::now()), MemoryKind::HugeTlb);
    }

    #[test]
    fn kernels_without_ksm_stat_are_read_in_full() {
        let tree = Tree::new("", "mg");
        std::fs::remove_file(tree.root.proc("9/ksm_stat")).unwrap();
        let mut cache = MemoryCache::default();
        assert_eq!(tree.kind(&mut cache, 1, Instant::now()), MemoryKind::Mergeable);
        std::fs::remove_file(tree.root.proc("9/maps")).unwrap();
        assert!(cache.regions(&tree.root, PROCESS, None, &Limits::default(), time()).unwrap_err().is_gone());
    }
}
