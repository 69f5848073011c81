//! Memory that KSM may merge.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use anyhow::Context;
use huddle_model::rng::Rng;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Pages of this process that KSM may merge, each with data of its own; those of one seed are the same in every
/// process.
#[derive(Debug)]
pub struct Data {
    start: NonNull<std::ffi::c_void>,
    bytes: NonZeroUsize,
    page_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone, which writes to it only through `&mut`.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}

impl Data {
    /// So many pages of this host.
    ///
    /// # Errors
    /// There is no memory, or no KSM in this kernel.
    pub fn new(pages: usize, seed: u64) -> anyhow::Result<Self> {
        let data = Self::private(pages)?;
        // SAFETY: the mapping is ours, and of this length.
        unsafe { madvise(data.start, data.bytes.get(), MmapAdvise::MADV_MERGEABLE) }
            .context("this kernel has no KSM (MADV_MERGEABLE)")?;
        let mut rng = Rng::new(seed);
        for word in 0..data.bytes.get() / 8 {
            // SAFETY: within the mapping, aligned, and nothing else refers to it yet.
            unsafe { data.start.as_ptr().cast::<u64>().add(word).write(rng.next_u64()) };
        }
        Ok(data)
    }

    /// So many pages that KSM leaves alone.
    ///
    /// # Errors
    /// There is no memory.
    pub fn private(pages: usize) -> anyhow::Result<Self> {
        let page_bytes = page_bytes()?;
        let bytes = pages.checked_mul(page_bytes).and_then(NonZeroUsize::new).context("no pages")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) }
            .context("cannot map the data")?;
        // SAFETY: the mapping is ours, and of this length. Huge pages would make one fault of many.
        unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_NOHUGEPAGE) }
            .context("cannot forbid huge pages")?;
        Ok(Self { start, bytes, page_bytes })
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Gives back the frames of its pages and writes to each of the first `pages` again: as many page faults.
    pub fn fault(&mut self, pages: usize) -> anyhow::Result<()> {
        // SAFETY: the mapping is ours; its content is given up.
        unsafe { madvise(self.start, self.bytes.get(), MmapAdvise::MADV_DONTNEED) }
            .context("cannot give back the pages")?;
        for page in 0..pages.min(self.bytes.get() / self.page_bytes) {
            // SAFETY: within the mapping; volatile, so that the write takes place.
            unsafe { self.start.as_ptr().cast::<u8>().add(page * self.page_bytes).write_volatile(1) };
        }
        Ok(())
    }

    /// Writes code at its beginning.
    ///
    /// # Panics
    /// The code is longer.
    pub(crate) fn write(&mut self, code: &[u8]) {
        assert!(code.len() <= self.bytes.get(), "the code is longer than the memory");
        // SAFETY: the code fits, as was checked, and comes from elsewhere.
        unsafe { self.start.as_ptr().cast::<u8>().copy_from_nonoverlapping(code.as_ptr(), code.len()) };
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more. There is nothing to do if it fails.
        let _ = unsafe { munmap(self.start, self.bytes.get()) };
    }
}

/// Bytes of a page of this host.
pub fn page_bytes() -> anyhow::Result<usize> {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).context("the page size is unknown")
}
