//! Page tables that change all the time: whatever a walk finds must be a frame that the process can have mapped.
//!
//! All that the churning processes map in a certain range of addresses is from one pool of frames, which this process
//! keeps: pages of a memfd, and of huge pages. Other processes fill pages with what looks like entries of page tables
//! with other frames, and give them back, so that a table that was freed soon looks like that. A frame that is not of
//! the pool is wrong.
//!
//! `HUDDLE_CHURN_SECONDS` sets how long each part runs.

use std::collections::HashSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mprotect, mremap, munmap};
use nix::unistd::{ForkResult, fork};

use super::entry::{HUGE_PAGES, is_huge_there, is_there};
use super::kernel::{Block, PageTables};
use crate::kernel_access::KernelAccess;
use crate::pagemap::{self, read_entry};
use huddle_host::HostRoot;
use huddle_testing::memory::{Fork, huge};
use huddle_testing::output::say;

const PAGE: usize = 4096;
/// Pages of the memfd.
const POOL_PAGES: usize = 4096;
/// Where the churning processes map what is of the pool, and nothing else.
const RANGE: usize = 0x5000_0000_0000;
const RANGE_BYTES: usize = 1 << 30;
const HUGE_BYTES: usize = PAGE * HUGE_PAGES as usize;

fn seconds() -> Duration {
    let text = std::env::var("HUDDLE_CHURN_SECONDS").ok();
    Duration::from_secs(text.and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// Numbers that look random (xorshift; Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize >> 1
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }
}

fn address(at: usize) -> NonNull<libc::c_void> {
    NonNull::new(at as *mut libc::c_void).unwrap()
}

fn frames_of(start: usize, pages: usize) -> Vec<u64> {
    let own = pagemap::open(&HostRoot::real().proc("self/pagemap")).unwrap();
    let frame = |page| {
        let entry = read_entry(&own, page as u64).unwrap().unwrap();
        assert!(entry.is_present());
        entry.frame()
    };
    (start / PAGE..start / PAGE + pages).map(frame).collect()
}

/// Maps parts of the memfd in the range, moves, protects and unmaps them, and forks.
fn churn(file: &File, seed: u64) -> ! {
    let mut numbers = Numbers(seed);
    loop {
        let place = RANGE + numbers.below(RANGE_BYTES / PAGE - 2 * POOL_PAGES) * PAGE;
        let pages = 1 + numbers.below(POOL_PAGES);
        let bytes = NonZeroUsize::new(pages * PAGE).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let offset = (numbers.below(POOL_PAGES - pages + 1) * PAGE) as libc::off_t;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED | MapFlags::MAP_POPULATE;
        match numbers.below(8) {
            0..=2 => {
                // SAFETY: nothing but such mappings is in the range.
                let _ = unsafe { mmap(NonZeroUsize::new(place), bytes, access, flags, file.as_fd(), offset) };
            }
            3 => {
                // Whole tables are freed, and what this process uses next is most likely on them.
                let place = place / HUGE_BYTES * HUGE_BYTES;
                // SAFETY: as above; nothing refers to any of them.
                let _ = unsafe { munmap(address(place), 8 * HUGE_BYTES) };
                fill_once(32);
            }
            4 => {
                let to = RANGE + numbers.below(RANGE_BYTES / PAGE - 2 * POOL_PAGES) * PAGE;
                let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
                // SAFETY: as above; where it overlaps, the kernel refuses.
                let _ = unsafe { mremap(address(place), bytes.get(), bytes.get(), flags, Some(address(to))) };
            }
            5 => {
                // SAFETY: as above.
                let _ = unsafe { mprotect(address(place), bytes.get(), ProtFlags::PROT_NONE) };
            }
            6 => {
                // SAFETY: as above.
                let _ = unsafe { madvise(address(place), bytes.get(), MmapAdvise::MADV_DONTNEED) };
            }
            // SAFETY: this process has one thread.
            _ => match unsafe { fork() } {
                // SAFETY: ends at once, and runs nothing of this process.
                Ok(ForkResult::Child) => unsafe { libc::_exit(0) },
                Ok(ForkResult::Parent { child }) => _ = nix::sys::wait::waitpid(child, None),
                Err(_) => {}
            },
        }
    }
}

/// Fills pages with entries that no process has, and gives them back.
fn fill_once(pages: usize) {
    let bytes = NonZeroUsize::new(pages * PAGE).unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { nix::sys::mman::mmap_anonymous(None, bytes, access, MapFlags::MAP_PRIVATE) };
    let Ok(map) = map else { return };
    // SAFETY: the mapping is writable, this long, and only used through this.
    let words = unsafe { std::slice::from_raw_parts_mut(map.cast::<u64>().as_ptr(), bytes.get() / 8) };
    // Present, writable, of user space, accessed and dirty, at physical addresses of 2^44 bytes and more.
    words.iter_mut().enumerate().for_each(|(at, word)| *word = 0x67 | 1 << 44 | (at as u64) << 12);
    std::hint::black_box(words);
    // SAFETY: the mapping made above.
    let _ = unsafe { munmap(map, bytes.get()) };
}

fn fill(seed: u64) -> ! {
    let mut numbers = Numbers(seed);
    loop {
        fill_once(1 + numbers.below(2048));
    }
}

