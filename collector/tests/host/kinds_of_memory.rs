//! The sharing scan on every kind of memory, and on what can happen to it: by page tables and by pagemap alike.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::process::Command;
use std::ptr::NonNull;

use huddle_host::limits::Limits;
use huddle_host::maps::{maps_text, parse_maps};
use huddle_host::{HostRoot, task};
use huddle_model::vm::{GuestRegion, MemoryKind, Vm};
use huddle_sharing::Measurement;
use huddle_testing::memory::{Fork, huge};
use huddle_testing::output::say;
use libtest_mimic::Trial;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, mmap_anonymous};

use crate::map::{Map, PAGE, vm};
use crate::reference::{assert_is_reference, measure, memory};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("memory_protected", protected),
        trial("memory_partly_written_forks", partly_written_forks),
        trial("memory_of_split_huge_pages", split_huge_pages),
        trial("memory_on_the_huge_zero_page", huge_zero_page),
        trial("memory_in_swap", in_swap),
        trial("memory_write_protected_by_userfaultfd", write_protected),
        trial("memory_of_memfds", memfds),
        trial("memory_of_files", files),
        trial("memory_given_back", given_back),
        trial("memory_of_hugetlb", hugetlb),
        trial("memory_of_whole_processes", whole_processes),
    ]
}

/// Measures this process and a child by every way.
fn check(maps: &[Map], child: &Fork) -> Measurement {
    let vms = [vm("parent", std::process::id() as i32, maps), vm("child", child.pid(), maps)];
    let found = measure(&vms);
    assert_is_reference(&found, &vms);
    found
}

fn shared(found: &Measurement) -> (u64, u64) {
    (found.matrix.shared_frames(0, 1).unwrap(), found.matrix.shared_file_frames(0, 1).unwrap_or(0))
}

/// Pages that cannot be written look as if others mapped them, and pages without any access have their frame inverted.
fn protected() {
    let map = Map::written(2000);
    let child = Fork::that(|| {
        map.write(0..100, 2);
        map.advise(500..600, MmapAdvise::MADV_DONTNEED);
        map.protect(1000..1300, ProtFlags::PROT_NONE);
    });
    map.write(1900..2000, 3);
    map.protect(50..200, ProtFlags::PROT_READ);
    map.protect(300..550, ProtFlags::PROT_NONE);
    map.protect(1950..1960, ProtFlags::PROT_NONE);
    let found = check(&[map], &child);
    assert_eq!(shared(&found), (2000 - 100 - 100 - 100, 0));
    assert_eq!([0, 1].map(|vm| memory(&found, vm).frames_used), [2000, 1900]);
}

fn partly_written_forks() {
    let map = Map::written(5000);
    let first = Fork::that(|| (0..5000).step_by(3).for_each(|page| map.write(page..page + 1, 2)));
    let second = Fork::that(|| map.write(1024..1536, 3));
    (0..5000).step_by(7).for_each(|page| map.write(page..page + 1, 4));
    let vms = [
        vm("parent", std::process::id() as i32, &[map]),
        vm("first", first.pid(), &[map]),
        vm("second", second.pid(), &[map]),
    ];
    let found = measure(&vms);
    assert_is_reference(&found, &vms);
    let unwritten = |by: &dyn Fn(usize) -> bool| (0..5000).filter(|page| !by(*page)).count() as u64;
    let in_second = |page: usize| (1024..1536).contains(&page);
    let expected = [
        (0, 1, unwritten(&|page| page % 3 == 0 || page % 7 == 0)),
        (0, 2, unwritten(&|page| in_second(page) || page % 7 == 0)),
        (1, 2, unwritten(&|page| page % 3 == 0 || in_second(page))),
    ];
    for (i, j, frames) in expected {
        assert_eq!(found.matrix.shared_frames(i, j), Some(frames), "{i} {j}");
    }
}

fn of_huge(count: usize) -> Option<Map> {
    let words = huge(count)?;
    let start = NonNull::new(words.as_mut_ptr().cast()).unwrap();
    Some(Map { start, pages: count * 512, kind: MemoryKind::Anonymous })
}

