//! The flags of a process's mappings, from the kernel's own list of them: `/proc/PID/smaps` has them, too, but the kernel
//! walks all page tables of the process for it.
//!
//! The list is the maple tree of `struct vm_area_struct` in `mm_struct.mm_mt` (lib/maple_tree.c and
//! include/linux/maple_tree.h, Linux 6.1 to 6.18). It is read without a lock, so nothing is taken from it that does not
//! fit: each node has to name the one above it, and every mapping that `maps` has must be found with just these
//! addresses, this `mm_struct` and these permissions. What the flag of KSM is, is tried on a page of this process first.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;

use huddle_host::HostRoot;
use huddle_host::limits::{Budget, Limits, VmTime};
use huddle_host::maps::{self, FlagSource, FlagsError, Mapping, MappingFlags};
use nix::libc::c_void;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::bpf::kernel_read::WORDS;
use crate::kernel_access::{KernelAccess, Memory};
use crate::kernel_types::MappingOffsets;
use crate::pagemap;

/// Flags of `vm_flags` (include/linux/mm.h, Linux 6.18; the same on every architecture).
const READ: u64 = 0x1;
const WRITE: u64 = 0x2;
const EXECUTE: u64 = 0x4;
/// VM_MAYSHARE, which `maps` shows as `s`.
const SHARED: u64 = 0x80;
const HUGE_TLB: u64 = 0x0040_0000;
const MERGEABLE: u64 = 0x8000_0000;

/// Nodes of the tree are this long, and aligned to it.
const NODE_WORDS: usize = 32;
const NODE_BYTES: u64 = NODE_WORDS as u64 * 8;
/// Deepest tree: nodes but a lone root have several slots, and there are fewer than 2^32 mappings.
const DEEPEST: u32 = 16;
/// Addresses from here on are the kernel's: no process has a mapping there, and what `maps` has (`[vsyscall]`) is in no
/// tree.
const KERNEL_HALF: u64 = 1 << 63;
/// Readings of this process's own mappings: the kernel may join pages of ours with a new mapping beside them.
const TRIES: u32 = 8;

/// Reads flags of mappings in the kernel's memory.
#[derive(Debug)]
pub struct KernelMappings {
    root: HostRoot,
    access: KernelAccess,
    /// Whether the flags were found to mean what they are taken for.
    is_checked: OnceLock<()>,
}

impl KernelMappings {
    /// Nothing is read before the first call.
    pub fn new(root: HostRoot, access: KernelAccess) -> Self {
        Self { root, access, is_checked: OnceLock::new() }
    }

    /// Tries out whether flags can be read here.
    ///
    /// # Errors
    /// Why not, as one clause.
    pub fn try_out(&self) -> Result<(), String> {
        let time = Budget::of_round(&Limits::default()).vm();
        self.check(time).map_err(|error| error.to_string())
    }

    /// Fills in the flags of some mappings of a process that has `count`.
    fn read(&self, pid: i32, mappings: &mut [Mapping], count: usize, time: VmTime) -> Result<(), FlagsError> {
        let structures = self.access.structures(&self.root).map_err(FlagsError::Unavailable)?;
        let unavailable = |why: &str| FlagsError::Unavailable(why.to_owned());
        let of = structures.types.mappings;
        let of = of.ok_or_else(|| unavailable("the kernel has no maple tree of mappings (Linux 6.1)"))?;
        let fields =
            Fields::new(&of).ok_or_else(|| unavailable("the kernel's mappings are laid out otherwise"))?;
        let pagemap =
            pagemap::open(&self.root.proc(format!("{pid}/pagemap"))).map_err(|_| FlagsError::Changed)?;
        let memory = structures.memory_of(&pagemap).ok_or(FlagsError::Changed)?;
        let tree = memory.0.checked_add(of.mm_mappings.into()).ok_or(FlagsError::Changed)?;
        let root = structures.word(tree, of.tree_root).ok_or(FlagsError::Changed)?;
        let read = |address| structures.kernel.read(address);
        let found = areas(&read, fields, memory, (tree, root), most_of(count), time)?;
        assign(mappings, &found).ok_or(FlagsError::Changed)
    }

