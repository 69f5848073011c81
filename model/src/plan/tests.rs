mod apart;
mod classes;
mod cookies;
mod groups;
mod search;

use proptest::prelude::*;

use super::*;
use crate::binding::{Binding, BindingKind, RealTime};
use crate::cpuset::CpuSet;
use crate::matrix::{MatrixVm, MemoryUse, Method};

/// Domains with the given numbers of CPUs, numbered consecutively.
pub(super) fn host(cpus: &[u32]) -> Topology {
    let mut next = 0;
    let domains = cpus.iter().zip(0u32..).map(|(count, id)| {
        let own: CpuSet = (next..next + count).collect();
        next += count;
        CacheDomain { id: DomainId(id), cpus: own, size_bytes: None, nodes: Default::default() }
    });
    Topology::new(None, domains.collect()).unwrap()
}

/// VMs `a`, `b`, ... with these vCPUs, 1000 frames each, sharing the given frames.
fn vms(vcpus: &[u32], shared: &[(usize, usize, u64)]) -> SharingMatrix {
    let mut frames = vec![vec![0; vcpus.len()]; vcpus.len()];
    for (i, j, count) in shared {
        frames[*i][*j] = *count;
    }
    let vms = vcpus.iter().zip('a'..).map(|(vcpus, name)| MatrixVm {
        name: name.to_string(),
        id: None,
        uuid: None,
        owner: None,
        vcpus: *vcpus,
        memory: Some(MemoryUse { frames_used: 1000, ..MemoryUse::default() }),
    });
    SharingMatrix::measured(Method::Merged, vms.collect(), &frames, 0.0, 1.0)
}

fn plan(policy: Policy, matrix: &SharingMatrix, topology: &Topology) -> Plan {
    policy.plan(&PlanInput::new(matrix, topology, &[]))
}

/// `ab|cd` for the VMs in each domain, with a letter per vCPU.
fn drawn(plan: &Plan) -> String {
    let domains = plan.domains.iter().map(|domain| {
        plan.placement
            .iter()
            .filter(|placed| placed.domain == domain.id)
            .map(|placed| placed.vm.as_str())
            .collect::<String>()
    });
    domains.collect::<Vec<_>>().join("|")
}

/// The paper's Table 1.
fn table_1() -> SharingMatrix {
    let csv = "vm,VM1,VM2,VM3,VM4\nVM1,-,71.17,0.07,0.05\nVM2,71.43,-,0.06,0.05\n\
               VM3,0.06,0.05,-,52.18\nVM4,0.04,0.05,52.38,-\n";
    SharingMatrix::from_file_text(csv).unwrap()
}

#[test]
fn the_papers_table_gives_the_papers_placement() {
    for cpus in [[1, 1], [8, 8]] {
        let plan = plan(Policy::Paper, &table_1(), &host(&cpus));
        assert_eq!(drawn(&plan), "VM1VM2|VM3VM4");
        assert_eq!((plan.shared_within, plan.shared_total), (None, None), "rates are not frames");
        assert_eq!(plan.reasons[0], "VM1 and VM2 share 71.43 %: together in domain 0");
    }
    let opposed = plan(Policy::Opposed, &table_1(), &host(&[1, 1]));
    assert!(matches!(drawn(&opposed).as_str(), "VM1VM3|VM2VM4" | "VM1VM4|VM2VM3"), "{}", drawn(&opposed));
}

#[test]
fn equal_rates_go_in_the_order_of_the_matrix() {
    let matrix = vms(&[1; 4], &[(0, 1, 500), (0, 2, 500), (1, 3, 500), (2, 3, 500)]);
    assert_eq!(drawn(&plan(Policy::Paper, &matrix, &host(&[1, 1]))), "ab|cd");
}

#[test]
fn an_odd_vm_goes_where_there_is_room() {
    let matrix = vms(&[1; 5], &[(0, 3, 900), (1, 2, 500)]);
    assert_eq!(drawn(&plan(Policy::Paper, &matrix, &host(&[1, 1]))), "ade|bc");
    let matrix = vms(&[1; 3], &[(1, 2, 900)]);
    assert_eq!(drawn(&plan(Policy::Paper, &matrix, &host(&[4, 4]))), "bc|a");
}

#[test]
fn rounding_overloads_as_few_domains_as_possible() {
    let shared: Vec<_> = (0..16).map(|i| (i, i + 1, 500 + i as u64)).collect();
    let plan = plan(Policy::Paper, &vms(&[1; 17], &shared), &host(&[1; 16]));
    let mut loads: Vec<usize> = drawn(&plan).split('|').map(str::len).collect();
    loads.sort_unstable();
    assert_eq!(loads, [[1; 15].as_slice(), &[2]].concat());
}