/// A huge frame is one unit of the count until a process maps a part of it.
fn split_huge_pages() {
    let Some(map) = of_huge(8) else { return say("skipped: this kernel gives no huge pages") };
    let whole = Fork::that(|| ());
    assert_eq!(shared(&check(&[map], &whole)), (8 * 512, 0));
    drop(whole);
    let child = Fork::that(|| {
        map.advise(3..7, MmapAdvise::MADV_DONTNEED);
        map.protect(600..700, ProtFlags::PROT_READ);
        map.protect(1100..1200, ProtFlags::PROT_NONE);
        map.write(2000..2001, 2);
        // The whole of two huge pages.
        map.protect(3072..4096, ProtFlags::PROT_NONE);
    });
    let frames = 8 * 512 - 4 - 1;
    assert_eq!(shared(&check(&[map], &child)), (frames, 0));
    // The same twice in one VM.
    let parent = vm("parent", std::process::id() as i32, &[map]);
    let both = Vm::of_process(
        "both",
        parent.process().unwrap(),
        [parent.memory, vm("child", child.pid(), &[map]).memory].concat(),
    );
    let found = measure(&[both]);
    assert_eq!(memory(&found, 0).self_shared_pages, 2 * frames);
    // Other parts of it are another VM's, so that nothing is whole.
    let part = |first: usize, pages: usize| Map { start: map.at(first), pages, ..map };
    let maps = [part(0, 1000), part(1000, 1500), part(2500, 1596)];
    assert_eq!(shared(&check(&maps, &child)), (frames, 0));
    map.write(5 * 512 + 100..5 * 512 + 101, 3);
    assert_eq!(shared(&check(&[map], &child)), (frames - 1, 0));
}

fn huge_zero_page() {
    let Some(map) = of_huge(3) else { return say("skipped: this kernel gives no huge pages") };
    let child = Fork::that(|| {
        map.advise(0..1024, MmapAdvise::MADV_DONTNEED);
        map.read(0..1024);
    });
    map.advise(512..1536, MmapAdvise::MADV_DONTNEED);
    map.read(512..1536);
    let found = check(&[map], &child);
    assert_eq!([0, 1].map(|vm| memory(&found, vm).pages_zero), [1024, 1024], "zero pages of either size");
    assert_eq!(shared(&found), (0, 0));
}

/// Swap in a file, for as long as this lives.
struct Swap(tempfile::NamedTempFile);

impl Swap {
    fn on() -> Result<Self, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Written, since a file with holes is refused.
        std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut file.as_file()).unwrap();
        for program in ["mkswap", "swapon"] {
            let output = Command::new(program).arg(file.path()).output();
            let output = output.map_err(|error| format!("{program} does not run: {error}"))?;
            if !output.status.success() {
                return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
        }
        Ok(Self(file))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let off = Command::new("swapoff").arg(self.0.path()).status();
        assert!(
            off.is_ok_and(|status| status.success()),
            "{} is still used for swap",
            self.0.path().display()
        );
    }
}

fn in_swap() {
    let _swap = match Swap::on() {
        Ok(swap) => swap,
        Err(reason) => return say(&format!("skipped: {reason}")),
    };
    let map = Map::written(3000);
    let child = Fork::that(|| map.write(0..1000, 2));
    map.advise(500..2000, MmapAdvise::MADV_PAGEOUT);
    let found = check(&[map], &child);
    let resident = memory(&found, 0).pages_resident;
    assert!(resident < 3000, "nothing was swapped out");
    // Some come back, and are shared as far as both have them.
    map.read(1500..1600);
    check(&[map], &child);
}

