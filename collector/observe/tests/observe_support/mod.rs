//! Shared support of the probes' tests: the lock on KSM with its settings restored, and mergeable memory.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "support of tests; each uses a part"
)]

pub mod worker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Mutex;

use huddle_testing::memory::page_bytes;
use huddle_testing::output::skip;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

const KSM: &str = "/sys/kernel/mm/ksm";

/// Why the real kernel cannot be tested here.
pub fn missing() -> Option<String> {
    if let Some(reason) = not_root() {
        return Some(reason);
    }
    for path in [KSM, "/sys/kernel/btf/vmlinux"] {
        if !PathBuf::from(path).exists() {
            return Some(format!("this kernel has no {path}"));
        }
    }
    None
}

/// Name and function of a test.
pub type Test = (&'static str, fn() -> Result<(), Failed>);

/// Runs the tests and ends this program; with a reason why they cannot run, prints it and skips them, or fails in CI.
/// `is_sequential`: one test at a time.
pub fn run(missing: Option<String>, is_sequential: bool, tests: &[Test]) -> ! {
    let trial = |(name, test): &Test| match missing.as_deref().map(|reason| skip(name, reason)) {
        None => Trial::test(*name, *test),
        Some(Ok(())) => Trial::test(*name, *test).with_ignored_flag(true),
        Some(Err(failure)) => Trial::test(*name, move || Err(failure.into())),
    };
    let mut arguments = Arguments::from_args();
    if is_sequential {
        arguments.test_threads = Some(1);
    }
    libtest_mimic::run(&arguments, tests.iter().map(trial).collect()).exit()
}

/// Why a test that needs root cannot run.
pub fn not_root() -> Option<String> {
    (!nix::unistd::geteuid().is_root()).then(|| "not root".into())
}

/// Exclusive use of KSM on this machine; dropping it restores every setting.
pub struct KsmLock {
    before: Mutex<BTreeMap<&'static str, String>>,
    _lock: Flock<File>,
}

impl KsmLock {
    /// Waits until no other test uses KSM.
    pub fn take() -> Self {
        let file = File::create("/run/lock/huddle-ksm-test.lock").unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
        Self { before: Mutex::default(), _lock: lock }
    }

    /// Writes one setting.
    pub fn set(&self, name: &'static str, value: u64) {
        let path = format!("{KSM}/{name}");
        let before = fs::read_to_string(&path).unwrap();
        self.before.lock().unwrap().entry(name).or_insert(before);
        fs::write(path, value.to_string()).unwrap();
    }
}

impl Drop for KsmLock {
    fn drop(&mut self) {
        // `run` first, so that ksmd stops before it is slowed down.
        let before = self.before.lock().unwrap();
        for (name, value) in before.iter().filter(|(name, _)| **name == "run").chain(before.iter()) {
            fs::write(format!("{KSM}/{name}"), value.trim()).unwrap();
        }
    }
}

/// Private anonymous memory of this process that KSM may merge.
pub struct MergeableMemory {
    start: NonNull<std::ffi::c_void>,
    pages: usize,
}

impl MergeableMemory {
    /// Fills each page with the content number that `content` returns.
    pub fn new(pages: usize, content: impl Fn(usize) -> usize) -> Self {
        let length = NonZeroUsize::new(pages * page_bytes()).unwrap();
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new anonymous mapping touches no existing memory.
        let start =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
                .unwrap();
        let memory = Self { start, pages };
        for page in 0..pages {
            memory.write(page, content(page));
        }
        for advice in [MmapAdvise::MADV_NOHUGEPAGE, MmapAdvise::MADV_MERGEABLE] {
            // SAFETY: the range is this mapping; both advices keep its content.
            unsafe { madvise(start, length.get(), advice) }.unwrap();
        }
        memory
    }

    /// Untouched memory, so that each first access to a page is one page fault.
    pub fn untouched(pages: usize) -> Self {
        let length = NonZeroUsize::new(pages * page_bytes()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: as in `new`.
        let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }.unwrap();
        // SAFETY: as in `new`.
        unsafe { madvise(start, length.get(), MmapAdvise::MADV_NOHUGEPAGE) }.unwrap();
        Self { start, pages }
    }

    /// Writes one byte of a page.
    pub fn touch(&self, page: usize) {
        assert!(page < self.pages);
        // SAFETY: as in `write`.
        unsafe { self.start.as_ptr().cast::<u8>().add(page * page_bytes()).write_volatile(1) };
    }

    /// Writes content number `content` to a page; pages of one number are equal, of two are not.
    pub fn write(&self, page: usize, content: usize) {
        assert!(page < self.pages);
        // SAFETY: within the mapping, which lives as long as `self` and has no other user.
        let bytes = unsafe {
            let at = self.start.as_ptr().cast::<u8>().add(page * page_bytes());
            std::slice::from_raw_parts_mut(at, page_bytes())
        };
        let mut state = content as u64 + 1;
        for word in bytes.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_ne_bytes());
        }
    }
}

impl Drop for MergeableMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { munmap(self.start, self.pages * page_bytes()) }.unwrap();
    }
}
