//! What is needed of the kernel's types, from its own description of them (`/sys/kernel/btf/vmlinux`,
//! CONFIG_DEBUG_INFO_BTF; format: Documentation/bpf/btf.rst, Linux 6.18): offsets of a dozen members, and the ids of two
//! functions.
//!
//! One pass over the names and one over the types, each through a window of 64 KiB: a name is stored once, so types
//! are found by comparing numbers.

use std::io;
use std::ops::Range;

/// Offsets of members, in bytes, on the way from a file of this process to the memory of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offsets {
    /// `task_struct.files`.
    pub(crate) task_files: u32,
    /// `files_struct.fdt`.
    pub(crate) files_table: u32,
    /// `fdtable.fd`.
    pub(crate) table_files: u32,
    /// `fdtable.max_fds`, 4 bytes.
    pub(crate) table_length: u32,
    /// `file.private_data`.
    pub(crate) file_private: u32,
    /// `mm_struct.pgd`.
    pub(crate) mm_tables: u32,
}

/// Offsets of members, in bytes, on the way from the memory of a process to its mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MappingOffsets {
    /// `mm_struct.mm_mt`, a `maple_tree` (Linux 6.1).
    pub(crate) mm_mappings: u32,
    /// `maple_tree.ma_root`.
    pub(crate) tree_root: u32,
    /// `vm_area_struct.vm_start`.
    pub(crate) mapping_start: u32,
    /// `vm_area_struct.vm_end`.
    pub(crate) mapping_end: u32,
    /// `vm_area_struct.vm_mm`.
    pub(crate) mapping_mm: u32,
    /// `vm_area_struct.vm_flags`.
    pub(crate) mapping_flags: u32,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelTypes {
    pub(crate) offsets: Offsets,
    /// `None` if one is missing.
    pub(crate) mappings: Option<MappingOffsets>,
    /// Ids of `bpf_rcu_read_lock` and `bpf_rcu_read_unlock` (Linux 6.2); `None` where the kernel does not have both.
    pub(crate) rcu_functions: Option<[u32; 2]>,
}

/// Why types are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BtfError {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is not BTF of this machine's byte order and version 1")]
    Format,
    #[error("it ends within a type")]
    Damaged,
    #[error("it has no {of}.{member}")]
    Missing { of: &'static str, member: &'static str },
}

/// Structures and the members that have to be there.
const MEMBERS: [(&str, &str); 6] = [
    ("task_struct", "files"),
    ("files_struct", "fdt"),
    ("fdtable", "fd"),
    ("fdtable", "max_fds"),
    ("file", "private_data"),
    ("mm_struct", "pgd"),
];
/// The same, of mappings.
const MEMBERS_OF_MAPPINGS: [(&str, &str); 6] = [
    ("mm_struct", "mm_mt"),
    ("maple_tree", "ma_root"),
    ("vm_area_struct", "vm_start"),
    ("vm_area_struct", "vm_end"),
    ("vm_area_struct", "vm_mm"),
    ("vm_area_struct", "vm_flags"),
];
const FUNCTIONS: [&str; 2] = ["bpf_rcu_read_lock", "bpf_rcu_read_unlock"];

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// The part of `struct btf_header` that is needed.
const HEADER_BYTES: usize = 24;
/// `struct btf_type`.
const TYPE_BYTES: u64 = 12;
/// `struct btf_member`.
const MEMBER_BYTES: u64 = 12;
/// Bytes read at once.
const WINDOW: usize = 64 << 10;
/// Deepest nesting of structures without a name that is followed.
const DEEPEST: u32 = 8;
/// Members that are looked at in all: those of a kernel's `task_struct` are about 300.
const MOST_MEMBERS: u32 = 20_000;

/// Reads some bytes at an offset; fewer than wanted only at the end.
pub(crate) trait ReadAt {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, at)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let from = self.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
        let length = from.len().min(buffer.len());
        buffer[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }
}

/// Finds what a walk needs.
///
/// # Errors
/// The file cannot be read, is not BTF, or lacks a member.
pub(crate) fn kernel_types(source: &(impl ReadAt + ?Sized)) -> Result<KernelTypes, BtfError> {
    let mut window = Window { source, from: 0, bytes: Vec::new() };
    let sections = sections(&mut window)?;
    let members = || MEMBERS.iter().chain(&MEMBERS_OF_MAPPINGS);
    let wanted: Vec<&str> = members().flat_map(|(of, name)| [*of, *name]).chain(FUNCTIONS).collect();
    let names = find_names(&mut window, sections.names, &wanted)?;
    let name = |text: &str| wanted.iter().position(|wanted| *wanted == text).and_then(|at| names[at]);
    let of_types = members().map(|(of, _)| *of).chain(FUNCTIONS).filter_map(name).collect();
    let types = Types::read(&mut window, sections.types, of_types)?;
    let mut offsets = |wanted: &[(&'static str, &'static str); 6]| {
        let (mut offsets, mut left) = ([0; 6], MOST_MEMBERS);
        for (&(of, member), offset) in wanted.iter().zip(&mut offsets) {
            let found = match (name(of), name(member)) {
                (Some(of), Some(member)) => types.member(&mut window, of, member, &mut left)?,
                _ => None,
            };
            *offset = found.ok_or(BtfError::Missing { of, member })?;
        }
        Ok::<_, BtfError>(offsets)
    };
    let [task_files, files_table, table_files, table_length, file_private, mm_tables] = offsets(&MEMBERS)?;
    // Whoever needs no mappings does not ask why they are not described.
    let mappings = match offsets(&MEMBERS_OF_MAPPINGS) {
        Ok([mm_mappings, tree_root, mapping_start, mapping_end, mapping_mm, mapping_flags]) => {
            Some(MappingOffsets {
                mm_mappings,
                tree_root,
                mapping_start,
                mapping_end,
                mapping_mm,
                mapping_flags,
            })
        }
        Err(_) => None,
    };
    let [lock, unlock] = FUNCTIONS.map(|function| types.function(name(function)?));
    Ok(KernelTypes {
        offsets: Offsets { task_files, files_table, table_files, table_length, file_private, mm_tables },
        mappings,
        rcu_functions: lock.zip(unlock).map(<[u32; 2]>::from),
    })
}

