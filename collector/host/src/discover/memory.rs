//! The guest memory of processes: which mappings it is ([`rule`]), and when that is read again.
//!
//! smaps reports the flags of mappings, but the kernel walks all page tables for it, as expensive as the scan. So another
//! source of flags is asked first, where there is one ([`FlagSource`]), and the answer for a process (same id, same start)
//! is kept while all of this holds, and is read again otherwise:
//! - the text of its `maps` is the same, as far as a hash of 64 bits with random keys tells;
//! - `ksm_merge_any` and `ksm_mergeable` of its `ksm_stat` are the same (where the kernel has them);
//! - `/sys/kernel/mm/ksm/run` is the same;
//! - it is younger than [`MAX_AGE`].
//!
//! What that can miss, for at most [`MAX_AGE`]: madvise on exactly one whole mapping of a process
//! that already has another mergeable mapping changes neither text. And where `ksm_stat` says that
//! nothing is mergeable and `maps` has no name that could be hugetlbfs, flags are not needed at all.

mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use huddle_model::vm::TaskId;

pub use self::rule::{GuestMemory, ProcessRole};
use self::rule::{MIN_FILE_BYTES, guest_memory};
use crate::limits::{Limits, VmTime};
use crate::maps::{self, FlagSource, FlagsError, Mapping};
use crate::process_ksm::{self, KsmMarks};
use crate::{HostError, HostRoot};

/// Longest time that the regions of a process are kept without reading flags again.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// How often flags are read of mappings that change meanwhile, before smaps is.
const TRIES: u32 = 3;

/// The guest memory of processes, kept between scans by the rule of this module.
#[derive(Debug, Default)]
pub struct MemoryCache {
    entries: BTreeMap<TaskId, Entry>,
    /// Its keys are random, so that nobody can make two texts alike.
    hasher: RandomState,
    /// Asked before smaps.
    flags: Option<Arc<dyn FlagSource>>,
    smaps_reads: u64,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    read_at: Instant,
    memory: GuestMemory,
}

/// What must be the same for regions to be used again.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// Hash of the text of `maps`: the text may have megabytes.
    maps: u64,
    ksm_run: Option<u64>,
    marks: KsmMarks,
    role: ProcessRole,
}

impl MemoryCache {
    /// Asks this source before smaps.
    pub fn set_flag_source(&mut self, flags: Arc<dyn FlagSource>) {
        self.flags = Some(flags);
    }

    /// How often smaps was read so far.
    pub fn smaps_reads(&self) -> u64 {
        self.smaps_reads
    }

    /// Forgets processes that are not in `alive`.
    pub fn retain(&mut self, alive: &BTreeSet<TaskId>) {
        self.entries.retain(|process, _| alive.contains(process));
    }

    /// The guest memory of `process`, which has this role, now; `ksm_run` is `/sys/kernel/mm/ksm/run` where there is KSM.
    ///
    /// # Errors
    /// Its files cannot be read or understood, it has more mappings than `limits` has, or `time` is over.
    pub fn memory(
        &mut self,
        root: &HostRoot,
        process: TaskId,
        role: ProcessRole,
        ksm_run: Option<u64>,
        limits: &Limits,
        time: VmTime,
    ) -> Result<GuestMemory, HostError> {
        self.memory_at(root, (process, role), ksm_run, (limits, time), Instant::now())
    }

    fn memory_at(
        &mut self,
        root: &HostRoot,
        (process, role): (TaskId, ProcessRole),
        ksm_run: Option<u64>,
        (limits, time): (&Limits, VmTime),
        now: Instant,
    ) -> Result<GuestMemory, HostError> {
        let maps = maps::maps_text(root, process.id, limits)?;
        time.check()?;
        let marks = process_ksm::marks(root, process.id)?;
        let key = Key { maps: self.hasher.hash_one(&maps), ksm_run, marks, role };
        if let Some(entry) = self.entries.get(&process)
            && entry.key == key
            && now.saturating_duration_since(entry.read_at) < MAX_AGE
        {
            return Ok(entry.memory.clone());
        }
        let mut mappings = maps::parse_maps(root, process.id, &maps)?;
        let needs_flags = !key.marks.nothing_marked() || mappings.iter().any(may_be_huge_tlb);
        if needs_flags && !self.fill_flags(root, process.id, &mut mappings, (limits, time))? {
            self.smaps_reads += 1;
            mappings = maps::smaps(root, process.id, limits)?;
        }
        let memory = guest_memory(process, role, &mappings);
        self.entries.insert(process, Entry { key, read_at: now, memory: memory.clone() });
        Ok(memory)
    }

