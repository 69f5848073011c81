//! Memory that KSM may merge by its marks and may not because it is pinned: buffers registered with io_uring.

use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, OwnedFd};

use huddle_host::HostRoot;
use huddle_host::discover::{DiscoverOptions, Discoverer, NamedProcess};
use huddle_host::status::{KeptInPlace, kept_in_place};
use huddle_model::vm::MemoryKind;
use huddle_testing::output::say;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

const LENGTH: NonZeroUsize = NonZeroUsize::new(16 << 20).unwrap();

/// `IORING_REGISTER_BUFFERS` (include/uapi/linux/io_uring.h, Linux 6.18).
const REGISTER_BUFFERS: libc::c_uint = 0;

/// Bytes of `struct io_uring_params`.
const PARAMS: usize = 120;

/// A ring that has the memory as its buffer, so that the kernel keeps it in place.
fn register(start: *mut libc::c_void) -> Result<OwnedFd, Errno> {
    let mut params = [0_u64; PARAMS / 8];
    // SAFETY: io_uring_setup(2) writes to the parameters only, which are as large as it takes them to be.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4_u32, params.as_mut_ptr()) };
    let number = i32::try_from(Errno::result(ring)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the descriptor is new, and nothing else has it.
    let ring = unsafe { OwnedFd::from_raw_fd(number) };
    let buffer = libc::iovec { iov_base: start, iov_len: LENGTH.get() };
    // SAFETY: io_uring_register(2) reads one iovec, of memory that is mapped until after the ring is closed; nothing
    // is ever read into it.
    let registered = unsafe {
        libc::syscall(libc::SYS_io_uring_register, number, REGISTER_BUFFERS, &raw const buffer, 1_u32)
    };
    Errno::result(registered).map(|_| ring)
}

#[test]
fn memory_that_is_registered_with_io_uring_is_named_as_pinned() {
    let pid = i32::try_from(std::process::id()).unwrap();
    let root = HostRoot::real();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
    let memory = unsafe { mmap_anonymous(None, LENGTH, protection, MapFlags::MAP_PRIVATE) }.unwrap();
    // SAFETY: the mapping above; the advice changes nothing that can be seen in it.
    if let Err(errno) = unsafe { madvise(memory, LENGTH.get(), MmapAdvise::MADV_MERGEABLE) } {
        assert!(std::env::var_os("CI").is_none(), "CI needs a kernel with KSM");
        return say(&format!("skipped: this kernel has no KSM ({errno})"));
    }
    let processes = vec![NamedProcess { name: "own".into(), pid }];
    let options = DiscoverOptions { processes, scan_host: false, ..DiscoverOptions::default() };
    let mut discoverer = Discoverer::new(root.clone(), options);
    let pinned = |discoverer: &mut Discoverer| {
        let vm = discoverer.discover().unwrap().vms.remove(0);
        assert!(vm.memory_bytes(MemoryKind::Mergeable) >= LENGTH.get() as u64);
        vm.cannot_merge.into_iter().find(|reason| reason.contains("pinned"))
    };
    assert_eq!(pinned(&mut discoverer), None);
    let ring = match register(memory.as_ptr()) {
        Ok(ring) => ring,
        Err(errno) => {
            assert!(std::env::var_os("CI").is_none(), "CI needs io_uring: {errno}");
            return say(&format!("skipped: io_uring takes no buffers here ({errno})"));
        }
    };
    assert_eq!(kept_in_place(&root, pid).unwrap(), KeptInPlace { pinned: 16 << 20, locked: 0 });
    let reason = pinned(&mut discoverer).unwrap();
    assert!(reason.starts_with("16 MiB of the memory of its process is pinned"), "{reason}");
    drop(ring);
    // SAFETY: the mapping above; nothing refers to it any more.
    unsafe { munmap(memory, LENGTH.get()) }.unwrap();
}
