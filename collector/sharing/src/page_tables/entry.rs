//! What entries of page tables of x86-64 say (arch/x86/include/asm/pgtable_types.h, pgtable.h and
//! pgtable-invert.h, Linux 6.18).

use super::program::{HUGE, PRESENT};

/// The page may be written.
pub(super) const WRITABLE: u64 = 1 << 1;
/// The page was used since the bit was cleared.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// `_PAGE_PROTNONE`: the page is there, and not accessible (mprotect, NUMA balancing).
const NO_ACCESS: u64 = 1 << 8;
/// `_PAGE_SPECIAL`: not a page that the kernel counts mappings of, as the zero page and memory of devices.
const SPECIAL: u64 = 1 << 9;
/// `_PAGE_SAVED_DIRTY`: where DIRTY is kept while the page cannot be written (Linux 6.6).
const SAVED_DIRTY: u64 = 1 << 58;
/// Bits 12 to 51, the physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE_SHIFT: u32 = 12;
/// Pages that an entry of the second level maps.
pub(super) const HUGE_PAGES: u64 = 512;

const IN_MEMORY_OF_PAGEMAP: u64 = 1 << 63;
const FILE_OF_PAGEMAP: u64 = 1 << 61;
const EXCLUSIVE_OF_PAGEMAP: u64 = 1 << 56;

/// The bits of an entry that are a physical address on this processor: without the bit that AMD's memory encryption
/// has among them (CPUID 8000_001F, EBX bits 5 to 0; AMD64 Architecture Programmer's Manual, volume 3, E.4.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressMask(pub(super) u64);

impl AddressMask {
    /// That of this machine.
    pub(super) fn of_this_machine() -> Self {
        Self(ADDRESS & !encryption_bit())
    }

    /// The frame of an entry, whatever it says else. Entries that are not valid hold it inverted, so that no
    /// speculative read finds it (L1 Terminal Fault).
    #[inline]
    pub(super) fn frame(self, entry: u64) -> u64 {
        let inverted = (entry & PRESENT).wrapping_sub(1);
        ((entry ^ inverted) & self.0) >> PAGE_SHIFT
    }

    /// The frame of a valid entry.
    #[inline]
    pub(super) fn frame_of_valid(self, entry: u64) -> u64 {
        (entry & self.0) >> PAGE_SHIFT
    }

    /// The first frame of a huge page: lower bits are not of the address there.
    pub(super) fn huge_frame(self, entry: u64, pages: u64) -> u64 {
        self.frame(entry) / pages * pages
    }

    /// The entry as `/proc/PID/pagemap` shows it, where the page is alone on its frame if it may be written and
    /// `writable_is_alone`; `file` says that all are of the page cache.
    #[inline]
    pub(super) fn as_pagemap(self, entry: u64, writable_is_alone: bool, file: bool) -> u64 {
        let there = (entry | entry >> 8) & PRESENT;
        let alone = if writable_is_alone { (entry & WRITABLE) / WRITABLE * EXCLUSIVE_OF_PAGEMAP } else { 0 };
        let file = if file { FILE_OF_PAGEMAP } else { 0 };
        (self.frame(entry) | IN_MEMORY_OF_PAGEMAP | alone | file) & there.wrapping_neg()
    }
}

#[cfg(target_arch = "x86_64")]
fn encryption_bit() -> u64 {
    use std::arch::x86_64::__cpuid;

    const HIGHEST: u32 = 0x8000_0000;
    const ENCRYPTION: u32 = 0x8000_001f;
    if __cpuid(HIGHEST).eax < ENCRYPTION {
        return 0;
    }
    let answer = __cpuid(ENCRYPTION);
    // SME or SEV.
    if answer.eax & 0b11 == 0 { 0 } else { 1 << (answer.ebx & 0x3f) }
}

#[cfg(not(target_arch = "x86_64"))]
fn encryption_bit() -> u64 {
    0
}

/// What entries of a table, or one, have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Common {
    all: u64,
    any: u64,
}

/// Whether all pages are in memory and may be written.
#[inline]
pub(super) fn all_writable(entries: &[u64]) -> bool {
    // All bits at once, without a branch for each entry.
    entries.iter().fold(u64::MAX, |all, entry| all & entry) & (PRESENT | WRITABLE) == PRESENT | WRITABLE
}

impl Common {
    pub(super) fn of(entries: &[u64]) -> Self {
        // Several at a time: nothing waits for the one before.
        let (groups, rest) = entries.as_chunks::<8>();
        let (mut all, mut any) = ([u64::MAX; 8], [0; 8]);
        for group in groups {
            for at in 0..8 {
                all[at] &= group[at];
                any[at] |= group[at];
            }
        }
        Self {
            all: all.iter().chain(rest).fold(u64::MAX, |all, entry| all & entry),
            any: any.iter().chain(rest).fold(0, |any, entry| any | entry),
        }
    }

