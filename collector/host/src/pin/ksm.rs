//! The settings of KSM: writing files of `/sys/kernel/mm/ksm`
//! (Documentation/admin-guide/mm/ksm.rst, Linux 6.18).

use std::fs::OpenOptions;
use std::io::{self, Write};

use crate::HostRoot;
use crate::ksm::file as path_of;

/// The files that huddle writes, and nothing else: a journal cannot make it write elsewhere.
pub const SETTINGS: [&str; 13] = [
    "run",
    "pages_to_scan",
    "sleep_millisecs",
    "smart_scan",
    "merge_across_nodes",
    "max_page_sharing",
    "use_zero_pages",
    "stable_node_chains_prune_millisecs",
    "advisor_mode",
    "advisor_max_cpu",
    "advisor_target_scan_time",
    "advisor_min_pages_to_scan",
    "advisor_max_pages_to_scan",
];

pub(super) use crate::ksm::setting as read;

/// Writes a setting that exists.
pub(super) fn write(root: &HostRoot, file: &str, value: &str) -> io::Result<()> {
    let path = path_of(root, file);
    // One write call, since sysfs takes each as a whole value, and no truncation before it: there must
    // be no moment at which a kill leaves the file without a value, in a tree of fixtures either.
    let line = format!("{value}\n");
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(line.as_bytes())?;
    // Only a fixture has an old tail to cut; on sysfs the value is set whatever this says.
    let _ = file.set_len(line.len() as u64);
    Ok(())
}

/// What the user can do about a refused write.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ResourceBusy => {
            "the kernel takes it only while no page is merged: write 2 to run first, which unmerges all"
        }
        io::ErrorKind::InvalidInput => {
            "the value is out of range, or an advisor governs the setting (advisor_mode)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "run as root, with a writable /sys"
        }
        io::ErrorKind::NotFound => "this kernel does not have the setting",
        _ => "see dmesg",
    }
}
