//! One recorded access, in two words.

use super::header::LINE_BYTES;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data, or reads and writes it in one instruction.
    Write,
    /// Fetches instructions.
    Fetch,
}

/// What an address is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// Addresses of RAM as QEMU numbers it: below 3 GiB of RAM of the machine `pc`, guest-physical ones.
    GuestRam,
    /// Addresses of QEMU's own process.
    Qemu,
}

/// An access of a vCPU to a line. As words: the instructions; then the address, in whose low bits, which are 0 for a
/// line, are the kind (2 bits: 0 read, 1 write, 2 fetch) and the address space (1 bit: 1 for QEMU's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Instructions that the vCPU had begun since recording began, up to the end of the block of the access.
    pub instructions: u64,
    /// The first byte of the line.
    pub address: u64,
    /// What the address is one of.
    pub space: AddressSpace,
    /// What the access does.
    pub kind: AccessKind,
}

const KIND: u64 = 0b11;
const QEMU: u64 = 0b100;

impl Record {
    /// Its words.
    #[inline]
    pub fn to_words(self) -> [u64; 2] {
        let kind = match self.kind {
            AccessKind::Read => 0,
            AccessKind::Write => 1,
            AccessKind::Fetch => 2,
        };
        let space = match self.space {
            AddressSpace::GuestRam => 0,
            AddressSpace::Qemu => QEMU,
        };
        [self.instructions, self.address & !(LINE_BYTES - 1) | kind | space]
    }

    /// From its words; `None` for a kind that there is not, and for bits that have no meaning.
    #[inline]
    pub fn from_words([instructions, line]: [u64; 2]) -> Option<Self> {
        let kind = match line & KIND {
            0 => AccessKind::Read,
            1 => AccessKind::Write,
            2 => AccessKind::Fetch,
            _ => return None,
        };
        let space = if line & QEMU == 0 { AddressSpace::GuestRam } else { AddressSpace::Qemu };
        let has_meaning = line & (LINE_BYTES - 1) & !(KIND | QEMU) == 0;
        has_meaning.then_some(Self { instructions, address: line & !(LINE_BYTES - 1), space, kind })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_words_are_a_record_or_none(words: [u64; 2]) {
            match Record::from_words(words) {
                Some(record) => prop_assert_eq!(record.to_words(), words),
                None => prop_assert!(words[1] & KIND == 3 || words[1] & 0b11_1000 != 0),
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Fetch] {
            for space in [AddressSpace::GuestRam, AddressSpace::Qemu] {
                let record = Record { instructions: 7, address: 0x7f12_3456_7fc0, space, kind };
                assert_eq!(Record::from_words(record.to_words()), Some(record));
            }
        }
    }
}
