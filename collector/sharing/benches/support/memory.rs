//! What a piece of work takes of memory.

use std::fs;

/// Most resident memory during `work` beyond what there was before, in MiB (proc(5): clear_refs 5 and VmHWM).
pub(crate) fn extra_mib(work: impl FnOnce()) -> f64 {
    // What earlier work freed and the allocator keeps would hide what this one needs.
    // SAFETY: gives back free memory of the allocator, which nothing refers to.
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