    /// Tries it on pages of this process, of which one is marked for KSM.
    fn check(&self, time: VmTime) -> Result<(), FlagsError> {
        let unavailable = |why: String| FlagsError::Unavailable(why);
        let pages =
            OwnPages::new().map_err(|errno| unavailable(format!("no memory to try it on: {errno}")))?;
        let own = std::fs::read_link(self.root.proc("self")).ok();
        let own = own.and_then(|link| link.to_str()?.parse::<i32>().ok());
        let own = own.ok_or_else(|| unavailable("this process is not in /proc".to_owned()))?;
        let host = |error: huddle_host::HostError| unavailable(error.to_string());
        for _ in 0..TRIES {
            let text = maps::maps_text(&self.root, own, &Limits::default()).map_err(host)?;
            let mut mappings = maps::parse_maps(&self.root, own, &text).map_err(host)?;
            let count = mappings.len();
            // The others change with every allocation.
            mappings.retain(|mapping| pages.are_in(mapping));
            match self.read(own, &mut mappings, count, time) {
                Err(FlagsError::Changed) => {}
                Err(error) => return Err(error),
                Ok(()) if pages.are_right(&mappings) => return Ok(()),
                Ok(()) => {
                    return Err(unavailable(
                        "the kernel's flags of mappings have another meaning".to_owned(),
                    ));
                }
            }
        }
        Err(FlagsError::Changed)
    }
}

impl FlagSource for KernelMappings {
    fn fill(&self, pid: i32, mappings: &mut [Mapping], time: VmTime) -> Result<(), FlagsError> {
        if self.is_checked.get().is_none() {
            self.check(time)?;
            self.is_checked.get_or_init(|| ());
        }
        self.read(pid, mappings, mappings.len(), time)
    }
}

/// Three pages of this process in a row, each a mapping; the one in the middle is marked for KSM, if there is KSM.
struct OwnPages {
    start: NonNull<c_void>,
    page_bytes: usize,
    is_marked: bool,
}

impl OwnPages {
    fn new() -> nix::Result<Self> {
        let page_bytes = pagemap::page_bytes() as usize;
        let length = NonZeroUsize::new(3 * page_bytes).ok_or(nix::errno::Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: within the mapping made above; the advice changes no content.
        let marked = unsafe { madvise(start.byte_add(page_bytes), page_bytes, MmapAdvise::MADV_MERGEABLE) };
        Ok(Self { start, page_bytes, is_marked: marked.is_ok() })
    }

    /// Whether one of them is in this mapping.
    fn are_in(&self, mapping: &Mapping) -> bool {
        let start = self.start.as_ptr() as u64;
        mapping.start < start + 3 * self.page_bytes as u64 && start < mapping.end
    }

    /// Whether these mappings have the middle page as the one that is marked.
    fn are_right(&self, mappings: &[Mapping]) -> bool {
        let is_mergeable = |page: usize| {
            let address = self.start.as_ptr() as u64 + (page * self.page_bytes) as u64;
            let mapping = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
            mapping.and_then(|mapping| mapping.flags).map(|flags| flags.mergeable)
        };
        [0, 1, 2].map(is_mergeable) == [Some(false), Some(self.is_marked), Some(false)]
    }
}

impl Drop for OwnPages {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, which nothing else refers to.
        let _ = unsafe { munmap(self.start, 3 * self.page_bytes) };
    }
}

/// Where the members of a `vm_area_struct` are, in words of its beginning, which is read at once.
#[derive(Clone, Copy, Debug)]
struct Fields {
    start: usize,
    end: usize,
    mm: usize,
    flags: usize,
}

impl Fields {
    fn new(of: &MappingOffsets) -> Option<Self> {
        let word = |offset: u32| {
            let at = offset as usize / 8;
            (offset.is_multiple_of(8) && at < WORDS).then_some(at)
        };
        Some(Self {
            start: word(of.mapping_start)?,
            end: word(of.mapping_end)?,
            mm: word(of.mapping_mm)?,
            flags: word(of.mapping_flags)?,
        })
    }
}

/// A mapping as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    start: u64,
    end: u64,
    flags: u64,
}

/// Reads the kernel's memory at an address; `None` if nothing is mapped.
type Read<'a> = dyn Fn(u64) -> Option<[u64; WORDS]> + 'a;

/// The most mappings that are read of a process that had so many: there may be new ones.
fn most_of(count: usize) -> usize {
    2 * count + 16
}

/// The mappings of a process in the tree at an address, with this root; at most `most`.
///
/// # Errors
/// It does not read as such a tree, or `time` is over.
fn areas(
    read: &Read<'_>,
    fields: Fields,
    memory: Memory,
    (tree, root): (u64, u64),
    most: usize,
    time: VmTime,
) -> Result<Vec<Area>, FlagsError> {
    // An empty tree has no node; a root that is one has bit 1 set (mte_mk_root).
    if root & 3 != 2 {
        return Err(FlagsError::Changed);
    }
    let mut list = List { read, fields, memory, most, nodes: 2 * most, time, found: Vec::new() };
    list.node(root, tree, u64::MAX, DEEPEST)?;
    Ok(list.found)
}

