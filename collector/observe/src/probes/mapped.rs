//! A BPF array mapped into this process, read without a system call.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapError};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::ProbeError;

/// The elements of an array map made with `BPF_F_MMAPABLE`, each `WORDS` words of 64 bits.
pub(super) struct MappedArray<const WORDS: usize> {
    start: NonNull<AtomicU64>,
    bytes: usize,
    elements: usize,
}

impl<const WORDS: usize> MappedArray<WORDS> {
    /// Maps all `elements` of the map. The mapping keeps the map alive by itself.
    pub(super) fn new(name: &'static str, map: &Map, elements: usize) -> Result<Self, ProbeError> {
        let failed = |errno: Errno| ProbeError::Map { map: name, source: MapError::IoError(errno.into()) };
        let bytes = elements.checked_mul(WORDS * 8).and_then(NonZeroUsize::new);
        let (Some(bytes), Map::Array(data)) = (bytes, map) else { return Err(failed(Errno::EINVAL)) };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) }
                .map_err(failed)?;
        Ok(Self { start: start.cast(), bytes: bytes.get(), elements })
    }

    /// The words of one element, each read at once; the element as a whole may change in between.
    pub(super) fn read(&self, index: usize) -> Option<[u64; WORDS]> {
        if index >= self.elements {
            return None;
        }
        Some(std::array::from_fn(|word| {
            // SAFETY: within the mapping, aligned (elements are whole words from the start of a page),
            // and shared with the kernel, which is why it is read as an atomic.
            let word = unsafe { self.start.add(index * WORDS + word).as_ref() };
            word.load(Ordering::Acquire)
        }))
    }
}

impl<const WORDS: usize> Drop for MappedArray<WORDS> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it beyond `self`.
        if let Err(errno) = unsafe { munmap(self.start.cast(), self.bytes) } {
            tracing::warn!("a BPF array cannot be unmapped: {errno}");
        }
    }
}

// SAFETY: the mapping is reached through atomics alone and belongs to no thread.
unsafe impl<const WORDS: usize> Send for MappedArray<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for MappedArray<WORDS> {}
