//! Settings of the kernel's memory management that move or split what VMs share.

use huddle_model::text::chosen;

use super::{Finding, Item};
use huddle_host::{HostRoot, huge_pages, kernel, numa, optional};

const AREA: &str = "memory";

pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    vec![transparent_huge_pages(root), khugepaged(root), numa_balancing(root)]
}

/// Documentation/admin-guide/mm/transhuge.rst, Linux 6.18.
fn transparent_huge_pages(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "thp.enabled" };
    match optional(huge_pages::enabled(root)) {
        Ok(None) => item.good("not in this kernel", "all pages are small and can be merged"),
        Ok(Some(text)) => match chosen(&text) {
            "always" => item.degraded(
                "always",
                "memory comes in huge pages, which KSM merges only after it has split them, which takes it longer",
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            ),
            "madvise" => item.good("madvise", "only programs that ask (QEMU does) get huge pages"),
            other => item.good(other, "all pages are small and can be merged"),
        },
        Err(error) => item.unknown(&error),
    }
}

fn khugepaged(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "thp.khugepaged" };
    let enabled = match optional(huge_pages::enabled(root)) {
        Ok(enabled) => enabled,
        Err(error) => return item.unknown(&error),
    };
    let on = enabled.as_deref().map(chosen).is_some_and(|choice| choice != "never");
    let pages = match optional(huge_pages::khugepaged_pages_to_scan(root)) {
        Ok(pages) => pages,
        Err(error) => return item.unknown(&error),
    };
    match pages {
        Some(pages) if on => item.degraded(
            format!("on, {pages} pages per round"),
            "it combines small pages into huge ones again, which undoes some merging",
            "echo never > /sys/kernel/mm/transparent_hugepage/enabled, or prctl(PR_SET_THP_DISABLE) for each VM",
        ),
        _ => item.good("off", "nothing combines small pages into huge ones"),
    }
}

/// Documentation/admin-guide/sysctl/kernel.rst, `numa_balancing`, Linux 6.18.
fn numa_balancing(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "numa.balancing" };
    let nodes = numa::online_nodes(root).map_or(1, |nodes| nodes.len());
    match optional(kernel::numa_balancing(root)) {
        Ok(None) => item.good("not in this kernel", "nothing moves memory between nodes"),
        Ok(Some(0)) => item.good("0", "nothing moves memory between nodes"),
        Ok(Some(mode)) if nodes < 2 => {
            item.good(format!("{mode}, with 1 NUMA node"), "there is no other node to move memory to")
        }
        Ok(Some(mode)) => item.degraded(
            format!("{mode}, with {nodes} NUMA nodes"),
            "the kernel moves memory and threads between nodes while huddle places vCPUs",
            "sysctl kernel.numa_balancing=0, for measurements",
        ),
        Err(error) => item.unknown(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::fixture::{Tree, check, find};
    use super::*;

    #[test]
    fn huge_pages_are_judged_by_the_choice_in_brackets() {
        check(
            examine,
            "thp.enabled",
            "sys/kernel/mm/transparent_hugepage/enabled",
            &[
                (Some("[always] madvise never\n"), State::Degraded, "split"),
                (Some("always [madvise] never\n"), State::Good, "QEMU"),
                (Some("always madvise [never]\n"), State::Good, "never"),
                (None, State::Good, "not in this kernel"),
            ],
        );
    }

    #[test]
    fn khugepaged_works_only_where_huge_pages_are_on() {
        let tree = Tree::new(&[
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "4096\n"),
        ]);
        let finding = find(examine(&tree.root), "thp.khugepaged");
        assert!(finding.state == State::Degraded && finding.value.contains("4096"), "{finding:?}");
        tree.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        assert_eq!(find(examine(&tree.root), "thp.khugepaged").state, State::Good);
        tree.write("sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "many\n");
        let finding = find(examine(&tree.root), "thp.khugepaged");
        assert!(finding.state == State::Missing && finding.value.contains("many"), "{finding:?}");
    }

    #[test]
    fn numa_balancing_matters_with_several_nodes_only() {
        let path = "proc/sys/kernel/numa_balancing";
        check(
            examine,
            "numa.balancing",
            path,
            &[
                (Some("1\n"), State::Good, "1 NUMA node"),
                (Some("0\n"), State::Good, "0"),
                (None, State::Good, "not in this kernel"),
                (Some("on\n"), State::Missing, "\"on\""),
            ],
        );
        let tree = Tree::new(&[("sys/devices/system/node/online", "0-1\n"), (path, "1\n")]);
        assert_eq!(find(examine(&tree.root), "numa.balancing").state, State::Degraded);
    }
}