/// A walk of the tree.
struct List<'a> {
    read: &'a Read<'a>,
    fields: Fields,
    memory: Memory,
    most: usize,
    /// Nodes that may still be read. All but a lone root have several slots, and each mapping may be followed by a gap.
    nodes: usize,
    time: VmTime,
    found: Vec<Area>,
}

/// Kinds of nodes (`enum maple_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeKind {
    Leaf,
    Range,
    /// A range that knows its gaps.
    Allocation,
}

impl NodeKind {
    /// Of an entry that is a node, by the bits that its alignment leaves (`mte_node_type`).
    fn of(entry: u64) -> Option<Self> {
        match entry >> 3 & 0xf {
            1 => Some(Self::Leaf),
            2 => Some(Self::Range),
            3 => Some(Self::Allocation),
            _ => None,
        }
    }

    /// Slots, and the word of the first; the pivots are from word 1 on, one fewer.
    fn slots(self) -> (usize, usize) {
        match self {
            Self::Leaf | Self::Range => (16, 16),
            Self::Allocation => (10, 10),
        }
    }
}

impl List<'_> {
    /// Collects the mappings below a node whose range ends at `last`, and which is itself below `parent`.
    fn node(&mut self, entry: u64, parent: u64, last: u64, depth: u32) -> Result<(), FlagsError> {
        self.time.check().map_err(FlagsError::TooMuch)?;
        self.nodes = self.nodes.checked_sub(1).ok_or(FlagsError::Changed)?;
        let kind = NodeKind::of(entry).filter(|_| depth > 0).ok_or(FlagsError::Changed)?;
        let at = entry & !(NODE_BYTES - 1);
        let words = self.words(at).ok_or(FlagsError::Changed)?;
        // The low bits say which slot it is in. The root names the tree, with bit 0; a node that is dead names itself.
        let is_root = depth == DEEPEST;
        let above = if is_root { words[0] & !1 } else { words[0] & !(NODE_BYTES - 1) };
        if above != parent {
            return Err(FlagsError::Changed);
        }
        let (count, first) = kind.slots();
        for slot in 0..count {
            let pivot = if slot + 1 < count { words[1 + slot] } else { last };
            // A pivot that is not set ends the node, except the first, which may be 0.
            let end = if pivot == 0 && slot > 0 { last } else { pivot };
            match (words[first + slot], kind) {
                (0, _) => {}
                (entry, NodeKind::Leaf) => self.area(entry)?,
                (entry, NodeKind::Range | NodeKind::Allocation) => self.node(entry, at, end, depth - 1)?,
            }
            if end >= last {
                break;
            }
        }
        Ok(())
    }

    fn words(&self, address: u64) -> Option<[u64; NODE_WORDS]> {
        let mut words = [0; NODE_WORDS];
        for (part, to) in words.chunks_exact_mut(WORDS).enumerate() {
            to.copy_from_slice(&self.at(address.checked_add((part * WORDS * 8) as u64)?)?);
        }
        Some(words)
    }

    /// What is at an address of the kernel.
    fn at(&self, address: u64) -> Option<[u64; WORDS]> {
        if address < KERNEL_HALF || !address.is_multiple_of(8) {
            return None;
        }
        (self.read)(address)
    }

    fn area(&mut self, address: u64) -> Result<(), FlagsError> {
        let words = self.at(address).ok_or(FlagsError::Changed)?;
        let Fields { start, end, mm, flags } = self.fields;
        if words[mm] != self.memory.0 || self.found.len() == self.most {
            return Err(FlagsError::Changed);
        }
        self.found.push(Area { start: words[start], end: words[end], flags: words[flags] });
        Ok(())
    }
}

/// Gives each mapping the flags of the area with its addresses and permissions; `None` if one has none.
fn assign(mappings: &mut [Mapping], found: &[Area]) -> Option<()> {
    for mapping in mappings {
        let at = found.partition_point(|area| area.start < mapping.start);
        match found.get(at).filter(|area| (area.start, area.end) == (mapping.start, mapping.end)) {
            Some(area) if permissions(area.flags) == permissions_of(mapping) => {
                mapping.flags = Some(MappingFlags {
                    mergeable: area.flags & MERGEABLE != 0,
                    huge_tlb: area.flags & HUGE_TLB != 0,
                });
            }
            None if mapping.start >= KERNEL_HALF => mapping.flags = Some(MappingFlags::default()),
            _ => return None,
        }
    }
    Some(())
}

