//! KSM and its settings (Documentation/admin-guide/mm/ksm.rst, Linux 6.18).

use huddle_model::ksm::KsmState;

use super::{Finding, Item};
use huddle_host::{HostRoot, ksm, numa};

const AREA: &str = "merging";

pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    let item = Item { area: AREA, item: "ksm.run" };
    match ksm::state(root) {
        Ok(state) => {
            let nodes = numa::online_nodes(root).map_or(1, |nodes| nodes.len());
            settings(&state, nodes)
        }
        Err(error) if error.is_gone() => vec![item.missing(
            "this kernel has no KSM",
            "VMs cannot share pages, so there is nothing to measure or to place by",
            Some("boot a kernel with CONFIG_KSM=y"),
        )],
        Err(error) => vec![item.unknown(&error)],
    }
}

fn settings(state: &KsmState, nodes: usize) -> Vec<Finding> {
    let item = |item| Item { area: AREA, item };
    const NOT_HERE: &str = "not in this kernel";
    let merged =
        format!("{} pages on {} merged frames", state.pages_sharing + state.pages_shared, state.pages_shared);
    let run = item("ksm.run");
    let mut findings = vec![match state.run {
        1 => run.good(format!("1, running; {merged}"), "pages are being merged"),
        _ if state.pages_sharing > 0 => run.degraded(
            format!("{}, stopped; {merged}", state.run),
            "what is merged is measured, nothing new merges",
            "echo 1 > /sys/kernel/mm/ksm/run",
        ),
        run_value => run.degraded(
            format!("{run_value}, stopped; nothing is merged"),
            "no VM shares a page, so all rates are 0",
            "echo 1 > /sys/kernel/mm/ksm/run",
        ),
    }];
    findings.push(match state.full_scans {
        0 => item("ksm.full_scans").degraded(
            "0",
            "KSM has not been through all memory once, so a matrix shows less than there is",
            "let KSM run until full_scans is at least 2",
        ),
        count => item("ksm.full_scans").good(
            format!("{count}, {} pages every {} ms", state.pages_to_scan, state.sleep_millisecs),
            "KSM completes passes; a VM younger than two passes may share more than is seen yet",
        ),
    });
    findings.push(match state.smart_scan {
        Some(1) => item("ksm.smart_scan").degraded(
            "1",
            "pages that did not merge before are skipped: part of equal data in VMs never merges",
            "echo 0 > /sys/kernel/mm/ksm/smart_scan, for measurements",
        ),
        value => item("ksm.smart_scan").good(shown(value, NOT_HERE), "every page is looked at in every pass"),
    });
    findings.push(item("ksm.max_page_sharing").good(
        shown(state.max_page_sharing, NOT_HERE),
        "content with more copies is spread over several frames, so frames are counted, not pages",
    ));
    findings.push(match state.merge_across_nodes {
        Some(0) if nodes > 1 => item("ksm.merge_across_nodes").degraded(
            format!("0, with {nodes} NUMA nodes"),
            "VMs on different nodes share nothing, however alike they are",
            "echo 2 > /sys/kernel/mm/ksm/run, then 1 into merge_across_nodes, then 1 into run",
        ),
        value => item("ksm.merge_across_nodes").good(shown(value, NOT_HERE), "all VMs can share"),
    });
    findings.push(item("ksm.use_zero_pages").good(
        shown(state.use_zero_pages, NOT_HERE),
        "zero-filled pages are counted apart, wherever they are",
    ));
    findings.push(match state.advisor_mode.as_deref() {
        Some("scan-time") => item("ksm.advisor").degraded(
            "scan-time",
            "the speed of merging changes by itself, so how old a matrix is differs from pass to pass",
            "echo none > /sys/kernel/mm/ksm/advisor_mode",
        ),
        mode => item("ksm.advisor").good(mode.unwrap_or(NOT_HERE), "the speed of merging is constant"),
    });
    findings
}

fn shown(value: Option<u64>, absent: &str) -> String {
    value.map_or_else(|| absent.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::fixture::{Tree, find};
    use super::*;

    fn good() -> KsmState {
        KsmState {
            run: 1,
            full_scans: 9,
            pages_shared: 10,
            pages_sharing: 30,
            smart_scan: Some(0),
            merge_across_nodes: Some(1),
            advisor_mode: Some("none".into()),
            ..KsmState::default()
        }
    }

    #[test]
    fn a_good_host_and_an_old_kernel_have_no_gap() {
        let old = KsmState { smart_scan: None, merge_across_nodes: None, advisor_mode: None, ..good() };
        for state in [good(), old] {
            let findings = settings(&state, 2);
            assert_eq!(findings.len(), 7);
            assert!(findings.iter().all(|finding| finding.state == State::Good), "{findings:?}");
        }
    }

    #[test]
    fn each_limiting_setting_is_reported() {
        for (item, state, word) in [
            ("ksm.run", KsmState { run: 0, ..good() }, "40 pages on 10 merged frames"),
            ("ksm.run", KsmState { run: 2, pages_sharing: 0, ..good() }, "nothing is merged"),
            ("ksm.full_scans", KsmState { full_scans: 0, ..good() }, "0"),
            ("ksm.smart_scan", KsmState { smart_scan: Some(1), ..good() }, "1"),
            ("ksm.merge_across_nodes", KsmState { merge_across_nodes: Some(0), ..good() }, "2 NUMA nodes"),
            ("ksm.advisor", KsmState { advisor_mode: Some("scan-time".into()), ..good() }, "scan-time"),
        ] {
            let findings = settings(&state, 2);
            let limited: Vec<&Finding> = findings.iter().filter(|f| f.state != State::Good).collect();
            assert_eq!(limited.len(), 1, "{limited:?}");
            assert!(limited[0].item == item && limited[0].value.contains(word), "{limited:?}");
        }
        let one_node = settings(&KsmState { merge_across_nodes: Some(0), ..good() }, 1);
        assert!(one_node.iter().all(|finding| finding.state == State::Good));
    }

    #[test]
    fn a_kernel_without_ksm_is_distinguished_from_a_damaged_file() {
        let tree = Tree::new(&[]);
        let finding = find(examine(&tree.root), "ksm.run");
        assert!(finding.state == State::Missing && finding.value.contains("no KSM"), "{finding:?}");
        tree.write("sys/kernel/mm/ksm/run", "x\n");
        let finding = find(examine(&tree.root), "ksm.run");
        assert!(finding.state == State::Missing && finding.value.contains("\"x\""), "{finding:?}");
    }
}
