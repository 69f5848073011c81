//! Mappings of this process that children inherit, as guest memory.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use huddle_host::{HostRoot, task};
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId, Vm};
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect};

pub const PAGE: usize = 4096;

/// A mapping of this process that children inherit; it is never unmapped.
#[derive(Clone, Copy)]
pub struct Map {
    pub start: NonNull<libc::c_void>,
    pub pages: usize,
    pub kind: MemoryKind,
}

impl Map {
    /// Private memory on small pages, each written with another content.
    pub fn written(pages: usize) -> Self {
        let length = NonZeroUsize::new(pages * PAGE).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
        let start = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE) }.unwrap();
        let map = Self { start, pages, kind: MemoryKind::Anonymous };
        map.advise(0..pages, MmapAdvise::MADV_NOHUGEPAGE);
        map.write(0..pages, 1);
        map
    }

    pub fn of_file(
        file: BorrowedFd<'_>,
        pages: usize,
        access: ProtFlags,
        flags: MapFlags,
        kind: MemoryKind,
    ) -> Self {
        let length = NonZeroUsize::new(pages * PAGE).unwrap();
        // SAFETY: as above.
        let start = unsafe { mmap(None, length, access, flags, file, 0) }.unwrap();
        Self { start, pages, kind }
    }

    pub fn at(self, page: usize) -> NonNull<libc::c_void> {
        assert!(page <= self.pages);
        // SAFETY: within the mapping, or at its end.
        unsafe { self.start.byte_add(page * PAGE) }
    }

    pub fn write(self, pages: std::ops::Range<usize>, value: u64) {
        for page in pages {
            // SAFETY: within the mapping, which nothing else refers to.
            unsafe { self.at(page).cast::<u64>().as_ptr().write_volatile((value << 32) | (page as u64 + 1)) };
        }
    }

    pub fn read(self, pages: std::ops::Range<usize>) {
        for page in pages {
            // SAFETY: within the mapping.
            let _ = unsafe { self.at(page).cast::<u64>().as_ptr().read_volatile() };
        }
    }

    pub fn advise(self, pages: std::ops::Range<usize>, advice: MmapAdvise) {
        // SAFETY: within the mapping, which nothing refers to between two calls of these functions.
        unsafe { madvise(self.at(pages.start), pages.len() * PAGE, advice) }.unwrap();
    }

    pub fn protect(self, pages: std::ops::Range<usize>, access: ProtFlags) {
        // SAFETY: as above.
        unsafe { mprotect(self.at(pages.start), pages.len() * PAGE, access) }.unwrap();
    }

    pub fn region(self, process: TaskId) -> GuestRegion {
        let start = self.start.as_ptr() as u64;
        let end = start + (self.pages * PAGE) as u64;
        GuestRegion { process: Some(process), start, end, kind: self.kind }
    }
}

/// A process with these mappings as a VM.
pub fn vm(name: &str, pid: i32, maps: &[Map]) -> Vm {
    let process = task::process(&HostRoot::real(), pid).unwrap().id;
    Vm::of_process(name, process, maps.iter().map(|map| map.region(process)).collect())
}