/// userfaultfd(2) and ioctl_userfaultfd(2).
fn write_protected() {
    const API: u64 = 0xaa;
    #[repr(C)]
    struct Api {
        api: u64,
        features: u64,
        calls: u64,
    }
    #[repr(C)]
    struct Register {
        start: u64,
        bytes: u64,
        mode: u64,
        calls: u64,
    }
    #[repr(C)]
    struct Protect {
        start: u64,
        bytes: u64,
        mode: u64,
    }
    let map = Map::written(1000);
    // SAFETY: takes no address.
    let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if descriptor < 0 {
        return say("skipped: this kernel has no userfaultfd");
    }
    let call = |number: libc::c_ulong, argument: *mut libc::c_void| {
        // SAFETY: each call gets its own structure, which lives through it.
        unsafe { libc::ioctl(descriptor as i32, number, argument) }
    };
    let (start, bytes) = (map.start.as_ptr() as u64, (map.pages * PAGE) as u64);
    let mut api = Api { api: API, features: 0, calls: 0 };
    let mut register = Register { start, bytes, mode: 1 << 1, calls: 0 };
    let mut protect = Protect { start, bytes: bytes / 2, mode: 1 };
    if call(0xc018_aa3f, (&raw mut api).cast()) != 0
        || call(0xc020_aa00, (&raw mut register).cast()) != 0
        || call(0xc018_aa06, (&raw mut protect).cast()) != 0
    {
        return say("skipped: this kernel has no write protection by userfaultfd");
    }
    let child = Fork::that(|| map.write(800..1000, 2));
    assert_eq!(shared(&check(&[map], &child)), (800, 0));
    // SAFETY: the descriptor of this test, which nothing uses after it.
    unsafe { libc::close(descriptor as i32) };
}

