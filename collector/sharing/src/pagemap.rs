//! `/proc/PID/pagemap`: the frame of each page of a process, and the meaning of the bits
//! (Documentation/admin-guide/mm/pagemap.rst, Linux 6.18).

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::SharingError;
use huddle_host::{HostError, HostRoot, page};

/// Bytes of one pagemap entry.
pub(super) const ENTRY_BYTES: usize = 8;

const PRESENT: u64 = 1 << 63;
const FILE_OR_SHARED: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
const FRAME: u64 = (1 << 55) - 1;

/// One entry of a pagemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    /// Bit 63: the page is in physical memory.
    #[inline]
    pub(super) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Bit 56: no other page table entry of the host maps this frame. Where a huge page is mapped as a whole, all its
    /// pages have the bit of the first (`pagemap_pmd_range_thp` in fs/proc/task_mmu.c, Linux 6.16 to 6.18 at least):
    /// see [`super::huge`].
    #[inline]
    pub(super) fn is_exclusive(self) -> bool {
        self.0 & EXCLUSIVE != 0
    }

    /// Bit 61: a page of a file or of shared memory, which KSM never merges.
    #[inline]
    pub(super) fn is_file_or_shared(self) -> bool {
        self.0 & FILE_OR_SHARED != 0
    }

    /// Whether KSM may have merged the page: it shares its frame with others, and is anonymous memory.
    #[inline]
    pub(super) fn may_be_merged(self, zero_page_frame: u64) -> bool {
        self.is_present()
            && !self.is_exclusive()
            && !self.is_file_or_shared()
            && self.frame() != zero_page_frame
    }

    /// Bits 0 to 54: the frame; 0 without CAP_SYS_ADMIN.
    #[inline]
    pub(super) fn frame(self) -> u64 {
        self.0 & FRAME
    }

    /// The entry with these bytes.
    #[inline]
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut entry = [0; ENTRY_BYTES];
        entry.copy_from_slice(bytes);
        Self(u64::from_ne_bytes(entry))
    }
}

/// Bytes of one page on this host.
pub(super) fn page_bytes() -> u64 {
    page::size().bytes()
}

/// One entry of an open pagemap; `None` if the address space is gone or ends before.
pub(super) fn read_entry(pagemap: &File, page: u64) -> std::io::Result<Option<Entry>> {
    let mut bytes = [0; ENTRY_BYTES];
    let read = pagemap.read_at(&mut bytes, page * ENTRY_BYTES as u64)?;
    Ok((read == ENTRY_BYTES).then(|| Entry::from_bytes(&bytes)))
}

/// Checks that the kernel shows frame numbers to this process, by reading the entry of a page of its own that
/// is certainly in memory. Without CAP_SYS_ADMIN the entry is present, but its frame reads 0.
pub(super) fn frames_visible(root: &HostRoot) -> Result<(), SharingError> {
    let resident = Box::new(1u64);
    let page = std::ptr::from_ref::<u64>(std::hint::black_box(&resident)) as u64 / page_bytes();
    own_frame(root, page).map(drop)
}

/// The frame of the kernel's zero page, which every page maps that was only read: determined from a
/// page of our own.
pub(super) fn zero_page_frame(root: &HostRoot) -> Result<u64, SharingError> {
    let path = root.proc("self/pagemap");
    let failed = |errno: nix::errno::Errno| {
        SharingError::Host(HostError::Read { path: path.clone(), source: errno.into() })
    };
    let bytes = page_bytes();
    let length = NonZeroUsize::new(bytes as usize).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) }
        .map_err(failed)?;
    // A huge page would hide the small zero page. Kernels without huge pages refuse the advice, which is fine.
    // SAFETY: the range is the mapping made above; the advice does not change its content.
    let _ = unsafe { madvise(map, bytes as usize, MmapAdvise::MADV_NOHUGEPAGE) };
    // SAFETY: the mapping is readable and `bytes` long, and nothing else refers to it.
    let _ = unsafe { map.cast::<u8>().as_ptr().read_volatile() };
    let frame = own_frame(root, map.as_ptr() as u64 / bytes);
    // SAFETY: the mapping made above, not used after this.
    unsafe { munmap(map, bytes as usize) }.map_err(failed)?;
    frame
}

fn own_frame(root: &HostRoot, page: u64) -> Result<u64, SharingError> {
    let path = root.proc("self/pagemap");
    let read = |source| HostError::Read { path: path.clone(), source };
    let entry = match open(&path).and_then(|pagemap| read_entry(&pagemap, page)) {
        // Kernels 4.0 and 4.1 refuse the open instead of showing 0.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        other => other.map_err(read)?,
    };
    match entry {
        Some(entry) if entry.is_present() && entry.frame() != 0 => Ok(entry.frame()),
        _ => Err(SharingError::FramesHidden { path }),
    }
}

/// Opens a pagemap or a file like it.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// The flags of a frame; `None` if they cannot be read.
pub(super) fn flags(kpageflags: Option<&File>, frame: u64) -> Option<u64> {
    read_entry(kpageflags?, frame).ok().flatten().map(|entry| entry.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_document() {
        let entry = Entry::from_bytes(&0x8180_0000_0012_3456_u64.to_ne_bytes());
        assert!(entry.is_present() && entry.is_exclusive() && !entry.is_file_or_shared());
        assert_eq!(entry.frame(), 0x12_3456);
        assert!(Entry(0xa000_0000_0000_0001).is_file_or_shared());
        assert!(!Entry(0x4000_0000_0000_0001).is_present());
    }

    #[test]
    fn a_pagemap_without_frames_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("self")).unwrap();
        std::fs::write(root.proc("self/pagemap"), b"").unwrap();
        let error = frames_visible(&root).unwrap_err();
        assert!(matches!(error, SharingError::FramesHidden { .. }), "{error}");
        assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
    }

    #[test]
    fn a_missing_pagemap_is_another_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = frames_visible(&HostRoot::at(dir.path())).unwrap_err();
        assert!(matches!(error, SharingError::Host(_)), "{error}");
    }
}
