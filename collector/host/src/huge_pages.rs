//! Transparent huge pages: `/sys/kernel/mm/transparent_hugepage`
//! (Documentation/admin-guide/mm/transhuge.rst, Linux 6.18).
//!
//! A kernel without them is an error for which [`HostError::is_gone`] is true.

use std::path::PathBuf;

use super::{HostError, HostRoot, read_line, read_number};

/// Who gets them, with the choice in brackets ([`huddle_model::text::chosen`]): `always [madvise] never`.
pub fn enabled(root: &HostRoot) -> Result<String, HostError> {
    read_line(&file(root, "enabled"))
}

/// Whether khugepaged may compact memory to make them: 0 or 1.
pub fn khugepaged_defrag(root: &HostRoot) -> Result<String, HostError> {
    read_line(&file(root, "khugepaged/defrag"))
}

/// How many pages khugepaged looks at in one round.
pub fn khugepaged_pages_to_scan(root: &HostRoot) -> Result<u64, HostError> {
    read_number(&file(root, "khugepaged/pages_to_scan"))
}

fn file(root: &HostRoot, name: &str) -> PathBuf {
    root.sys("kernel/mm/transparent_hugepage").join(name)
}