/// Forks huge pages, which are of the pool, to a place in the range, and splits them.
fn split(words: &mut [u64], seed: u64) -> ! {
    let mut numbers = Numbers(seed);
    let (start, bytes) = (words.as_ptr() as usize, size_of_val(words));
    loop {
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let to = RANGE + numbers.below(RANGE_BYTES / HUGE_BYTES - 16) * HUGE_BYTES;
                let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
                // SAFETY: this process has the memory for nothing else.
                let moved = unsafe { mremap(address(start), bytes, bytes, flags, Some(address(to))) };
                for _ in 0..20 {
                    let at = to + numbers.below(bytes / PAGE) * PAGE;
                    if moved.is_err() {
                        break;
                    }
                    if numbers.below(2) == 0 {
                        // SAFETY: as above.
                        let _ = unsafe { madvise(address(at), PAGE, MmapAdvise::MADV_DONTNEED) };
                    } else {
                        // SAFETY: as above.
                        let _ = unsafe { mprotect(address(at), PAGE, ProtFlags::PROT_NONE) };
                    }
                }
                // SAFETY: ends at once, and runs nothing of this process.
                unsafe { libc::_exit(0) }
            }
            Ok(ForkResult::Parent { child }) => _ = nix::sys::wait::waitpid(child, None),
            Err(_) => {}
        }
    }
}

/// What walks of changing tables found.
#[derive(Debug, Default)]
struct Found {
    walks: u64,
    pages: u64,
    wrong: u64,
    example: Option<(u64, u64)>,
}

/// Walks the tables of processes, and of the children that one of them has at each moment.
fn walk(
    tables: &PageTables,
    processes: &[i32],
    parent: Option<i32>,
    pool: &HashSet<u64>,
    for_time: Duration,
) -> Found {
    let mut found = Found::default();
    let open = |pid: i32| pagemap::open(&HostRoot::real().proc(format!("{pid}/pagemap"))).ok();
    let opened: Vec<File> = processes.iter().filter_map(|pid| open(*pid)).collect();
    let mut walker = tables.walker(0);
    let began = Instant::now();
    while began.elapsed() < for_time {
        let of_parent: Vec<File> = parent.iter().flat_map(|pid| children_of(*pid)).filter_map(open).collect();
        for file in opened.iter().chain(&of_parent) {
            let Some(top) = tables.top_of(file) else { continue };
            found.walks += 1;
            let range = RANGE as u64..(RANGE + RANGE_BYTES) as u64;
            let walked = walker.blocks(top, range.start, range.end, &mut |first, block| {
                let mut see = |page: u64, frame: u64| {
                    found.pages += 1;
                    if !pool.contains(&frame) {
                        found.wrong += 1;
                        found.example.get_or_insert((page, frame));
                    }
                };
                match block {
                    Block::Table(entries) => {
                        let there = entries.iter().enumerate().filter(|(_, entry)| is_there(**entry));
                        there
                            .for_each(|(at, entry)| see(first / 4096 + at as u64, tables.mask.frame(*entry)));
                    }
                    Block::Huge { entry, pages } if is_huge_there(entry) => {
                        let frame = tables.mask.huge_frame(entry, pages);
                        (0..pages).for_each(|at| see(first / 4096 + at, frame + at));
                    }
                    Block::Huge { .. } => {}
                }
            });
            walked.unwrap();
        }
    }
    found
}

/// Kills children of churning processes too.
fn start(work: impl FnOnce()) -> Fork {
    Fork::that(|| {
        // SAFETY: this process has one thread.
        if let Ok(ForkResult::Child) = unsafe { fork() } {
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            work();
        }
    })
}

fn children_of(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn child_of(fork: &Fork) -> i32 {
    children_of(fork.pid())[0]
}

#[test]
fn no_walk_finds_a_frame_that_is_not_there() {
    let root = HostRoot::real();
    if !nix::unistd::geteuid().is_root() {
        return say("skipped: needs root");
    }
    let tables = match PageTables::open(&root, &KernelAccess::default(), 1) {
        Ok(tables) => tables,
        Err(reason) => return say(&format!("skipped: page tables cannot be read: {reason}")),
    };
    let file = File::from(memfd_create("pool", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len((POOL_PAGES * PAGE) as u64).unwrap();
    let bytes = NonZeroUsize::new(POOL_PAGES * PAGE).unwrap();
    let (access, flags) =
        (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE);
    // SAFETY: a new mapping at an address the kernel chooses; it replaces nothing.
    let own = unsafe { mmap(None, bytes, access, flags, file.as_fd(), 0) }.unwrap();
    // SAFETY: the mapping made above, which stays where it is.
    assert_eq!(unsafe { libc::mlock(own.as_ptr(), bytes.get()) }, 0);
    let mut pool: HashSet<u64> = frames_of(own.as_ptr() as usize, POOL_PAGES).into_iter().collect();
    let mut splitting = None;
    if let Some(words) = huge(8) {
        pool.extend(frames_of(words.as_ptr() as usize, words.len() * 8 / PAGE));
        splitting = Some(start(|| split(words, 77)));
    }
    let churning: Vec<Fork> = (1..=2).map(|seed| start(|| churn(&file, seed * 0x9e37_79b9))).collect();
    let _filling = start(|| fill(5));
    std::thread::sleep(Duration::from_millis(50));
    let processes: Vec<i32> = churning.iter().map(child_of).collect();
    let parent = splitting.as_ref().map(child_of);
    let open = || PageTables::open(&root, &KernelAccess::default(), 1).unwrap();
    for (way, tables) in [
        ("as in a scan", tables),
        ("without RCU", open().without_rcu(1)),
        ("slow, without RCU", open().without_rcu(100)),
    ] {
        let found = walk(&tables, &processes, parent, &pool, seconds());
        say(&format!("{way}: {found:x?}"));
        assert_eq!(found.wrong, 0, "{way}: {found:x?}");
        assert!(found.pages > 10_000, "{way}: {found:?}");
    }
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { munmap(own, bytes.get()) }.unwrap();
}
