//! The flags of a process's mappings, from the kernel's own list of them: `/proc/PID/smaps` has them, too, but the kernel
//! walks all page tables of the process for it.
//!
//! The list is the maple tree of `struct vm_area_struct` in `mm_struct.mm_mt` (lib/maple_tree.c and
//! include/linux/maple_tree.h, Linux 6.1 to 6.18). It is read without a lock, so nothing is taken from it that does not
//! fit: every mapping that `maps` has must be found with just these addresses, this `mm_struct` and these permissions.

use huddle_host::HostRoot;
use huddle_host::maps::{FlagSource, FlagsError, Mapping, MappingFlags};

use crate::bpf::kernel_read::WORDS;
use crate::kernel_access::{KernelAccess, Memory, Structures};
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
/// Deepest tree: each node has at least a few slots, and there are less than 2^32 mappings.
const DEEPEST: u32 = 16;
/// Addresses from here on are no part of a process: what `maps` has there (`[vsyscall]`) is in no tree.
const KERNEL_HALF: u64 = 1 << 63;

/// Reads flags of mappings in the kernel's memory.
#[derive(Debug)]
pub struct KernelMappings {
    root: HostRoot,
    access: KernelAccess,
}

impl KernelMappings {
    /// Nothing is read before the first call.
    pub fn new(root: HostRoot, access: KernelAccess) -> Self {
        Self { root, access }
    }
}

impl FlagSource for KernelMappings {
    fn fill(&self, pid: i32, mappings: &mut [Mapping]) -> Result<(), FlagsError> {
        let structures = self.access.structures(&self.root).map_err(FlagsError::Unavailable)?;
        let of = structures.types.mappings.ok_or_else(|| {
            FlagsError::Unavailable("this kernel has another list of mappings (before Linux 6.1)".into())
        })?;
        let fields = Fields::new(&of)
            .ok_or_else(|| FlagsError::Unavailable("this kernel has another kind of mappings".into()))?;
        let pagemap =
            pagemap::open(&self.root.proc(format!("{pid}/pagemap"))).map_err(|_| FlagsError::Changed)?;
        let memory = structures.memory_of(&pagemap).ok_or(FlagsError::Changed)?;
        let mut list = List {
            structures: &structures,
            fields,
            memory,
            left: nodes_of(mappings.len()),
            found: Vec::new(),
        };
        let at = u64::from(of.mm_mappings) + u64::from(of.tree_root);
        let root =
            memory.0.checked_add(at).and_then(|at| structures.kernel.word(at)).ok_or(FlagsError::Changed)?;
        // Of one mapping the root would be that mapping itself; nodes have bit 1 there, and nowhere else (mte_mk_root).
        if root & 3 != 2 {
            return Err(FlagsError::Changed);
        }
        list.node(root, u64::MAX, DEEPEST).ok_or(FlagsError::Changed)?;
        assign(mappings, &list.found).ok_or(FlagsError::Changed)
    }
}

/// The most nodes that a list of so many mappings can have: a node that is not the only one holds four slots or more,
/// and between two mappings there may be a gap.
fn nodes_of(mappings: usize) -> usize {
    2 * mappings + 16
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

/// A walk of the tree.
struct List<'a> {
    structures: &'a Structures,
    fields: Fields,
    memory: Memory,
    /// Nodes that may still be read.
    left: usize,
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
    /// Collects the mappings of a node, the last of which is the one up to `last`; `None` if this is no such node.
    fn node(&mut self, entry: u64, last: u64, depth: u32) -> Option<()> {
        if depth == 0 {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let kind = NodeKind::of(entry)?;
        let words = self.words(entry & !(NODE_BYTES - 1))?;
        let (count, first) = kind.slots();
        for slot in 0..count {
            let pivot = if slot + 1 < count { words[1 + slot] } else { last };
            // A pivot that is not set ends the node, except the first, which may be 0.
            let end = if pivot == 0 && slot > 0 { last } else { pivot };
            let entry = words[first + slot];
            if entry != 0 {
                match kind {
                    NodeKind::Leaf => self.area(entry)?,
                    NodeKind::Range | NodeKind::Allocation => self.node(entry, end, depth - 1)?,
                }
            }
            if end >= last {
                break;
            }
        }
        Some(())
    }

    fn words(&self, address: u64) -> Option<[u64; NODE_WORDS]> {
        let mut words = [0; NODE_WORDS];
        for (part, to) in words.chunks_exact_mut(WORDS).enumerate() {
            to.copy_from_slice(
                &self.structures.kernel.read(address.checked_add((part * WORDS * 8) as u64)?)?,
            );
        }
        Some(words)
    }

    fn area(&mut self, address: u64) -> Option<()> {
        let words = self.structures.kernel.read(address)?;
        let Fields { start, end, mm, flags } = self.fields;
        if words[mm] == self.memory.0 {
            self.found.push(Area { start: words[start], end: words[end], flags: words[flags] });
        }
        Some(())
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
    use std::num::NonZeroUsize;

    use huddle_host::limits::Limits;
    use huddle_host::maps;
    use huddle_testing::memory::{Fork, mergeable, page_bytes};
    use huddle_testing::output::say;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};

    use super::*;

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
            mergeable(5);
            if pages > 0 {
                many_mappings(pages);
            }
            let child = Fork::that(|| {});
            let mut mappings = by_maps(&root, child.pid());
            match source.fill(child.pid(), &mut mappings) {
                Err(FlagsError::Unavailable(why)) if why.contains("6.1") => {
                    return say(&format!("skipped: {why}"));
                }
                other => other.unwrap(),
            }
            let smaps = maps::smaps(&root, child.pid(), &limits).unwrap();
            assert!(mappings == smaps, "{pages}: {mappings:#?} {smaps:#?}");
            let marked = mappings.iter().filter(|mapping| mapping.flags.unwrap().mergeable).count();
            assert!(marked > 0 && marked < 10, "{marked}");
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
        assert!(source.fill(i32::MAX, &mut []).is_err());
        let dir = tempfile::tempdir().unwrap();
        let source = KernelMappings::new(HostRoot::at(dir.path()), KernelAccess::default());
        assert!(matches!(source.fill(1, &mut []), Err(FlagsError::Unavailable(_))));
    }
}
