//! Which NUMA nodes there are, and on which of them a process's memory is, from `/proc/PID/numa_maps`
//! (Documentation/filesystems/proc.rst and numa_maps in proc(5), Linux 6.18).

use std::collections::BTreeMap;

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{TaskId, Vm};

use super::{HostError, HostRoot, read_cpus, read_text};

/// KiB of a page, in which sizes are given.
const PAGE_KIB: u64 = 4;

/// The numbers of the nodes that are online; they may have gaps.
///
/// # Errors
/// [`HostError::is_gone`] is true on kernels without NUMA.
pub fn online_nodes(root: &HostRoot) -> Result<CpuSet, HostError> {
    read_cpus(&root.sys("devices/system/node/online"))
}

/// Pages of 4 KiB on each node, over all mappings. The kernel walks the page tables of the whole process
/// for it. It needs the right to look into the process, as its maps do.
pub fn node_pages(root: &HostRoot, pid: i32) -> Result<BTreeMap<u32, u64>, HostError> {
    let path = root.proc(format!("{pid}/numa_maps"));
    let text = read_text(&path)?;
    let mut pages = BTreeMap::new();
    for line in text.lines() {
        let size = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("kernelpagesize_kB="));
        // A mapping without pages has none.
        let kib: u64 = size.map_or(Ok(PAGE_KIB), |size| {
            size.parse().map_err(|_| HostError::parse(&path, line, "a line with a page size in kB"))
        })?;
        for word in line.split_ascii_whitespace() {
            // `N0=512`; other words begin otherwise, and a path in `file=` is one word by its escapes.
            let Some((node, count)) = word.strip_prefix('N').and_then(|word| word.split_once('=')) else {
                continue;
            };
            let (Ok(node), Ok(count)) = (node.parse::<u32>(), count.parse::<u64>()) else {
                return Err(HostError::parse(&path, word, "pages on a node, like N0=512"));
            };
            *pages.entry(node).or_insert(0) += count * kib / PAGE_KIB;
        }
    }
    Ok(pages)
}

/// The same for all processes of a VM, as `of` tells it; empty where one is not known.
pub fn vm_node_pages<E>(
    vm: &Vm,
    mut of: impl FnMut(TaskId) -> Result<BTreeMap<u32, u64>, E>,
) -> BTreeMap<u32, u64> {
    let mut pages = BTreeMap::new();
    for process in vm.processes() {
        let Ok(of_process) = of(process) else { return BTreeMap::new() };
        for (node, count) in of_process {
            *pages.entry(node).or_insert(0) += count;
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_all_mappings_count_in_4_kib() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let path = dir.path().join("proc/7/numa_maps");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = "00400000 default file=/usr/bin/N1=qemu mapped=5 N0=5 kernelpagesize_kB=4\n\
                    7f00 bind:0-1 anon=300 dirty=300 active=0 N0=100 N1=200 kernelpagesize_kB=4\n\
                    7f10 default huge anon=2 N1=2 kernelpagesize_kB=2048\n\
                    7f20 default\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(node_pages(&root, 7).unwrap(), [(0, 105), (1, 200 + 1024)].into());
        std::fs::write(&path, "7f00 default N0=many kernelpagesize_kB=4\n").unwrap();
        assert!(node_pages(&root, 7).unwrap_err().to_string().contains("N0=many"));
        assert!(node_pages(&root, 8).unwrap_err().is_gone());
    }

    #[test]
    fn this_process_is_somewhere() {
        let pid = i32::try_from(std::process::id()).unwrap();
        match node_pages(&HostRoot::real(), pid) {
            Ok(pages) => assert!(pages.values().sum::<u64>() > 0),
            // A kernel without NUMA has no such file.
            Err(error) => assert!(error.is_gone(), "{error}"),
        }
    }
}