#[test]
fn a_pair_runs_together_on_a_host_with_more_domains_than_vms() {
    let matrix = vms(&[1, 1, 1, 1], &[(0, 2, 900), (1, 3, 800)]);
    assert_eq!(drawn(&plan(Policy::Paper, &matrix, &host(&[8; 8]))), "ac|bd||||||");
    let matrix = vms(&[4, 4], &[(0, 1, 900)]);
    assert_eq!(drawn(&plan(Policy::Paper, &matrix, &host(&[8; 4]))), "aaaabbbb|||");
    assert_eq!(drawn(&plan(Policy::Paper, &matrix, &host(&[4; 4]))), "aaaa|bbbb||", "one CPU a vCPU");
}

#[test]
fn a_vm_too_large_for_a_share_is_spread_with_a_reason() {
    let matrix = vms(&[4, 1, 1], &[(0, 1, 900)]);
    let plan = plan(Policy::Paper, &matrix, &host(&[3, 3]));
    assert_eq!(plan.placement.len(), 6);
    assert!(plan.reasons.iter().any(|reason| reason.contains("does not fit into the share of one domain")));
}

#[test]
fn shares_are_exceeded_only_if_necessary_with_a_reason() {
    let matrix = vms(&[1; 4], &[(0, 1, 900)]);
    let only_first = PlanVm { allowed: Some([DomainId(0)].into()), ..PlanVm::default() };
    let limits = vec![only_first; 4];
    let topology = host(&[1, 1]);
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &limits));
    assert_eq!(drawn(&plan), "abcd|");
    assert_eq!(
        plan.reasons.iter().filter(|reason| reason.contains("more vCPUs than their share")).count(),
        2
    );
}

#[test]
fn a_vm_that_may_run_nowhere_is_placed_by_the_kernel() {
    let matrix = vms(&[1, 1], &[(0, 1, 900)]);
    let limits = [PlanVm { allowed: Some(BTreeSet::new()), ..PlanVm::default() }];
    let topology = host(&[2, 2]);
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &limits));
    assert_eq!(drawn(&plan), "b|");
    assert!(plan.reasons.iter().any(|reason| reason.contains("a may run on no CPU")));
}

#[test]
fn a_vm_without_known_vcpus_is_not_placed_with_a_reason() {
    let matrix = vms(&[0, 1, 1], &[(0, 1, 900), (1, 2, 100)]);
    for policy in [Policy::Paper, Policy::Opposed] {
        let plan = plan(policy, &matrix, &host(&[2, 2]));
        assert_eq!(plan.placement.len(), 2);
        assert!(plan.reasons[0].contains("a: no vCPU thread is known"), "{:?}", plan.reasons);
    }
}

