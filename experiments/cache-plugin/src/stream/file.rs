//! The file itself, and its mapping.

use std::fs::{File, OpenOptions, Permissions};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::StreamError;
use super::header::{Layout, RingRecords};

/// Longer files are no streams: 64 rings of 16 MiB, and what comes before them.
const MOST_BYTES: u64 = (1 << 30) + (1 << 20);

/// Memory that is shared with another process, as words that both may change at any time. Whoever maps it must be sure
/// that the file is not made shorter: reading beyond its end is a SIGBUS (mmap(2)).
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl Mapping {
    fn of(file: &File, bytes: usize) -> Result<Self, std::io::Error> {
        let length = NonZeroUsize::new(bytes).ok_or_else(|| std::io::Error::other("it is empty"))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start: start.cast(), words: bytes / size_of::<u64>() })
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is ours until `drop`, is page-aligned and of this length, and any bits are an AtomicU64.
        // Other processes write to it only in ways that atomic words allow for.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no reference outlives `self`. It cannot fail for a range
        // that was mapped, and there would be nothing to do about it.
        let _ = unsafe { munmap(self.start.cast(), self.words * size_of::<u64>()) };
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and its words are atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// A stream that a runner made. It is in no directory: when both sides have let go of it, it is gone.
#[derive(Debug)]
pub struct StreamFile {
    file: File,
    layout: Layout,
    mapping: Arc<Mapping>,
}

impl StreamFile {
    /// Makes an empty stream for a VM. Only this user can open it (mode 0600), and nobody can change its size, since
    /// it is sealed (fcntl(2), F_SEAL_SHRINK): what is mapped here stays.
    ///
    /// # Errors
    /// The host has no memory for it, or no memfd_create(2) (Linux 3.17).
    pub fn create(vcpus: usize, records: RingRecords) -> Result<Self, StreamError> {
        let layout = Layout::new(vcpus, records)?;
        let failed = |call| move |errno: Errno| StreamError::Make { call, source: errno.into() };
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"huddle-accesses", flags).map_err(failed("memfd_create"))?);
        let made = |call| move |source| StreamError::Make { call, source };
        file.set_permissions(Permissions::from_mode(0o600)).map_err(made("fchmod"))?;
        // All of it now: memory that is missing later would be a SIGBUS.
        fallocate(&file, FallocateFlags::empty(), 0, layout.bytes() as i64).map_err(failed("fallocate"))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed("fcntl"))?;
        let mapping = Arc::new(Mapping::of(&file, layout.bytes()).map_err(made("mmap"))?);
        layout.write(mapping.words());
        Ok(Self { file, layout, mapping })
    }

    /// The path by which another process of this user can open it, as long as this one runs.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// How many vCPUs it is for.
    pub fn vcpus(&self) -> usize {
        self.layout.vcpus
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }
}

/// Maps the stream at `path`.
///
/// # Errors
/// It cannot be opened, or is none.
pub(super) fn open(path: &Path) -> Result<(Layout, Mapping), StreamError> {
    let failed = |source| StreamError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(StreamError::Unusable(format!("{} is no file of a stream's size", path.display())));
    }
    let mapping = Mapping::of(&file, metadata.len() as usize).map_err(failed)?;
    Ok((Layout::of(mapping.words())?, mapping))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::Ordering::Relaxed;

    use super::super::header::{MAGIC_WORD, VERSION_WORD};
    use super::*;

    fn stream() -> StreamFile {
        StreamFile::create(2, RingRecords::new(256).unwrap()).unwrap()
    }

    #[test]
    fn a_stream_is_of_its_user_alone_and_keeps_its_size() {
        let stream = stream();
        let metadata = std::fs::metadata(stream.path()).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let other = OpenOptions::new().read(true).write(true).open(stream.path()).unwrap();
        for bytes in [0, metadata.len() - 1, metadata.len() + 1] {
            assert!(other.set_len(bytes).is_err(), "{bytes}");
        }
        let (layout, _) = open(&stream.path()).unwrap();
        assert_eq!(layout, stream.layout());
        let path = stream.path();
        drop((stream, other));
        assert!(!path.exists(), "in no directory, so it is gone");
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let dir = std::env::temp_dir();
        for path in [dir.as_path(), Path::new("/dev/null"), Path::new("/nowhere")] {
            assert!(open(path).is_err(), "{}", path.display());
        }
        for word in [MAGIC_WORD, VERSION_WORD, 2, 3, 4] {
            let stream = stream();
            let words = stream.mapping.words();
            for wrong in [0, u64::MAX, words[word].load(Relaxed) * 2, 7] {
                words[word].store(wrong, Relaxed);
                assert!(open(&stream.path()).is_err(), "word {word}: {wrong}");
            }
        }
    }
}
