use super::*;
use crate::cache::{ByKind, CacheModel, Counts};
use crate::counters::CounterRole;
use crate::matrix::{MemoryUse, Method, SharingMatrix};
use crate::observation::CpuResidency;
use crate::plan::{PlanInput, Policy};
use crate::rates::CounterDelta;
use crate::summary::{
    AccessOrigin, Block, GuestSample, SUMMARY_SCHEMA, Sample, SimulatedBlock, SimulatedSample, VcpuProbe,
};
use crate::topology::{CacheDomain, DomainId, Topology};

/// a and b share, c and d share; two domains of two CPUs.
fn parts() -> (SharingMatrix, Topology) {
    let memory = Some(MemoryUse { frames_used: 100, ..MemoryUse::default() });
    let named = |name: &&str| MatrixVm { memory, ..MatrixVm::named(*name) };
    let frames = vec![vec![0, 50, 0, 0], vec![50, 0, 0, 0], vec![0, 0, 0, 50], vec![0, 0, 50, 0]];
    let vms = ["a", "b", "c", "d"].iter().map(named).collect();
    let domain = |id: u32| CacheDomain {
        id: DomainId(10 + id),
        cpus: (2 * id..2 * id + 2).collect(),
        size_bytes: None,
        nodes: Default::default(),
    };
    let topology = Topology::new(Some(3), (0..2).map(domain).collect()).unwrap();
    (SharingMatrix::measured(Method::Merged, vms, &frames, 1.0, 1.0), topology)
}

fn summary(arms: &[Arm]) -> Summary<ShownFigures> {
    let text = format!(
        "{{\"schema\":\"{SUMMARY_SCHEMA}\",\"experiment\":\"e\",\"guest\":\"process\",\"arms\":{{}}}}"
    );
    let empty: Summary<ShownFigures> = Summary::from_json(&text).unwrap();
    let (matrix, topology) = parts();
    let plan = |arm: &Arm| {
        let policy: Policy = arm.policy();
        (arm.name().to_owned(), policy.plan(&PlanInput::new(&matrix, &topology, &[])))
    };
    Summary {
        started_utc: Some("1970-01-01T00:01:00Z".into()),
        plans: arms.iter().filter(|arm| !arm.is_drawn()).map(plan).collect(),
        verdict: Some("nothing was timed".into()),
        matrix: Some(matrix),
        topology: Some(topology),
        ..empty
    }
}

fn simulated(arms: &[Arm]) -> SimulatedMisses {
    let vcpu = |vm: &str, domain| SimulatedVcpu {
        vm: vm.to_owned(),
        vcpu: 0,
        domain,
        counts: Counts {
            accesses: ByKind { reads: 1000, ..ByKind::default() },
            misses: ByKind { reads: 7, ..ByKind::default() },
            ..Counts::default()
        },
    };
    let vcpus = || vec![vcpu("a", 1), vcpu("b", 0), vcpu("c", 1), vcpu("d", 0)];
    let samples = arms.iter().map(|arm| SimulatedSample { arm: *arm, vcpus: vcpus() }).collect();
    let block =
        SimulatedBlock { number: 1, samples, lost: u64::MAX, without_frame: 0, elsewhere: 0, set_forward: 0 };
    SimulatedMisses::of(CacheModel::preset("paper").unwrap(), 8, AccessOrigin::KnownReads, vec![block])
}

/// A block in which each VM had so many misses; `None`: no PMU.
fn block(number: usize, arm: Arm, misses: Option<f64>, cpu: u32) -> Block {
    let guest = |vm: &str| GuestSample {
        vm: vm.to_owned(),
        vcpu: 0,
        reads: 10,
        elapsed_ns: 2_000_000_000,
        busy_ns: 1,
        host: Some(VcpuProbe {
            counters: Some(match misses {
                None => CounterDelta::unavailable("no PMU"),
                Some(misses) => CounterDelta::recorded(2.0, (10, 5), |role| {
                    let count = if role == CounterRole::LlcMisses { misses } else { 1000.0 };
                    Availability::Available(count)
                }),
            }),
            residency: Availability::Available(vec![CpuResidency {
                cpu,
                run_ns: Some(1_000_000_000),
                ..CpuResidency::default()
            }]),
            ..VcpuProbe::default()
        }),
    };
    let guests = ["a", "b", "c", "d"].into_iter().map(guest).collect();
    Block { number, samples: vec![Sample { guests, ..Sample::new(arm) }], invalid: None }
}

fn steps(summary: Summary<ShownFigures>) -> ArmSteps {
    ArmSteps::of(summary).unwrap()
}