#[test]
fn limits_and_place_of_a_found_vm_come_from_its_cpus() {
    let task = crate::vm::TaskId { id: 7, start_ticks: 9 };
    let vcpu = |index, cpus: &str| crate::vm::Vcpu {
        index,
        id: task.into(),
        process: Some(task),
        thread_name: Some("CPU 0/KVM".into()),
        affinity: cpus.parse().unwrap(),
        last_cpu: None,
        limits: Default::default(),
    };
    let vm = Vm {
        name: "a".into(),
        id: task.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: crate::vm::VmmKind::QemuKvm,
        vcpus: vec![vcpu(0, "2-3"), vcpu(1, "0-3"), vcpu(2, "5")],
        memory: Vec::new(),
        allowed_cpus: "2-5".parse().unwrap(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    };
    let found = PlanVm::of(&vm, &host(&[2, 2, 2]));
    assert_eq!(found.allowed, Some([DomainId(1), DomainId(2)].into()));
    assert_eq!(found.current, [Some(DomainId(1)), None, Some(DomainId(2))]);
}

/// A VM with one vCPU for each pair of allowed CPUs and of CPUs that its owner bound it to.
fn limited(name: &str, vcpus: &[(&str, Option<&str>, Option<RealTime>)]) -> Vm {
    let task = crate::vm::TaskId { id: 1, start_ticks: 1 };
    let vcpu = |(index, (allowed, bound, real_time)): (u32, &(&str, Option<&str>, Option<RealTime>))| {
        let kind = BindingKind::Affinity;
        crate::vm::Vcpu {
            index,
            id: task.into(),
            process: Some(task),
            thread_name: None,
            affinity: bound.unwrap_or(allowed).parse().unwrap(),
            last_cpu: None,
            limits: crate::vm::VcpuLimits {
                allowed_cpus: Some(allowed.parse().unwrap()),
                binding: bound.map(|cpus| Binding { cpus: cpus.parse().unwrap(), kind }),
                real_time: *real_time,
                core_cookie: None,
                before_huddle: None,
            },
        }
    };
    Vm {
        name: name.into(),
        id: task.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: crate::vm::VmmKind::QemuKvm,
        vcpus: (0..).zip(vcpus).map(vcpu).collect(),
        memory: Vec::new(),
        allowed_cpus: "0-3".parse().unwrap(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

/// Where each policy that places puts the vCPUs of these VMs, which all share as much, on two domains of two CPUs.
fn placements(vms_found: &[Vm]) -> Vec<(Policy, Plan)> {
    let topology = host(&[2, 2]);
    let sizes: Vec<u32> = vms_found.iter().map(|vm| vm.vcpus.len() as u32).collect();
    let matrix = vms(&sizes, &[(0, 1, 900)]);
    let limits: Vec<PlanVm> = vms_found.iter().map(|vm| PlanVm::of(vm, &topology)).collect();
    let policies = Policy::ALL.into_iter().filter(|policy| *policy != Policy::None);
    policies.map(|policy| (policy, policy.plan(&PlanInput::new(&matrix, &topology, &limits)))).collect()
}

fn domain_of(plan: &Plan, vm: &str, vcpu: u32) -> Option<u32> {
    plan.domain_of(vm, vcpu).map(|domain| domain.id.0)
}

#[test]
fn each_vcpu_goes_where_its_own_cpuset_allows_it() {
    // The process may run on CPU 0 alone, and each vCPU elsewhere (libvirt with emulatorpin and vcpupin).
    let a = limited("a", &[("1", None, None), ("2", None, None)]);
    let b = limited("b", &[("3", None, None), ("3", None, None)]);
    for (policy, plan) in placements(&[a, b]) {
        let at = [("a", 0), ("a", 1), ("b", 0), ("b", 1)].map(|(vm, vcpu)| domain_of(&plan, vm, vcpu));
        assert_eq!(at, [Some(0), Some(1), Some(1), Some(1)], "{policy}: {:?}", plan.reasons);
    }
}

#[test]
fn vcpus_that_their_owner_bound_are_not_placed_and_the_others_go_to_them() {
    let a = limited("a", &[("0-3", Some("2"), None)]);
    let b = limited("b", &[("0-3", None, None)]);
    for (policy, plan) in placements(&[a, b]) {
        assert_eq!(domain_of(&plan, "a", 0), None, "{policy}");
        if [Policy::Paper, Policy::Sharing, Policy::Exact].contains(&policy) {
            assert_eq!(domain_of(&plan, "b", 0), Some(1), "{policy}: {:?}", plan.reasons);
            assert_eq!(plan.shared_within, Some(900));
        }
        let note =
            "a: vCPU 0 is left as its owner bound it, on CPUs 2, with an affinity narrower than the cpuset";
        assert_eq!(plan.reasons.iter().filter(|reason| *reason == note).count(), 1, "{:?}", plan.reasons);
    }
}

#[test]
fn no_two_vcpus_with_a_real_time_policy_have_one_cpu() {
    let fifo = Some(RealTime::Fifo);
    let a = limited("a", &[("0-1", None, fifo), ("0-1", None, fifo)]);
    let b = limited("b", &[("0-1", None, fifo), ("0-1", None, None)]);
    for (policy, plan) in placements(&[a, b]) {
        let real_time = [("a", 0), ("a", 1), ("b", 0)];
        let placed = real_time.iter().filter(|(vm, vcpu)| domain_of(&plan, vm, *vcpu).is_some()).count();
        assert_eq!(placed, 2, "{policy}: {:?}", plan.placement);
        assert!(domain_of(&plan, "b", 1).is_some(), "{policy}");
        assert!(plan.reasons.iter().any(|reason| reason.contains("real-time policy")), "{:?}", plan.reasons);
    }
}

#[test]
fn a_bound_vcpu_counts_where_it_is_for_vms_to_be_kept_apart() {
    let topology = host(&[2, 2]);
    let matrix = vms(&[1, 1], &[(0, 1, 900)]);
    let found = [limited("a", &[("0-3", Some("2"), None)]), limited("b", &[("0-3", None, None)])];
    let limits = found.map(|vm| PlanVm::of(&vm, &topology));
    let input = PlanInput::new(&matrix, &topology, &limits).apart(&[(0, 1)]);
    let at = |domain| VcpuPlacement { vm: "b".into(), vcpu: 0, domain: DomainId(domain) };
    assert!(input.broken(&[at(0)]).apart.is_empty());
    assert_eq!(input.broken(&[at(1)]).apart.len(), 1);
}

#[test]
fn current_places_only_break_ties() {
    let matrix = vms(&[1; 4], &[(0, 1, 500), (2, 3, 900)]);
    let at = |domain| PlanVm { current: vec![Some(DomainId(domain))], ..PlanVm::default() };
    let topology = host(&[1, 1]);
    for (current, expected) in [([0, 0, 1, 1], "ab|cd"), ([1, 1, 0, 0], "cd|ab"), ([0, 1, 0, 1], "cd|ab")] {
        let limits = current.map(at);
        let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &limits));
        assert_eq!(drawn(&plan), expected);
    }
}

#[test]
fn none_places_nothing() {
    let plan = plan(Policy::None, &table_1(), &host(&[1, 1]));
    assert!(plan.placement.is_empty());
    assert_eq!(plan.shared_within, None);
}

#[test]
fn the_json_has_the_documented_fields() {
    let matrix = vms(&[1, 1], &[(0, 1, 900)]);
    let json = serde_json::to_value(plan(Policy::Paper, &matrix, &host(&[2]))).unwrap();
    assert_eq!(json["schema"], "huddle/plan/1");
    assert_eq!(json["policy"], "paper");
    assert_eq!(json["domains"][0]["cpus"], serde_json::json!([0, 1]));
    assert_eq!(json["placement"][1], serde_json::json!({"vm": "b", "vcpu": 0, "domain": 0}));
    assert_eq!((&json["shared_within"], &json["shared_total"]), (&900.into(), &900.into()));
    assert!(json["reasons"][0].as_str().unwrap().contains("share one cache"));
}

fn cases() -> impl Strategy<Value = (SharingMatrix, Topology, Vec<PlanVm>)> {
    (1usize..9, 1usize..5).prop_flat_map(|(n, d)| {
        let vcpus = proptest::collection::vec(1u32..5, n);
        let frames = proptest::collection::vec((0..n, 0..n, 0u64..1000), 0..20);
        let cpus = proptest::collection::vec(1u32..9, d);
        let current = proptest::collection::vec(proptest::option::of(0..d as u32), n);
        (vcpus, frames, cpus, current).prop_map(|(vcpus, frames, cpus, current)| {
            let shared: Vec<_> = frames.into_iter().filter(|(i, j, _)| i < j).collect();
            let limits = current
                .into_iter()
                .map(|domain| PlanVm { current: vec![domain.map(DomainId)], ..PlanVm::default() });
            (vms(&vcpus, &shared), host(&cpus), limits.collect())
        })
    })
}

proptest! {
    #[test]
    fn every_vcpu_is_placed_once_within_the_shares((matrix, topology, limits) in cases()) {
        let input = PlanInput::new(&matrix, &topology, &limits);
        let sizes: Vec<u64> = {
            let mut sizes: Vec<u64> = matrix.vms().iter().map(|vm| u64::from(vm.vcpus)).collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes
        };
        let (vcpus, pair) = (sizes.iter().sum::<u64>(), sizes.iter().take(2).sum::<u64>());
        let all_cpus = topology.cpus().len() as u64;
        for policy in [Policy::Paper, Policy::Opposed] {
            let plan = policy.plan(&input);
            prop_assert_eq!(&plan, &policy.plan(&input));
            let expected: Vec<(String, u32)> = matrix.vms().iter()
                .flat_map(|vm| (0..vm.vcpus).map(|vcpu| (vm.name.clone(), vcpu))).collect();
            let placed: Vec<(String, u32)> =
                plan.placement.iter().map(|placed| (placed.vm.clone(), placed.vcpu)).collect();
            prop_assert_eq!(placed, expected);
            for domain in &plan.domains {
                let load = plan.placement.iter().filter(|placed| placed.domain == domain.id).count() as u64;
                let own = domain.cpus.len() as u64;
                let share = (vcpus * own).div_ceil(all_cpus).max(own.min(pair));
                prop_assert!(load <= share, "domain {} has {} of {}", domain.id, load, share);
            }
            prop_assert!(plan.shared_within <= plan.shared_total);
        }
    }

    #[test]
    fn opposed_never_joins_more_than_paper(
        shared in proptest::collection::vec((0usize..6, 0usize..6, 0u64..1000), 0..16),
    ) {
        let shared: Vec<_> = shared.into_iter().filter(|(i, j, _)| i < j).collect();
        let matrix = vms(&[1; 6], &shared);
        let topology = host(&[1, 1]);
        let within = |policy| plan(policy, &matrix, &topology).shared_within.unwrap();
        prop_assert!(within(Policy::Opposed) <= within(Policy::Paper));
    }
}