struct Sections {
    types: Range<u64>,
    names: Range<u64>,
}

fn sections(window: &mut Window<'_, impl ReadAt + ?Sized>) -> Result<Sections, BtfError> {
    let header = window.get(0, HEADER_BYTES)?;
    let word = |at: usize| u32_at(header, at);
    if header[..2] != MAGIC.to_ne_bytes() || header[2] != VERSION {
        return Err(BtfError::Format);
    }
    let first = u64::from(word(4));
    let section = |at: usize| {
        let begin = first + u64::from(word(at));
        begin..begin + u64::from(word(at + 4))
    };
    Ok(Sections { types: section(8), names: section(16) })
}

/// The offset of each name within the section of names.
fn find_names(
    window: &mut Window<'_, impl ReadAt + ?Sized>,
    section: Range<u64>,
    wanted: &[&str],
) -> Result<Vec<Option<u32>>, BtfError> {
    let mut found = vec![None; wanted.len()];
    // By the first byte, the lengths of wanted names: hardly any other name is compared.
    let mut lengths = [0u64; 256];
    for name in wanted {
        lengths[usize::from(name.as_bytes()[0])] |= 1 << name.len();
    }
    let mut at = section.start;
    while at < section.end {
        let length = (section.end - at).min(WINDOW as u64) as usize;
        let bytes = window.get(at, length)?;
        let mut begin = 0;
        while let Some(end) = find_zero(bytes, begin) {
            let name = &bytes[begin..end];
            let has_length = matches!(name, [first, ..]
                if name.len() < 64 && lengths[usize::from(*first)] >> name.len() & 1 == 1);
            if !has_length {
                begin = end + 1;
                continue;
            }
            for (wanted, found) in wanted.iter().zip(&mut found) {
                if wanted.len() == name.len() && wanted.as_bytes() == name {
                    found.get_or_insert((at + begin as u64 - section.start) as u32);
                }
            }
            begin = end + 1;
        }
        if begin == 0 {
            // No name of the kernel is as long as a window.
            return Err(BtfError::Damaged);
        }
        at += begin as u64;
    }
    Ok(found)
}

/// The first zero from a place on; eight bytes at a time.
fn find_zero(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes[from..].as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(from + at * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|byte| *byte == 0).map(|at| from + words.len() * 8 + at)
}

/// Where types are.
struct Types {
    /// Of the type with each id: the offset of every [`STRIDE`]th; type 0 is void, and has none.
    marks: Vec<u64>,
    /// One past the last.
    end: u64,
    /// Those with a wanted name: name, id and offset.
    named: Vec<(u32, u32, u64)>,
}

/// So many types are passed over at most to find one by its id.
const STRIDE: u32 = 64;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNCTION: u32 = 12;

#[inline(always)]
fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes after a type of each kind: so many, and so many for each item. Pointer, forward, typedef, volatile, const,
/// restrict, function, float and type tag have none; what is not here is not known.
const EXTRA_BYTES: [Option<(u8, u8)>; 32] = {
    let mut bytes = [None; 32];
    let none = [2, 7, 8, 9, 10, 11, 12, 16, 18];
    let mut at = 0;
    while at < none.len() {
        bytes[none[at]] = Some((0, 0));
        at += 1;
    }
    // Integer, variable, declaration tag.
    (bytes[1], bytes[14], bytes[17]) = (Some((4, 0)), Some((4, 0)), Some((4, 0)));
    // Array.
    bytes[3] = Some((12, 0));
    // Structure, union, data section, 64-bit enumeration.
    (bytes[4], bytes[5], bytes[15], bytes[19]) = (Some((0, 12)), Some((0, 12)), Some((0, 12)), Some((0, 12)));
    // Enumeration, prototype of a function.
    (bytes[6], bytes[13]) = (Some((0, 8)), Some((0, 8)));
    bytes
};

/// Bytes after a type; `None` for a kind that is not known.
#[inline(always)]
fn extra_bytes(info: u32) -> Option<u64> {
    let (fixed, each) = EXTRA_BYTES[kind(info) as usize]?;
    Some(u64::from(fixed) + u64::from(each) * u64::from(info & 0xffff))
}

