//! The caches of an ARM64 host as ACPI describes them: a table of processors (PPTT) that takes the place of QEMU's,
//! which has no caches. The caches are those of [`super::device_tree`].

use super::device_tree::{L1, L2, L3, LINE_BYTES, PER_DOMAIN, Size};

/// What it is made by, for the image's recipe.
pub(super) const SOURCE: &str = include_str!("processor_table.rs");

/// The table's path in the initramfs (Documentation/admin-guide/acpi/initrd_table_override.rst, Linux 6.18).
pub(super) const PATH: &str = "kernel/firmware/acpi/PPTT.aml";

/// A table only takes the place of one with the same names and a lower revision (drivers/acpi/tables.c); QEMU's has
/// these names and revision 1 (include/hw/acpi/aml-build.h).
const NAMES: &[u8; 14] = b"BOCHS BXPC    ";
const REVISION: u32 = 2;

/// ACPI Specification 6.3, 5.2.29.1: flags of a processor node.
const PACKAGE: u32 = 1;
const ID_IS_VALID: u32 = 1 << 1;
const LEAF: u32 = 1 << 3;

/// 5.2.29.2: all properties of a cache are valid; and its attributes: which kind, each with allocation on reads and
/// writes.
const ALL_VALID: u32 = 0x7f;
const ALLOCATES: u8 = 0b10;
const DATA: u8 = ALLOCATES;
const INSTRUCTIONS: u8 = ALLOCATES | 1 << 2;
const UNIFIED: u8 = ALLOCATES | 2 << 2;

/// The table for a host of so many processors, whose ids are their numbers.
pub(super) fn table(processors: u32) -> Vec<u8> {
    let mut table = Table::begin();
    let package = table.node(PACKAGE, 0, 0, &[]);
    for domain in 0..processors / PER_DOMAIN {
        let last_level = table.cache(UNIFIED, L3, 0);
        let cluster = table.node(0, package, 0, &[last_level]);
        for cpu in (0..PER_DOMAIN).map(|own| domain * PER_DOMAIN + own) {
            let unified = table.cache(UNIFIED, L2, 0);
            let [data, instructions] = [DATA, INSTRUCTIONS].map(|kind| table.cache(kind, L1, unified));
            table.node(ID_IS_VALID | LEAF, cluster, cpu, &[data, instructions]);
        }
    }
    table.end()
}

struct Table(Vec<u8>);

impl Table {
    /// 5.2.6: the header, without length and checksum.
    fn begin() -> Self {
        let mut bytes = b"PPTT\0\0\0\0".to_vec();
        bytes.extend([2, 0]);
        bytes.extend(NAMES);
        bytes.extend(REVISION.to_le_bytes());
        bytes.extend(b"HUDL\x01\0\0\0");
        Self(bytes)
    }

    /// 5.2.29.1; returns where it is.
    fn node(&mut self, flags: u32, parent: u32, id: u32, resources: &[u32]) -> u32 {
        let (at, count) = (self.0.len() as u32, resources.len() as u32);
        self.0.extend([0, 20 + 4 * count as u8, 0, 0]);
        self.words(&[flags, parent, id, count]);
        self.words(resources);
        at
    }

    /// 5.2.29.2; `next` is where the cache behind it is.
    fn cache(&mut self, attributes: u8, size: Size, next: u32) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend([1, 24, 0, 0]);
        self.words(&[ALL_VALID, next, size.bytes, size.sets()]);
        self.0.extend([size.ways as u8, attributes]);
        self.0.extend((LINE_BYTES as u16).to_le_bytes());
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// All bytes together are 0.
    fn end(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        self.0[9] = self.0.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_processor_and_cache_and_adds_up_to_zero() {
        let table = table(4);
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize, table.len());
        let (mut at, mut of_kind) = (36, [0, 0]);
        while at < table.len() {
            of_kind[usize::from(table[at])] += 1;
            at += usize::from(table[at + 1]);
        }
        // A package, two clusters, four cores; three caches of each core and two of last level.
        assert_eq!((at, of_kind), (table.len(), [7, 14]));
    }
}