    /// Whether the flags are known without smaps. Mappings that change meanwhile are read again.
    fn fill_flags(
        &self,
        root: &HostRoot,
        pid: i32,
        mappings: &mut Vec<Mapping>,
        (limits, time): (&Limits, VmTime),
    ) -> Result<bool, HostError> {
        let Some(source) = &self.flags else { return Ok(false) };
        for _ in 0..TRIES {
            match source.fill(pid, mappings, time) {
                Ok(()) => return Ok(true),
                Err(FlagsError::Unavailable(_)) => return Ok(false),
                Err(FlagsError::TooMuch(why)) => return Err(why.into()),
                Err(FlagsError::Changed) => {
                    *mappings = maps::parse_maps(root, pid, &maps::maps_text(root, pid, limits)?)?;
                }
            }
        }
        Ok(false)
    }
}

/// hugetlbfs memory always has a name with a slash; only flags distinguish it from another file.
fn may_be_huge_tlb(mapping: &Mapping) -> bool {
    mapping.writable && mapping.name.starts_with('/') && mapping.len_bytes() >= MIN_FILE_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use huddle_model::vm::MemoryKind;

    use super::*;
    use crate::limits::Budget;

    fn time() -> VmTime {
        Budget::of_round(&Limits { vm_ms: 60_000, ..Limits::default() }).vm()
    }

    const PROCESS: TaskId = TaskId { id: 9, start_ticks: 90 };

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
            let limits = (&Limits::default(), time());
            let of = (PROCESS, ProcessRole::Vmm);
            cache.memory_at(&self.root, of, Some(run), limits, now).unwrap().regions[0].kind
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

    /// Says that everything is mergeable, once it has said why not so often.
    #[derive(Debug)]
    struct Source(Mutex<Vec<FlagsError>>);

    impl FlagSource for Source {
        fn fill(&self, pid: i32, mappings: &mut [Mapping], time: VmTime) -> Result<(), FlagsError> {
            assert_eq!(pid, PROCESS.id);
            time.check()?;
            self.0.lock().unwrap().pop().map_or(Ok(()), Err)?;
            let flags = maps::MappingFlags { mergeable: true, huge_tlb: false };
            mappings.iter_mut().for_each(|mapping| mapping.flags = Some(flags));
            Ok(())
        }
    }

    #[test]
    fn smaps_is_not_read_where_another_source_has_the_flags() {
        let tree = Tree::new("ksm_merge_any: no\nksm_mergeable: yes\n", "");
        let cases = [
            (Vec::new(), MemoryKind::Mergeable, 0),
            (vec![FlagsError::Changed; 2], MemoryKind::Mergeable, 0),
            (vec![FlagsError::Changed; 3], MemoryKind::Anonymous, 1),
            (vec![FlagsError::Unavailable("no types".into())], MemoryKind::Anonymous, 1),
        ];
        for (why, kind, reads) in cases {
            let mut cache = MemoryCache::default();
            cache.set_flag_source(Arc::new(Source(Mutex::new(why))));
            assert_eq!(tree.kind(&mut cache, 1, Instant::now()), kind);
            assert_eq!(cache.smaps_reads(), reads);
        }
        let mut cache = MemoryCache::default();
        cache.set_flag_source(Arc::new(Source(Mutex::default())));
        let over = Budget::of_round(&Limits { vm_ms: 0, ..Limits::default() }).vm();
        let of = (PROCESS, ProcessRole::Vmm);
        let limits = Limits::default();
        let late = cache.memory_at(&tree.root, of, Some(1), (&limits, over), Instant::now());
        assert!(matches!(late, Err(HostError::TooMuch(_))));
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
        assert!(
            cache
                .memory(&tree.root, PROCESS, ProcessRole::Vmm, None, &Limits::default(), time())
                .unwrap_err()
                .is_gone()
        );
    }
}