#[test]
fn each_arm_is_a_step_with_its_own_placement() {
    let all = [Arm::Opposed, Arm::Recommended, Arm::NotMerged, Arm::Random];
    let simulated = simulated(&all);
    // Planned, but neither measured nor simulated.
    let mut summary = summary(&[Arm::Opposed, Arm::Recommended, Arm::NotMerged, Arm::Kernel]);
    summary.simulated = Some(simulated.clone());
    let found = steps(summary);
    assert_eq!(found.arms, [Arm::Recommended, Arm::Opposed, Arm::NotMerged, Arm::Random]);
    let place = |step: usize, vm: &str| {
        let plan = found.views[step].round.plan.value().unwrap();
        plan.domain_of(vm, 0).map(|domain| domain.id.0)
    };
    assert_eq!(place(0, "a"), place(0, "b"));
    assert_ne!(place(1, "a"), place(1, "b"));
    // Domains of a simulation are positions in the topology.
    assert_eq!((place(3, "a"), place(3, "b")), (Some(11), Some(10)));
    let reason = |step: usize| found.views[step].round.plan.value().unwrap().reasons[0].clone();
    assert!(reason(2).contains("copy of its own") && reason(3).contains("anew in each block"));
    let shown = found.simulated.value().unwrap();
    assert_eq!((&shown.arms, &shown.vms), (&simulated.arms, &simulated.vms));
    for (view, number) in found.views.iter().zip(1..) {
        assert_eq!(view.round.number, number);
        assert_eq!(view.round.matrix.value().unwrap().len(), 4);
        assert_eq!(view.round.end_unix_us, 60_000_000);
        // Nothing was measured: neither counters, nor anything pinned.
        assert_eq!(view.observation.reason(), Some("nothing was timed"));
        assert!(view.pinning.reason().is_some() && view.in_force.is_empty());
        assert!(view.events.iter().any(|event| event.message == simulated.verdict));
    }
}

#[test]
fn measured_counts_are_summed_over_valid_blocks_and_never_simulated_ones() {
    let mut summary = summary(&[Arm::Recommended]);
    let bad = Block { invalid: Some("a guest died".into()), ..block(3, Arm::Recommended, Some(1e9), 0) };
    summary.blocks =
        vec![block(1, Arm::Recommended, Some(30.0), 0), block(2, Arm::Recommended, Some(50.0), 3), bad];
    let found = steps(summary);
    assert!(found.simulated.reason().unwrap().contains("--simulate MACHINE"));
    let view = &found.views[0];
    let seen = view.observation.value().unwrap();
    assert_eq!((seen.vcpus.len(), seen.seconds()), (4, 4.0));
    let vcpu = &seen.vcpus[0];
    assert_eq!(vcpu.counters.count(CounterRole::LlcMisses).value(), Some(&80.0));
    let rates = vcpu.counters.rates();
    assert_eq!((rates.misses_per_s.value(), rates.mpki.value()), (Some(&20.0), Some(&40.0)));
    assert_eq!(rates.vcpus_multiplexed, 1, "the counters had half of the time");
    assert_eq!(vcpu.run_ns(), Some(2_000_000_000));
    assert_eq!(vcpu.residency.value().unwrap().iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(view.pinning.reason(), None);
    assert_eq!(view.in_force.len(), 4);
    assert!(view.events.iter().any(|event| event.message.contains("left out: block 3: a guest died")));
}

#[test]
fn a_count_that_one_block_lacks_is_unavailable() {
    let mut summary = summary(&[Arm::Recommended, Arm::Opposed]);
    summary.blocks = vec![block(1, Arm::Recommended, Some(30.0), 0), block(2, Arm::Recommended, None, 0)];
    summary.llc_misses = Some(Availability::Unavailable("no valid block has them".into()));
    let found = steps(summary);
    let misses = |step: usize| match &found.views[step].observation {
        Availability::Available(seen) => seen.vm_rates("a").mpki.reason().unwrap().to_owned(),
        Availability::Unavailable(reason) => reason.clone(),
    };
    assert_eq!(misses(0), "no PMU");
    assert_eq!(misses(1), "no valid block has them", "the arm opposed has no sample");
}

#[test]
fn what_has_no_steps_says_why() {
    let error = |summary| ArmSteps::of(summary).unwrap_err().to_string();
    let none = error(summary(&[]));
    assert!(none.contains("no arm"), "{none}");
    let mut scan = summary(&[Arm::Recommended]);
    let size = |n: usize| SizeDirectory { directory: format!("{n}-kib\u{1b}[2J") };
    scan.own.sizes = (0..20).map(size).collect();
    let said = error(scan);
    assert!(said.contains("a scan over data sizes") && said.contains("0-kib\\u{1b}[2J, 1-kib"), "{said}");
    assert!(said.contains("15-kib") && !said.contains("16-kib") && said.contains("and 4 more"), "{said}");
    let mut long = summary(&[Arm::Recommended]);
    long.simulated = Some(simulated(&[Arm::Recommended]));
    long.simulated.as_mut().unwrap().vms[0].vm = "x".repeat(NAME_BYTES + 1);
    assert!(error(long).contains("a name of 1001 bytes"));
    let mut many = summary(&[Arm::Recommended]);
    many.blocks = vec![Block { number: 1, samples: Vec::new(), invalid: None }; MAX_BLOCKS + 1];
    assert!(error(many).contains("10001 blocks"));
}

#[test]
fn a_result_with_little_in_it_is_shown_with_reasons() {
    let mut little = summary(&[Arm::Recommended]);
    (little.matrix, little.topology, little.started_utc, little.verdict) = (None, None, None, None);
    let found = steps(little);
    let view = &found.views[0];
    assert!(view.round.matrix.reason().unwrap().contains("what the VMs shared"));
    assert!(view.round.topology.reason().unwrap().contains("the cache domains"));
    assert_eq!(view.observation.reason(), Some("nothing was measured in this experiment"));
}