fn permissions(flags: u64) -> [bool; 4] {
    [READ, WRITE, EXECUTE, SHARED].map(|flag| flags & flag != 0)
}

fn permissions_of(mapping: &Mapping) -> [bool; 4] {
    [mapping.readable, mapping.writable, mapping.executable, mapping.shared]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use huddle_testing::memory::{Fork, mergeable, page_bytes};
    use huddle_testing::output::say;
    use nix::sys::mman::mprotect;
    use proptest::prelude::*;

    use super::*;

    fn time() -> VmTime {
        Budget::of_round(&Limits { vm_ms: 60_000, ..Limits::default() }).vm()
    }

    /// Alternating protections, so that each page is a mapping of its own.
    fn many_mappings(pages: usize) {
        let bytes = page_bytes();
        let length = NonZeroUsize::new(pages * bytes).unwrap();
        // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
        let map =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) }.unwrap();
        for page in (0..pages).step_by(2) {
            // SAFETY: within the mapping made above, which nothing else uses.
            unsafe { mprotect(map.byte_add(page * bytes), bytes, ProtFlags::PROT_WRITE) }.unwrap();
        }
    }

    fn by_maps(root: &HostRoot, pid: i32) -> Vec<Mapping> {
        let text = maps::maps_text(root, pid, &Limits::default()).unwrap();
        maps::parse_maps(root, pid, &text).unwrap()
    }

    #[test]
    fn flags_are_those_of_smaps() {
        let (root, limits) = (HostRoot::real(), Limits::default());
        let source = KernelMappings::new(root.clone(), KernelAccess::default());
        if !nix::unistd::geteuid().is_root() {
            say("skipped: needs root");
            return;
        }
        // Trees of one node and of several levels.
        for pages in [0, 40, 3000] {
            let marked = mergeable(5).as_ptr() as u64;
            if pages > 0 {
                many_mappings(pages);
            }
            let child = Fork::that(|| {});
            let mut mappings = by_maps(&root, child.pid());
            match source.fill(child.pid(), &mut mappings, time()) {
                Err(FlagsError::Unavailable(why)) if why.contains("6.1") => {
                    return say(&format!("skipped: {why}"));
                }
                other => other.unwrap(),
            }
            let smaps = maps::smaps(&root, child.pid(), &limits).unwrap();
            assert!(mappings == smaps, "{pages}: {mappings:#?} {smaps:#?}");
            let mapping = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&marked));
            assert!(mapping.unwrap().flags.unwrap().mergeable);
            assert!(!mappings.iter().all(|mapping| mapping.flags.unwrap().mergeable));
        }
    }

    #[test]
    fn what_does_not_fit_is_no_answer() {
        let area = |start, flags| Area { start, end: start + 0x1000, flags };
        let line = "7f0000001000-7f0000002000 rw-p 00000000 00:00 0 \n\
                    ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";
        let mappings = maps::parse_maps(&HostRoot::real(), 9, line).unwrap();
        let flags = |found: &[Area]| {
            let mut mappings = mappings.clone();
            assign(&mut mappings, found).map(|()| [mappings[0].flags.unwrap(), mappings[1].flags.unwrap()])
        };
        let none = MappingFlags::default();
        let start = 0x7f00_0000_1000;
        assert_eq!(flags(&[area(start, READ | WRITE)]), Some([none, none]));
        let all = READ | WRITE | MERGEABLE | HUGE_TLB | 0x8;
        assert_eq!(
            flags(&[area(start - 0x1000, READ), area(start, all)]),
            Some([MappingFlags { mergeable: true, huge_tlb: true }, none])
        );
        assert_eq!(flags(&[area(start, READ)]), None, "other permissions");
        assert_eq!(flags(&[area(start, READ | WRITE | SHARED)]), None);
        assert_eq!(flags(&[area(start + 0x1000, READ | WRITE)]), None, "another address");
        assert_eq!(flags(&[Area { end: start + 0x2000, ..area(start, READ | WRITE) }]), None);
        assert_eq!(flags(&[]), None);
    }

    #[test]
    fn a_process_that_is_gone_has_no_flags() {
        let source = KernelMappings::new(HostRoot::real(), KernelAccess::default());
        let gone = source.fill(i32::MAX, &mut [], time()).unwrap_err();
        if nix::unistd::geteuid().is_root() {
            assert_eq!(gone, FlagsError::Changed);
        }
        let dir = tempfile::tempdir().unwrap();
        let source = KernelMappings::new(HostRoot::at(dir.path()), KernelAccess::default());
        assert!(matches!(source.fill(1, &mut [], time()), Err(FlagsError::Unavailable(_))));
    }

    /// A tree that is made up: words by their addresses.
    #[derive(Clone)]
    struct Tree {
        memory: BTreeMap<u64, u64>,
        root: u64,
    }

    const TREE: u64 = 0xffff_8880_0000_0040;
    const MM: u64 = 0xffff_8880_0000_0000;
    const FIELDS: Fields = Fields { start: 0, end: 1, mm: 2, flags: 4 };

    impl Tree {
        /// A root with gaps, two nodes below it, one of which is full, and `17` mappings.
        fn new() -> Self {
            let mut tree = Self { memory: BTreeMap::new(), root: 0 };
            let [root, full, short] = [1, 2, 3].map(|number| MM + number * 0x1000);
            tree.root = root | 3 << 3 | 2;
            tree.put(root, TREE | 1);
            tree.put(root + 8, 16_999);
            tree.put(root + 80, full | 1 << 3 | 4);
            tree.put(root + 88, short | 1 << 3 | 4);
            tree.put(full, root);
            for slot in 0..16 {
                if slot < 15 {
                    tree.put(full + 8 + slot * 8, slot * 1000 + 999 + 1000);
                }
                tree.area(full + 128 + slot * 8, slot);
            }
            tree.put(short, root | 1 << 3);
            tree.put(short + 8, 17_999);
            tree.area(short + 128, 16);
            // What is beyond the end of a node is no slot: the rest of its metadata.
            tree.put(short + 248, 0x0102);
            tree
        }

        fn put(&mut self, address: u64, word: u64) {
            self.memory.insert(address, word);
        }

        fn area(&mut self, slot: u64, number: u64) {
            let at = MM + 0x10_0000 + number * 0x100;
            self.put(slot, at);
            let start = number * 1000 + 1000;
            for (word, value) in [(0, start), (1, start + 1000), (2, MM), (4, READ)] {
                self.put(at + word * 8, value);
            }
        }

        fn areas(&self, most: usize) -> Result<Vec<Area>, FlagsError> {
            let read = |address: u64| {
                Some(std::array::from_fn(|at| {
                    *self.memory.get(&address.wrapping_add(8 * at as u64)).unwrap_or(&0)
                }))
            };
            areas(&read, FIELDS, Memory(MM), (TREE, self.root), most, time())
        }
    }

    #[test]
    fn a_tree_is_read_whole_and_in_order() {
        let tree = Tree::new();
        let found = tree.areas(17).unwrap();
        let starts: Vec<u64> = found.iter().map(|area| area.start).collect();
        assert_eq!(starts, (0..17).map(|number| number * 1000 + 1000).collect::<Vec<_>>());
        assert_eq!(tree.areas(16), Err(FlagsError::Changed), "more than there should be");
        let over = Budget::of_round(&Limits { vm_ms: 0, ..Limits::default() }).vm();
        let read = |_| None;
        assert!(matches!(
            areas(&read, FIELDS, Memory(MM), (TREE, tree.root), 17, over),
            Err(FlagsError::TooMuch(_))
        ));
    }

    #[test]
    fn what_is_no_such_tree_is_not_followed() {
        let tree = Tree::new();
        let full = MM + 0x2000;
        for (what, address, word) in [
            ("a dead node", full, full),
            ("a node of another", full, MM + 0x5000),
            ("a loop", full + 128, (MM + 0x1000) | 3 << 3 | 4),
            ("another kind", MM + 0x1000 + 80, full | 4),
            ("an address of a process", full + 128, 0x7000_0000),
            ("a mapping of another process", MM + 0x10_0010, MM + 8),
            ("an odd address", full + 128, MM + 0x10_0001),
        ] {
            let mut tree = tree.clone();
            tree.put(address, word);
            assert_eq!(tree.areas(17), Err(FlagsError::Changed), "{what}");
        }
        let empty = Tree { root: 0, ..tree };
        assert_eq!(empty.areas(17), Err(FlagsError::Changed));
    }

    proptest! {
        #[test]
        fn whatever_is_there_a_walk_ends(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..64u64), 1..6)) {
            let mut tree = Tree::new();
            let addresses: Vec<u64> = tree.memory.keys().copied().collect();
            for (at, from, low) in changes {
                let word = tree.memory[from.get(&addresses)];
                tree.put(*at.get(&addresses), word ^ low);
            }
            if let Ok(found) = tree.areas(17) {
                prop_assert!(found.len() <= 17);
            }
        }
    }
}
