//! How the pages of a region are read, which depends on what is mapped there now.
//!
//! An anonymous page that more than one entry maps can be written through none of them (`wp_page_copy` and
//! `copy_present_ptes` in mm/memory.c, `replace_page` in mm/ksm.c, Linux 6.18), nor can a page of the page cache
//! through a private mapping. So in private mappings a page that can be written is alone on its frame. In shared mappings
//! nothing of that kind is known, but two processes map the same pages there only if they map the same file.

use std::collections::BTreeMap;
use std::ops::Range;

use huddle_host::limits::Limits;
use huddle_host::maps::{FileId, Mapping, maps_text, parse_maps};
use huddle_host::{HostError, HostRoot};

use crate::SharingError;
use crate::pagemap;
use crate::processes::{Process, Region};

/// How pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Of a private mapping. What cannot be written may be of the page cache in one of a file.
    Private { of_file: bool },
    /// Of a shared mapping: all are of the page cache, and others may map each.
    Shared,
    /// Of a shared mapping of which there is no other: each is alone on its frame as far as these VMs go.
    SharedAlone,
    /// By pagemap: memory of devices, pages that the kernel shows to every process.
    Pagemap,
}

/// A range of pages that is read in one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) region: Region,
    pub(super) how: How,
}

/// The spans of every process, by its position. What is not mapped is in none.
///
/// # Errors
/// What is mapped cannot be read, although the process exists.
pub(super) fn spans(root: &HostRoot, processes: &[Process]) -> Result<Vec<Vec<Span>>, SharingError> {
    let mut all: Vec<Vec<(Span, Option<FileId>)>> = Vec::with_capacity(processes.len());
    for process in processes {
        all.push(match mappings(root, process) {
            Ok(Some(mappings)) => of_process(&process.regions, &mappings),
            // More mappings than are looked at: that is not worth a failure.
            Ok(None) => by_pagemap(process),
            Err(error) if error.is_gone() => {
                process.set_gone();
                Vec::new()
            }
            Err(error) if error.is_denied() => by_pagemap(process),
            Err(error) => return Err(error.into()),
        });
    }
    let mut mapped: BTreeMap<FileId, u32> = BTreeMap::new();
    all.iter().flatten().filter_map(|(_, file)| *file).for_each(|file| *mapped.entry(file).or_default() += 1);
    let settle = |(span, file): (Span, Option<FileId>)| match (span.how, file) {
        (How::SharedAlone, Some(file)) if mapped.get(&file).is_some_and(|times| *times > 1) => {
            Span { how: How::Shared, ..span }
        }
        _ => span,
    };
    Ok(all.into_iter().map(|spans| spans.into_iter().map(settle).collect()).collect())
}

fn by_pagemap(process: &Process) -> Vec<(Span, Option<FileId>)> {
    process.regions.iter().map(|region| (Span { region: *region, how: How::Pagemap }, None)).collect()
}

fn mappings(root: &HostRoot, process: &Process) -> Result<Option<Vec<Mapping>>, HostError> {
    let text = match maps_text(root, process.id.id, &Limits::default()) {
        Err(HostError::TooMuch(_)) => return Ok(None),
        other => other?,
    };
    parse_maps(root, process.id.id, &text).map(Some)
}

/// The parts of the regions in each mapping, with the file that is mapped. Both are in order, and regions do not
/// overlap.
fn of_process(regions: &[Region], mappings: &[Mapping]) -> Vec<(Span, Option<FileId>)> {
    let page = pagemap::page_bytes();
    let mut spans = Vec::new();
    for region in regions {
        let first = mappings.partition_point(|mapping| mapping.end / page <= region.first_page);
        let end = region.first_page.saturating_add(region.pages);
        for mapping in mappings[first..].iter().take_while(|mapping| mapping.start / page < end) {
            let pages = common(region.first_page..end, mapping.start / page..mapping.end / page);
            let part = Region { first_page: pages.start, pages: pages.end - pages.start, ..*region };
            spans.push((Span { region: part, how: how(mapping) }, mapping.file));
        }
    }
    spans
}

fn common(left: Range<u64>, right: Range<u64>) -> Range<u64> {
    let start = left.start.max(right.start);
    start..left.end.min(right.end).max(start)
}

/// As if each shared mapping were the only one of its file.
fn how(mapping: &Mapping) -> How {
    let (name, is_file) = (mapping.name.as_str(), mapping.file.is_some());
    if !mapping.shared && !is_file {
        let is_own = name.is_empty() || name == "[heap]" || name == "[stack]" || name.starts_with("[anon:");
        return if is_own { How::Private { of_file: false } } else { How::Pagemap };
    }
    let is_memory = ["/dev/shm/", "/dev/zero", "/dev/hugepages"].iter().any(|begin| name.starts_with(begin));
    let is_special = ["/dev/", "/sys/", "/proc/"].iter().any(|begin| name.starts_with(begin));
    let is_ordinary =
        is_file && (is_memory || !is_special) && (name.starts_with('/') || name.starts_with("[anon_shmem:"));
    match (is_ordinary, mapping.shared) {
        (false, _) => How::Pagemap,
        (true, false) => How::Private { of_file: true },
        // One that cannot be written may be of a file that other mounts show under another device (overlayfs).
        (true, true) if !mapping.writable => How::Shared,
        (true, true) => How::SharedAlone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, pages: u64, permissions: &str, inode: u64, name: &str) -> Mapping {
        let text = format!(
            "{:x}-{:x} {permissions} 00000000 00:01 {inode} {name}\n",
            start * 4096,
            (start + pages) * 4096
        );
        parse_maps(&HostRoot::real(), 1, &text).unwrap().remove(0)
    }

    #[test]
    fn mappings_are_told_apart() {
        let how = |permissions, inode, name| how(&mapping(16, 1, permissions, inode, name));
        assert_eq!(how("rw-p", 0, ""), How::Private { of_file: false });
        assert_eq!(how("---p", 0, "[anon:guest]"), How::Private { of_file: false });
        assert_eq!(how("r-xp", 9, "/usr/bin/x"), How::Private { of_file: true });
        assert_eq!(how("rw-s", 9, "/memfd:ram (deleted)"), How::SharedAlone);
        assert_eq!(how("rw-s", 9, "/dev/zero (deleted)"), How::SharedAlone);
        assert_eq!(how("r--s", 9, "/data/file"), How::Shared);
        for name in ["[vvar]", "[vdso]", "[uprobes]", "[vsyscall]"] {
            assert_eq!(how("r--p", 0, name), How::Pagemap, "{name}");
        }
        for name in ["/dev/mem", "/sys/devices/pci0/resource0", "anon_inode:[perf_event]", ""] {
            assert_eq!(how("rw-s", 9, name), How::Pagemap, "{name}");
        }
    }

    #[test]
    fn regions_are_cut_at_mappings() {
        let region =
            |first_page, pages| Region { first_page, pages, may_be_merged: false, may_be_file: true };
        let mappings = [
            mapping(10, 5, "rw-p", 0, ""),
            mapping(15, 5, "rw-s", 7, "/memfd:x"),
            mapping(30, 5, "rw-p", 0, ""),
        ];
        let spans = of_process(&[region(12, 20), region(33, 9)], &mappings);
        let found: Vec<_> = spans
            .iter()
            .map(|(span, file)| (span.region.first_page, span.region.pages, file.is_some()))
            .collect();
        assert_eq!(found, [(12, 3, false), (15, 5, true), (30, 2, false), (33, 2, false)]);
    }
}