/// A memfd of so many pages.
fn memfd(pages: usize) -> File {
    let file =
        File::from(nix::sys::memfd::memfd_create("guest", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len((pages * PAGE) as u64).unwrap();
    file
}

fn memfds() {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let [both, own, twice] = [800, 700, 600].map(memfd);
    let shared_map = |file: &File, pages| {
        let map = Map::of_file(file.as_fd(), pages, access, MapFlags::MAP_SHARED, MemoryKind::SharedMemory);
        map.write(0..pages - 100, 1);
        map
    };
    let (of_both, of_twice) = (shared_map(&both, 800), shared_map(&twice, 600));
    let again = Map::of_file(twice.as_fd(), 300, access, MapFlags::MAP_SHARED, MemoryKind::SharedMemory);
    // Not read: that would map more pages around each.
    again.write(0..200, 1);
    let child = Fork::that(|| of_both.write(0..650, 2));
    let of_own = shared_map(&own, 700);
    let own_vm = vm("own", std::process::id() as i32, &[of_both, of_own, of_twice, again]);
    let vms = [own_vm, vm("child", child.pid(), &[of_both])];
    let found = measure(&vms);
    assert_is_reference(&found, &vms);
    // A child maps what it has touched: nothing is copied for shared mappings.
    assert_eq!(shared(&found), (650, 650));
    let of_own = memory(&found, 0);
    assert_eq!((of_own.pages_file, of_own.frames_used), (Some(700 + 600 + 500 + 200), 700 + 600 + 500));
    assert_eq!(of_own.self_shared_pages, 400);
    // A private mapping of the same file sees its pages until it writes them.
    let private = Map::of_file(both.as_fd(), 800, access, MapFlags::MAP_PRIVATE, MemoryKind::PrivateFile);
    private.read(0..300);
    private.write(0..100, 3);
    let vms = [vm("private", std::process::id() as i32, &[private]), vm("child", child.pid(), &[of_both])];
    let found = measure(&vms);
    assert_is_reference(&found, &vms);
    // Reading maps up to 15 pages around it.
    let (frames, of_file) = shared(&found);
    assert!(frames == of_file && (200..=216).contains(&frames), "{frames} {of_file}");
}

fn files() {
    let mut file = tempfile::tempfile_in(std::env::temp_dir()).unwrap();
    (0..1200u64).for_each(|page| file.write_all(&[page as u8 | 1; PAGE]).unwrap());
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let of = |access, flags, kind| Map::of_file(file.as_fd(), 1200, access, flags, kind);
    let private = of(access, MapFlags::MAP_PRIVATE, MemoryKind::PrivateFile);
    let read_only = of(ProtFlags::PROT_READ, MapFlags::MAP_SHARED, MemoryKind::SharedFile);
    private.read(0..1000);
    private.write(0..300, 2);
    private.protect(700..800, ProtFlags::PROT_NONE);
    let child = Fork::that(|| {
        private.read(0..700);
        private.write(200..500, 3);
        read_only.read(0..50);
    });
    read_only.read(0..600);
    let found = check(&[private, read_only], &child);
    // What both still have of the template's pages, anonymous copies that neither wrote again, and the pages of the
    // file that each maps twice or not.
    assert!(found.matrix.shared_frames(0, 1) > found.matrix.shared_file_frames(0, 1));
    assert!(memory(&found, 0).self_shared_pages > 0 && memory(&found, 1).pages_file > Some(500));
}

/// As by a guest's balloon.
fn given_back() {
    let map = Map::written(4096);
    let file = memfd(2048);
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let of_file = Map::of_file(file.as_fd(), 2048, access, MapFlags::MAP_SHARED, MemoryKind::SharedMemory);
    of_file.write(0..2048, 1);
    let child = Fork::that(|| {
        of_file.read(0..2048);
        (0..4096).step_by(64).for_each(|page| map.advise(page..page + 16, MmapAdvise::MADV_DONTNEED));
        of_file.advise(100..1100, MmapAdvise::MADV_REMOVE);
    });
    map.advise(1000..3000, MmapAdvise::MADV_DONTNEED);
    let found = check(&[map, of_file], &child);
    let both = (0..4096).filter(|page| !(1000..3000).contains(page) && page % 64 >= 16).count() as u64;
    assert_eq!(shared(&found), (both + 1048, 1048));
}

fn hugetlb() {
    const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
    let before = std::fs::read_to_string(RESERVED).unwrap_or_default();
    let Ok(pages) = before.trim().parse::<u64>() else { return say("skipped: this kernel has no hugetlb") };
    std::fs::write(RESERVED, (pages + 6).to_string()).unwrap();
    let length = NonZeroUsize::new(3 * 512 * PAGE).unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let map = |flags| {
        let flags = flags | MapFlags::MAP_HUGETLB;
        // SAFETY: a new mapping at an address the kernel chooses; it replaces nothing.
        let start = unsafe { mmap_anonymous(None, length, access, flags) }.ok()?;
        Some(Map { start, pages: 3 * 512, kind: MemoryKind::HugeTlb })
    };
    let maps = map(MapFlags::MAP_SHARED).zip(map(MapFlags::MAP_PRIVATE));
    let check_both = |(of_all, private): (Map, Map)| {
        of_all.write(0..1024, 1);
        private.write(0..1024, 2);
        let child = Fork::that(|| of_all.read(0..1024));
        let found = check(&[of_all, private], &child);
        assert_eq!(shared(&found), (2048, 1024));
    };
    let result = std::panic::catch_unwind(|| maps.map(check_both));
    for map in maps.into_iter().flat_map(|(left, right)| [left, right]) {
        // SAFETY: the mapping made above, which nothing uses any more.
        unsafe { nix::sys::mman::munmap(map.start, length.get()) }.unwrap();
    }
    std::fs::write(RESERVED, before).unwrap();
    match result {
        Ok(Some(())) => {}
        Ok(None) => say("skipped: no memory for hugetlb"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// All that two processes map: programs, libraries, heaps, stacks, pages of the kernel.
fn whole_processes() {
    let map = Map::written(3000);
    let children = [Fork::that(|| map.write(0..10, 2)), Fork::that(|| map.write(5..20, 3))];
    let vms = [0, 1].map(|at| {
        let pid = children[at].pid();
        let process = task::process(&HostRoot::real(), pid).unwrap().id;
        let text = maps_text(&HostRoot::real(), pid, &Limits::default()).unwrap();
        let mappings = parse_maps(&HostRoot::real(), pid, &text).unwrap();
        // Neither can be read through the memory of the process, as the reference does.
        let mappings = mappings.iter().filter(|mapping| !mapping.name.starts_with("[v"));
        let memory = mappings.map(|mapping| GuestRegion {
            process: Some(process),
            start: mapping.start,
            end: mapping.end,
            kind: match (mapping.file, mapping.shared) {
                (None, _) => MemoryKind::Anonymous,
                (Some(_), false) => MemoryKind::PrivateFile,
                (Some(_), true) => MemoryKind::SharedFile,
            },
        });
        Vm::of_process(["first", "second"][at], process, memory.collect())
    });
    let found = measure(&vms);
    assert_is_reference(&found, &vms);
    assert!(
        found.matrix.shared_file_frames(0, 1) > Some(100) && found.matrix.shared_frames(0, 1) > Some(3000)
    );
}
