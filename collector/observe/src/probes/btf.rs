//! Offsets of fields of kernel structures, from the kernel's own BTF
//! (Documentation/bpf/btf.rst, Linux 6.18): one BPF object fits every kernel.

use std::collections::BTreeSet;

/// The type section and the strings of one BTF file, with the position of each type.
#[derive(Debug)]
pub struct KernelTypes {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type begins in `bytes`; type 0 is void and has no position.
    types: Vec<usize>,
}

/// Why BTF could not be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// It is not BTF, or it is truncated.
    #[error("the kernel's BTF cannot be parsed at byte {at}: {what}")]
    Damaged {
        /// Position in bytes.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The structure or the field is not in this kernel.
    #[error("this kernel's BTF has no {0}")]
    Missing(String),
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// One member of a structure or union.
struct Member {
    name: usize,
    type_id: usize,
    offset_bits: u32,
}

impl KernelTypes {
    /// Reads the bytes of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// The bytes are not little-endian BTF of version 1, or are cut off.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if read_u16(&bytes, 0)? != 0xeb9f {
            return Err(BtfError::Damaged { at: 0, what: "no BTF magic" });
        }
        let header = |at| read_u32(&bytes, at).map(|number| number as usize);
        let base = header(4)?;
        let (start, length) = (base.saturating_add(header(8)?), header(12)?);
        let strings = base.saturating_add(header(16)?);
        let end = start.saturating_add(length);
        if end > bytes.len() || strings > bytes.len() {
            return Err(BtfError::Damaged { at: 8, what: "a section outside the file" });
        }
        let (mut types, mut at) = (vec![0], start);
        while at < end {
            types.push(at);
            at += 12 + trailer(read_u32(&bytes, at + 4)?, at)?;
        }
        Ok(Self { bytes, strings, types })
    }

    /// The offset in bytes of a field: a path of member names that starts in the structure `name`.
    ///
    /// # Errors
    /// This kernel has no such structure or field, or the field is a bit field.
    pub fn offset_bytes(&self, name: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("{name}.{}", path.join(".")));
        let mut type_id = self.structure(name)?.ok_or_else(missing)?;
        let mut bits = 0_u32;
        for field in path {
            let mut searched = BTreeSet::new();
            let (offset, next) = self.member(type_id, field, 0, &mut searched)?.ok_or_else(missing)?;
            bits = bits.saturating_add(offset);
            type_id = next;
        }
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(missing()) }
    }

    fn structure(&self, name: &str) -> Result<Option<usize>, BtfError> {
        for (id, &at) in self.types.iter().enumerate().skip(1) {
            let info = read_u32(&self.bytes, at + 4)?;
            // A structure without members is only declared in this unit.
            if kind(info) == KIND_STRUCT && count(info) > 0 && self.name_is(at, name)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Offset in bits and type of a member; looks into members without a name, as C does.
    ///
    /// Each structure is searched once: damaged BTF with unnamed members of a structure's own type would
    /// otherwise take time exponential in the depth.
    fn member(
        &self,
        type_id: usize,
        name: &str,
        depth: u32,
        searched: &mut BTreeSet<usize>,
    ) -> Result<Option<(u32, usize)>, BtfError> {
        let Some(at) = self.resolve(type_id)? else { return Ok(None) };
        let info = read_u32(&self.bytes, at + 4)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) || depth > 16 || !searched.insert(at) {
            return Ok(None);
        }
        for index in 0..count(info) {
            let member = self.read_member(at + 12 + index * 12, info)?;
            if self.string_is(member.name, name) {
                return Ok(Some((member.offset_bits, member.type_id)));
            }
            if self.string_is(member.name, "")
                && let Some((offset, found)) = self.member(member.type_id, name, depth + 1, searched)?
            {
                return Ok(Some((member.offset_bits.saturating_add(offset), found)));
            }
        }
        Ok(None)
    }

    fn read_member(&self, at: usize, info: u32) -> Result<Member, BtfError> {
        let offset = read_u32(&self.bytes, at + 8)?;
        // With the kind flag the top byte is the size of a bit field.
        let offset_bits = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
        let type_id = read_u32(&self.bytes, at + 4)? as usize;
        Ok(Member { name: read_u32(&self.bytes, at)? as usize, type_id, offset_bits })
    }

    /// Position of a type, with typedefs and qualifiers resolved.
    fn resolve(&self, mut type_id: usize) -> Result<Option<usize>, BtfError> {
        for _ in 0..32 {
            let Some(&at) = self.types.get(type_id).filter(|_| type_id > 0) else { return Ok(None) };
            match kind(read_u32(&self.bytes, at + 4)?) {
                // Typedef, volatile, const, restrict, type tag.
                8..=11 | 18 => type_id = read_u32(&self.bytes, at + 8)? as usize,
                _ => return Ok(Some(at)),
            }
        }
        Ok(None)
    }

    fn name_is(&self, at: usize, name: &str) -> Result<bool, BtfError> {
        Ok(self.string_is(read_u32(&self.bytes, at)? as usize, name))
    }

    fn string_is(&self, offset: usize, name: &str) -> bool {
        let start = self.strings.saturating_add(offset);
        let rest = self.bytes.get(start..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// Bytes after the 12 that every type has.
fn trailer(info: u32, at: usize) -> Result<usize, BtfError> {
    Ok(match kind(info) {
        1 | 14 | 17 => 4,
        3 => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => count(info) * 12,
        6 | 13 => count(info) * 8,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return Err(BtfError::Damaged { at, what: "a kind of type that is unknown to this version" }),
    })
}

fn read_u16(bytes: &[u8], at: usize) -> Result<u16, BtfError> {
    let bytes = at.checked_add(2).and_then(|end| bytes.get(at..end)).and_then(|b| b.try_into().ok());
    bytes.map(u16::from_le_bytes).ok_or(BtfError::Damaged { at, what: "cut off" })
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = at.checked_add(4).and_then(|end| bytes.get(at..end)).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or(BtfError::Damaged { at, what: "cut off" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct outer { int a; struct { union { int b; inner_t c; }; }; int d:3; }` with
    /// `typedef const struct inner { int x; int y; } inner_t`.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0inner\0inner_t\0outer\0a\0b\0c\0d\0x\0y\0";
        let name = |text: &str| {
            let needle = [text.as_bytes(), b"\0"].concat();
            let at = strings.windows(needle.len() + 1).position(|w| w[0] == 0 && w[1..] == needle[..]);
            at.unwrap() as u32 + 1
        };
        let info = |kind: u32, count: u32, flag: u32| flag << 31 | kind << 24 | count;
        let types: Vec<u32> = [
            vec![name("int"), info(1, 0, 0), 4, 32], // 1
            vec![name("inner"), info(4, 2, 0), 8, name("x"), 1, 0, name("y"), 1, 32], // 2
            vec![0, info(10, 0, 0), 2],              // 3 const
            vec![name("inner_t"), info(8, 0, 0), 3], // 4
            vec![0, info(5, 2, 0), 8, name("b"), 1, 0, name("c"), 4, 0], // 5 union
            vec![0, info(4, 1, 0), 8, 0, 5, 0],      // 6 anonymous
            vec![name("outer"), info(4, 0, 0), 0],   // 7 declared only
            vec![name("outer"), info(4, 3, 1), 16, name("a"), 1, 0, 0, 6, 32, name("d"), 1, 3 << 24 | 97],
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        [bytes, types, strings.to_vec()].concat()
    }

    #[test]
    fn fields_are_found_through_unnamed_members_typedefs_and_bit_fields() {
        let types = KernelTypes::parse(example()).unwrap();
        assert_eq!(types.offset_bytes("outer", &["a"]), Ok(0));
        assert_eq!(types.offset_bytes("outer", &["b"]), Ok(4));
        assert_eq!(types.offset_bytes("outer", &["c", "y"]), Ok(8));
        let error = types.offset_bytes("outer", &["d"]).unwrap_err();
        assert_eq!(error, BtfError::Missing("outer.d".into()), "a bit field has no offset in bytes");
        assert!(types.offset_bytes("outer", &["e"]).is_err());
        assert!(types.offset_bytes("absent", &["a"]).unwrap_err().to_string().contains("absent.a"));
    }

    #[test]
    fn damage_is_reported_with_its_position() {
        assert!(matches!(KernelTypes::parse(vec![1, 2, 3]), Err(BtfError::Damaged { at: 0, .. })));
        let whole = example();
        assert!(KernelTypes::parse(whole[..40].to_vec()).is_err());
    }

    #[test]
    fn a_structure_that_contains_itself_is_searched_once() {
        let strings = b"\0outer\0";
        let members = 12_u32;
        let mut types = vec![1, 4 << 24 | members, 8];
        types.extend((0..members).flat_map(|_| [0, 1, 0]));
        let length = types.len() as u32 * 4;
        let words = [24, 0, length, length, strings.len() as u32].into_iter().chain(types);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(words.flat_map(u32::to_le_bytes));
        bytes.extend(strings);
        let types = KernelTypes::parse(bytes).unwrap();
        assert_eq!(types.offset_bytes("outer", &["a"]), Err(BtfError::Missing("outer.a".into())));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(rest in proptest::collection::vec(any::<u8>(), 0..200), name in "[a-z]?") {
            let _ = KernelTypes::parse(rest.clone());
            // With a valid header the rest is parsed.
            let length = rest.len() as u32;
            let mut bytes = vec![0x9f, 0xeb, 1, 0];
            bytes.extend([24, 0, length / 2, length / 2, length.div_ceil(2)].into_iter().flat_map(u32::to_le_bytes));
            bytes.extend(rest);
            if let Ok(types) = KernelTypes::parse(bytes) {
                let _ = types.offset_bytes(&name, &["a", ""]);
            }
        }

        #[test]
        fn changed_bytes_never_panic(at in 0..300_usize, byte: u8, cut in 0..300_usize) {
            let mut bytes = example();
            if let Some(old) = bytes.get_mut(at) { *old = byte; }
            bytes.truncate(bytes.len().saturating_sub(cut % 40));
            if let Ok(types) = KernelTypes::parse(bytes) {
                let _ = types.offset_bytes("outer", &["c", "y"]);
            }
        }
    }
}
