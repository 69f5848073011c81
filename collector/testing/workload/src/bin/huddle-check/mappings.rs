//! The flags of mappings as discovery reads them in the kernel's memory, beside smaps.

use std::num::NonZeroUsize;

use huddle_host::HostRoot;
use huddle_host::limits::{Budget, Limits};
use huddle_host::maps::{self, FlagSource as _};
use huddle_sharing::{KernelAccess, KernelMappings};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, SysconfVar, fork, pause, sysconf};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("mappings::flags_are_those_of_smaps", flags_are_those_of_smaps)];

/// As many mappings of one page each.
const MAPPINGS: usize = 1000;

fn flags_are_those_of_smaps() {
    let page = usize::try_from(sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap();
    let length = NonZeroUsize::new(MAPPINGS * page).unwrap();
    // SAFETY: a new private mapping at an address the kernel chooses; it replaces nothing.
    let map = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) }.unwrap();
    for at in (0..MAPPINGS).step_by(2) {
        // SAFETY: within the mapping made above, which nothing else uses.
        unsafe { mprotect(map.byte_add(at * page), page, ProtFlags::PROT_WRITE) }.unwrap();
    }
    // SAFETY: as above; it is in the middle, and is every other page.
    unsafe { madvise(map.byte_add(MAPPINGS / 2 * page), page, MmapAdvise::MADV_MERGEABLE) }.unwrap();

    // SAFETY: the child only waits to be killed: nothing there needs another thread.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => loop {
            pause();
        },
        ForkResult::Parent { child } => child,
    };
    let compared = compare(child.as_raw());
    kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap();
    println!("{} mappings have the flags of smaps", compared.unwrap());
}

/// Number of mappings of a process that changes nothing.
fn compare(pid: i32) -> Result<usize, String> {
    let (root, limits) = (HostRoot::real(), Limits::default());
    let text = maps::maps_text(&root, pid, &limits).map_err(|error| error.to_string())?;
    let mut mappings = maps::parse_maps(&root, pid, &text).map_err(|error| error.to_string())?;
    let source = KernelMappings::new(root.clone(), KernelAccess::default());
    let time = Budget::of_round(&limits).vm();
    source.fill(pid, &mut mappings, time).map_err(|error| error.to_string())?;
    let marked = mappings.iter().filter(|mapping| mapping.flags.is_some_and(|flags| flags.mergeable)).count();
    let smaps = maps::smaps(&root, pid, &limits).map_err(|error| error.to_string())?;
    if mappings != smaps || marked != 1 {
        return Err(format!("{marked} marked: {mappings:?} {smaps:?}"));
    }
    Ok(mappings.len())
}
