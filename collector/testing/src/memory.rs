//! Memory of this process: mergeable memory, and the peak usage of a piece of work.

use std::fs;
use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

const PAGE: usize = 4096;

/// Mergeable memory of so many pages; it is never freed.
pub fn mergeable(pages: usize) -> &'static mut [u64] {
    let length = NonZeroUsize::new(pages * PAGE).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    for advice in [MmapAdvise::MADV_NOHUGEPAGE, MmapAdvise::MADV_MERGEABLE] {
        // SAFETY: the range is the mapping made above; neither advice changes its content.
        unsafe { madvise(map, length.get(), advice) }.unwrap();
    }
    // SAFETY: the mapping is writable, page-aligned, `pages * PAGE` long, and only used through this.
    unsafe { std::slice::from_raw_parts_mut(map.cast::<u64>().as_ptr(), pages * PAGE / 8) }
}

/// Peak resident memory during `work` above the level before, in MiB (proc(5): clear_refs 5 and VmHWM).
pub fn extra_mib(work: impl FnOnce()) -> f64 {
    // Freed memory that the allocator keeps would hide the usage of this work.
    // SAFETY: releases free memory of the allocator, which nothing refers to.
    unsafe { nix::libc::malloc_trim(0) };
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kib("VmRSS");
    work();
    (status_kib("VmHWM") - before) / 1024.0
}

fn status_kib(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}