impl Types {
    fn read(
        window: &mut Window<'_, impl ReadAt + ?Sized>,
        section: Range<u64>,
        wanted: Vec<u32>,
    ) -> Result<Self, BtfError> {
        let mut types = Self { marks: vec![section.start], end: section.end, named: Vec::new() };
        let (mut at, mut id) = (section.start, 1u32);
        while at < section.end {
            window.get(at, TYPE_BYTES as usize)?;
            // All types that begin in this window: there are more than 100,000 in all.
            let mut within = (at - window.from) as usize;
            while let Some(head) = window.bytes.get(within..within + TYPE_BYTES as usize) {
                let at = window.from + within as u64;
                if at >= section.end {
                    break;
                }
                let (name, info) = (u32_at(head, 0), u32_at(head, 4));
                if id.is_multiple_of(STRIDE) {
                    types.marks.push(at);
                }
                if matches!(kind(info), KIND_STRUCT | KIND_FUNCTION) && wanted.contains(&name) {
                    types.named.push((name, id, at));
                }
                within += (TYPE_BYTES + extra_bytes(info).ok_or(BtfError::Damaged)?) as usize;
                id += 1;
            }
            at = window.from + within as u64;
        }
        Ok(types)
    }

    /// The offset of the type with an id.
    fn with_id(
        &self,
        window: &mut Window<'_, impl ReadAt + ?Sized>,
        id: u32,
    ) -> Result<Option<u64>, BtfError> {
        let Some(mark) = self.marks.get((id / STRIDE) as usize) else { return Ok(None) };
        let (mut at, mut reached) = (*mark, (id / STRIDE * STRIDE).max(1));
        while reached < id {
            if at >= self.end {
                return Ok(None);
            }
            let info = u32_at(window.get(at, TYPE_BYTES as usize)?, 4);
            at += TYPE_BYTES + extra_bytes(info).ok_or(BtfError::Damaged)?;
            reached += 1;
        }
        Ok((id != 0 && at < self.end).then_some(at))
    }

    /// The offset of a member in a structure, by their names.
    fn member(
        &self,
        window: &mut Window<'_, impl ReadAt + ?Sized>,
        of: u32,
        member: u32,
        left: &mut u32,
    ) -> Result<Option<u32>, BtfError> {
        for (name, _, at) in &self.named {
            if *name == of
                && let Some(bits) = self.member_bits(window, *at, member, 0, left)?
            {
                return Ok(bits.is_multiple_of(8).then_some(bits / 8));
            }
        }
        Ok(None)
    }

    /// In bits; members of structures and unions without a name count as members.
    fn member_bits(
        &self,
        window: &mut Window<'_, impl ReadAt + ?Sized>,
        at: u64,
        member: u32,
        depth: u32,
        left: &mut u32,
    ) -> Result<Option<u32>, BtfError> {
        let info = u32_at(window.get(at, TYPE_BYTES as usize)?, 4);
        if depth == DEEPEST || !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        let members = u64::from(info & 0xffff);
        // With this flag the upper byte is the size of a bit field.
        let offset_bits = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        for number in 0..members {
            let at = at + TYPE_BYTES + number * MEMBER_BYTES;
            *left = left.checked_sub(1).ok_or(BtfError::Damaged)?;
            let bytes = window.get(at, MEMBER_BYTES as usize)?;
            let (name, of_type, offset) =
                (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8) & offset_bits);
            if name == member {
                return Ok(Some(offset));
            }
            if name == 0
                && let Some(inner) = self.with_id(window, of_type)?
                && let Some(found) = self.member_bits(window, inner, member, depth + 1, left)?
            {
                return Ok(offset.checked_add(found));
            }
        }
        Ok(None)
    }

    fn function(&self, name: u32) -> Option<u32> {
        let of_name = self.named.iter().find(|(found, ..)| *found == name)?;
        Some(of_name.1)
    }
}

/// A part of the file.
struct Window<'a, S: ReadAt + ?Sized> {
    source: &'a S,
    from: u64,
    bytes: Vec<u8>,
}

impl<S: ReadAt + ?Sized> Window<'_, S> {
    /// `length` bytes at an offset, at most [`WINDOW`].
    #[inline]
    fn get(&mut self, at: u64, length: usize) -> Result<&[u8], BtfError> {
        let begin = at.wrapping_sub(self.from) as usize;
        if at < self.from || begin.saturating_add(length) > self.bytes.len() {
            self.fill(at)?;
            return self.bytes.get(..length).ok_or(BtfError::Damaged);
        }
        Ok(&self.bytes[begin..begin + length])
    }

    #[cold]
    fn fill(&mut self, at: u64) -> Result<(), BtfError> {
        self.bytes.resize(WINDOW, 0);
        self.from = at;
        let mut filled = 0;
        // sysfs gives a page at a time.
        while filled < WINDOW {
            match self.source.read_at(&mut self.bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.bytes.clear();
                    return Err(error.into());
                }
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

/// The number at a place within bytes that are there.
#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