    /// All pages are in memory, valid, counted by the kernel, and may not be written.
    pub(super) fn all_plain_candidates(self) -> bool {
        self.all & PRESENT != 0 && self.any & (WRITABLE | NO_ACCESS | SPECIAL) == 0
    }

    /// No page is in memory.
    pub(super) fn none_there(self) -> bool {
        self.any & (PRESENT | NO_ACCESS) == 0
    }

    /// One of them may be one that the kernel counts no mappings of.
    pub(super) fn any_special(self) -> bool {
        self.any & SPECIAL != 0
    }
}

/// Whether the page of an entry of the lowest level is in memory.
#[inline]
pub(super) fn is_there(entry: u64) -> bool {
    entry & (PRESENT | NO_ACCESS) != 0
}

/// Whether a huge page is in memory: also while the kernel splits it, when it is not valid.
pub(super) fn is_huge_there(entry: u64) -> bool {
    entry & HUGE != 0
}

/// Whether a page may be written.
pub(super) fn is_writable(entry: u64) -> bool {
    entry & WRITABLE != 0
}

/// Whether the page was used since its bit was cleared.
#[inline]
pub(super) fn is_accessed(entry: u64) -> bool {
    entry & ACCESSED != 0
}

/// Whether the kernel counts no mappings of the page.
#[inline]
pub(super) fn is_special(entry: u64) -> bool {
    entry & SPECIAL != 0
}

/// Whether the entry says that nothing was ever written through it, as of the huge zero page.
pub(super) fn is_clean(entry: u64) -> bool {
    entry & (DIRTY | SAVED_DIRTY) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: AddressMask = AddressMask(ADDRESS);

    #[test]
    fn entries_become_those_of_pagemap() {
        let of = |entry| MASK.as_pagemap(entry, true, false);
        let frame = 0x12_3456_789a;
        // Written, no execution, user, accessed, dirty.
        let private = 0x8000_0000_0000_0067 | frame << 12;
        assert_eq!(of(private), IN_MEMORY_OF_PAGEMAP | EXCLUSIVE_OF_PAGEMAP | frame);
        assert_eq!(of(private & !WRITABLE), IN_MEMORY_OF_PAGEMAP | frame);
        assert_eq!(MASK.as_pagemap(private, false, true), IN_MEMORY_OF_PAGEMAP | FILE_OF_PAGEMAP | frame);
        assert_eq!((of(0), of(0x0400_0000_0000_0002)), (0, 0), "nothing; in swap");
    }

    #[test]
    fn frames_of_pages_without_access_are_inverted() {
        let frame = 0x00ab_cdef;
        let no_access = NO_ACCESS | 0x8000_0000_0000_0060 | (!(frame << 12) & ADDRESS);
        assert_eq!(MASK.as_pagemap(no_access, true, false), IN_MEMORY_OF_PAGEMAP | frame);
        let encrypted = AddressMask(ADDRESS & !(1 << 47));
        assert_eq!(encrypted.frame(1 | 1 << 47 | frame << 12), frame);
    }

    #[test]
    fn low_bits_of_huge_pages_are_not_of_the_address() {
        let frame = 0x7f_fe00;
        let entry = 0xe7 | 1 << 12 | frame << 12;
        assert_eq!(MASK.huge_frame(entry, 512), frame);
        // While it is split: not valid, inverted.
        let splitting = HUGE | (!(frame << 12) & ADDRESS & !0x1f_ffff);
        assert!(is_huge_there(splitting) && !is_writable(splitting) && is_clean(splitting));
        assert_eq!(MASK.huge_frame(splitting, 512), frame);
    }

    #[test]
    fn common_bits_tell_whole_tables() {
        let written = PRESENT | WRITABLE;
        assert!(all_writable(&[written; 4]));
        assert!(!all_writable(&[written, PRESENT]));
        assert!(Common::of(&[PRESENT; 11]).all_plain_candidates());
        for other in [0, written, PRESENT | SPECIAL, NO_ACCESS] {
            let mut entries = [PRESENT; 11];
            entries[10] = other;
            assert!(!Common::of(&entries).all_plain_candidates(), "{other:x}");
        }
        assert!(Common::of(&[0, 2, 1 << 60]).none_there());
        assert!(!Common::of(&[0, NO_ACCESS]).none_there() && is_there(NO_ACCESS));
        assert!(Common::of(&[0, PRESENT | SPECIAL]).any_special());
    }
}
