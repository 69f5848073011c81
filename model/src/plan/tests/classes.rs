//! Plans on hosts with several classes of cores, and with caches over several NUMA nodes.

use super::super::*;
use super::{drawn, vms};
use crate::cpuset::CpuSet;
use crate::topology::{CacheInfo, CoreClasses};

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn cache(level: u8, list: &str) -> CacheInfo {
    CacheInfo { level, instruction_only: false, shared_cpus: cpus(list), size_bytes: None }
}

/// Domain 0 with performance and efficient cores, domain 1 with two of low power.
fn hybrid() -> Topology {
    let caches = [cache(3, "0-5"), cache(2, "6-7")];
    let classes = CoreClasses::of_kinds(&cpus("0-3"), &cpus("4-7"), &CpuSet::new(), &caches);
    Topology::from_caches(&caches, &cpus("0-7"), None, |_| Some(0)).unwrap().with_classes(classes)
}

#[test]
fn a_vm_on_cores_of_several_classes_is_named() {
    let matrix = vms(&[7, 1], &[(0, 1, 900)]);
    for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
        let plan = policy.plan(&PlanInput::new(&matrix, &hybrid(), &[]));
        let reasons = plan.reasons.join("\n");
        assert!(
            reasons.contains("domain 0 has cores of several classes (performance 0-3, efficient 4-5)"),
            "{policy}: {reasons}"
        );
        assert!(
            reasons.contains(
                "a: its vCPUs are on cores of different classes: domain 0 (performance, efficient), domain 1 (low power)"
            ),
            "{policy}: {reasons}"
        );
        assert!(
            reasons.contains("CPUs 6-7 have no cache at level 3"),
            "what was inferred is said: {reasons}"
        );
    }
    let plan = Policy::None.plan(&PlanInput::new(&matrix, &hybrid(), &[]));
    assert!(!plan.reasons.join("\n").contains("class"), "{:?}", plan.reasons);
}

#[test]
fn a_vm_on_cores_of_one_class_needs_no_word() {
    let matrix = vms(&[2], &[]);
    let topology = hybrid();
    let only = |domain| [PlanVm { allowed: Some([DomainId(domain)].into()), ..PlanVm::default() }];
    let low = Policy::Spread.plan(&PlanInput::new(&matrix, &topology, &only(1)));
    assert_eq!((drawn(&low).as_str(), low.reasons.join("\n").contains("class")), ("|aa", false));
    let mixed = Policy::Spread.plan(&PlanInput::new(&matrix, &topology, &only(0)));
    assert_eq!(mixed.reasons.join("\n").matches("class").count(), 2, "{:?}", mixed.reasons);
}

#[test]
fn a_domain_over_two_nodes_holds_the_memory_of_both() {
    let caches = [cache(3, "0-7"), cache(3, "8-15")];
    let topology = Topology::from_caches(&caches, &cpus("0-15"), None, |cpu| Some(cpu / 4)).unwrap();
    let matrix = vms(&[1, 1], &[(0, 1, 900)]);
    let limits = PlanLimits { local_memory: Some(0.9), ..PlanLimits::default() };
    for (pages, expected, is_limited) in [
        (vec![(1, 1000)], "ab|", true),
        (vec![(0, 500), (1, 500)], "ab|", true),
        (vec![(2, 10), (3, 990)], "|ab", true),
        (vec![(0, 500), (2, 500)], "ab|", false),
    ] {
        let vm = PlanVm { node_pages: pages.into_iter().collect(), ..PlanVm::default() };
        let vms = vec![vm; 2];
        let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &vms).limits(&limits));
        let reasons = plan.reasons.join("\n");
        assert_eq!(drawn(&plan), expected, "{reasons}");
        assert_eq!(!reasons.contains("so it is not limited"), is_limited, "{reasons}");
    }
}
