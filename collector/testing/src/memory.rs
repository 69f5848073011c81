//! Memory of this process: mergeable memory, and the peak usage of a piece of work.

use std::fs;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use nix::unistd::{SysconfVar, sysconf};

/// Bytes of a page of this host.
pub fn page_bytes() -> usize {
    static BYTES: LazyLock<usize> =
        LazyLock::new(|| sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap().try_into().unwrap());
    *BYTES
}

/// Pages of a huge page: as many as a page has entries of a page table, of 8 bytes each (`PTRS_PER_PTE`).
pub fn huge_page_pages() -> usize {
    page_bytes() / 8
}

/// Mergeable memory of so many pages; it is never freed.
pub fn mergeable(pages: usize) -> &'static mut [u64] {
    let length = NonZeroUsize::new(pages * page_bytes()).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    for advice in [MmapAdvise::MADV_NOHUGEPAGE, MmapAdvise::MADV_MERGEABLE] {
        // SAFETY: the range is the mapping made above; neither advice changes its content.
        unsafe { madvise(map, length.get(), advice) }.unwrap();
    }
    // SAFETY: the mapping is writable, page-aligned, `pages` pages long, and only used through this.
    unsafe { std::slice::from_raw_parts_mut(map.cast::<u64>().as_ptr(), pages * page_bytes() / 8) }
}

/// Memory on so many huge pages, each ordinary page with another content; `None` if the kernel gives none. It is
/// never freed.
pub fn huge(count: usize) -> Option<&'static mut [u64]> {
    let huge_bytes = page_bytes() * huge_page_pages();
    let length = NonZeroUsize::new((count + 1) * huge_bytes).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    let skipped = (map.as_ptr() as usize).next_multiple_of(huge_bytes) - map.as_ptr() as usize;
    // SAFETY: one huge page more than is used was mapped.
    let start = unsafe { map.byte_add(skipped) };
    // SAFETY: within the mapping made above; the advice does not change its content.
    unsafe { madvise(start, count * huge_bytes, MmapAdvise::MADV_HUGEPAGE) }.ok()?;
    // SAFETY: the mapping is writable, page-aligned, this long, and only used through this.
    let words =
        unsafe { std::slice::from_raw_parts_mut(start.cast::<u64>().as_ptr(), count * huge_bytes / 8) };
    words.chunks_exact_mut(page_bytes() / 8).enumerate().for_each(|(page, words)| words[7] = page as u64 + 1);
    // proc(5): the mapping of this address, with its part on huge pages.
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let own = smaps.split_once(&format!("{:x}-", start.as_ptr() as usize))?.1;
    let on_huge = own.lines().find_map(|line| line.strip_prefix("AnonHugePages:"))?;
    let kib: usize = on_huge.trim().trim_end_matches("kB").trim().parse().unwrap();
    (kib >= count * huge_bytes / 1024).then_some(words)
}

/// A child of this process that has done one thing, such as to write to shared pages, and does nothing else; it ends
/// with this value.
#[derive(Debug)]
pub struct Fork(nix::unistd::Pid);

impl Fork {
    /// Returns once the pages are written.
    pub fn that_writes(words: &mut [u64], pages: &[usize]) -> Self {
        Self::that(|| pages.iter().for_each(|page| words[page * page_bytes() / 8 + 9] = u64::MAX))
    }

    /// One that does this first, and may allocate nothing; returns once it is done.
    pub fn that(work: impl FnOnce()) -> Self {
        Self::that_goes_on(work, nix::unistd::pause)
    }

    /// One that does this again and again, with a millisecond in between, and may allocate nothing; returns once it was
    /// done the first time.
    pub fn that_repeats(work: impl Fn()) -> Self {
        Self::that_then_repeats(&work, &work)
    }

    /// The same, after something else.
    pub fn that_then_repeats(first: impl FnOnce(), work: impl Fn()) -> Self {
        Self::that_goes_on(first, || {
            std::thread::sleep(std::time::Duration::from_millis(1));
            work();
        })
    }

    fn that_goes_on(work: impl FnOnce(), then: impl Fn()) -> Self {
        let (ready, done) = nix::unistd::pipe().unwrap();
        // SAFETY: the child only writes to memory and a pipe, and waits: nothing there needs another thread.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                work();
                let _ = nix::unistd::write(&done, &[1]);
                loop {
                    then();
                }
            }
            nix::unistd::ForkResult::Parent { child } => {
                // So that the end of the child is the end of what can be read.
                drop(done);
                let mut byte = [0];
                assert_eq!(nix::unistd::read(&ready, &mut byte), Ok(1), "the child has ended");
                Self(child)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
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
