//! Memory as a VMM gives it to a guest: private, anonymous, and mergeable on request.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::chase::PAGE_BYTES;

/// Words in whole pages, zero-filled at first, that KSM may merge when asked to (madvise(2),
/// MADV_MERGEABLE) and that are never made huge (MADV_NOHUGEPAGE), since huge pages are merged only once
/// they are split.
#[derive(Debug)]
pub struct MergeableMemory {
    start: NonNull<u64>,
    words: usize,
}

/// Memory that is not available.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Not a whole number of pages, or none.
    #[error("{0} bytes are not a whole number of pages of {PAGE_BYTES} bytes; ask for a multiple")]
    Size(usize),
    /// The kernel refused.
    #[error("cannot {what} {bytes} bytes of guest memory: {errno}{hint}")]
    Refused {
        /// The step.
        what: &'static str,
        /// Size of the memory in bytes.
        bytes: usize,
        /// The kernel's error.
        errno: Errno,
        /// What it may mean.
        hint: &'static str,
    },
}

impl MergeableMemory {
    /// Maps `bytes` bytes, a whole number of pages.
    pub fn map(bytes: usize) -> Result<Self, MemoryError> {
        let length = NonZeroUsize::new(bytes)
            .filter(|bytes| bytes.get().is_multiple_of(PAGE_BYTES))
            .ok_or(MemoryError::Size(bytes))?;
        let refused = |what, hint| move |errno| MemoryError::Refused { what, bytes, errno, hint };
        // SAFETY: a new mapping at an address the kernel chooses; no existing memory is touched.
        let start = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        }
        .map_err(refused("map", ""))?;
        // From here on `Drop` unmaps it.
        let memory = Self { start: start.cast(), words: bytes / size_of::<u64>() };
        // SAFETY: the range is the mapping just made; this advice changes no content.
        let huge = unsafe { madvise(start, bytes, MmapAdvise::MADV_NOHUGEPAGE) };
        match huge {
            // A kernel without transparent huge pages needs no advice.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(refused("refuse huge pages for", "")(errno)),
        }
        Ok(memory)
    }

    /// Marks it as mergeable, or unmerges it (MADV_UNMERGEABLE) and forbids merging.
    ///
    /// # Errors
    /// The kernel refuses: it has no KSM, or no memory for the copies.
    pub fn allow_merging(&self, on: bool) -> Result<(), MemoryError> {
        let bytes = self.words * size_of::<u64>();
        let (advice, what, hint) = if on {
            (MmapAdvise::MADV_MERGEABLE, "mark as mergeable", "; EINVAL means a kernel without CONFIG_KSM")
        } else {
            (MmapAdvise::MADV_UNMERGEABLE, "unmerge", "; ENOMEM means that memory for the copies is missing")
        };
        // SAFETY: the range is our mapping; the advice changes which frames hold it, never its content.
        match unsafe { madvise(self.start.cast(), bytes, advice) } {
            // Without KSM nothing is merged, which is what was asked for.
            Err(Errno::EINVAL) if !on => Ok(()),
            result => result.map_err(|errno| MemoryError::Refused { what, bytes, errno, hint }),
        }
    }

    /// Its first byte's address.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// The words.
    pub fn words(&self) -> &[u64] {
        // SAFETY: the mapping is readable, of this length, aligned to a page, zero-filled by the kernel
        // (every pattern is a u64) and lives as long as `self`; `&self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// The words, to be written.
    pub fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.words) }
    }
}

impl Drop for MergeableMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no reference outlives `self`. It cannot fail
        // for a range that was mapped, and there would be nothing to do about it.
        let _ = unsafe { munmap(self.start.cast(), self.words * size_of::<u64>()) };
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and access goes through `&` and `&mut`.
unsafe impl Send for MergeableMemory {}
// SAFETY: as above; `&self` gives shared reads only.
unsafe impl Sync for MergeableMemory {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn memory_is_zero_writable_and_mergeable() {
        let mut memory = MergeableMemory::map(3 * PAGE_BYTES).unwrap();
        memory.allow_merging(true).unwrap();
        assert_eq!(memory.words().len(), 3 * 512);
        assert!(memory.words().iter().all(|word| *word == 0));
        memory.words_mut()[1535] = 7;
        assert_eq!(memory.words()[1535], 7);

        let is_mergeable = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let start = format!("{:x}-", memory.address());
            let flags = smaps
                .lines()
                .skip_while(|line| !line.starts_with(&start))
                .find(|line| line.starts_with("VmFlags:"))
                .expect("the mapping is in smaps");
            flags.split(' ').any(|flag| flag == "mg")
        };
        assert!(is_mergeable());
        memory.allow_merging(false).unwrap();
        assert!(!is_mergeable());
        assert_eq!(memory.words()[1535], 7);
    }

    #[test]
    fn odd_sizes_are_refused() {
        for bytes in [0, 1, PAGE_BYTES + 8] {
            assert!(MergeableMemory::map(bytes).unwrap_err().to_string().contains("whole number of pages"));
        }
    }
}
