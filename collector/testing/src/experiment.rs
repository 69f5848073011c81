//! Synthetic results of an experiment. Nothing of it was measured or simulated.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::cache::{ByKind, CacheModel, Counts};
use huddle_model::counters::CounterRole;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::CpuResidency;
use huddle_model::plan::{Plan, PlanInput, Policy};
use huddle_model::rates::CounterDelta;
use huddle_model::summary::{
    AccessOrigin, Arm, Block, GuestSample, SUMMARY_SCHEMA, Sample, ShownFigures, SimulatedBlock,
    SimulatedMisses, SimulatedSample, SimulatedVcpu, Summary, VcpuProbe, figures,
};
use huddle_model::topology::Topology;

use crate::fixtures::{self, Scene};

/// Blocks of a result.
pub const BLOCKS: usize = 6;

/// What a synthetic result has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Nothing was timed.
    Nothing,
    /// Times, on a host without a PMU.
    Times,
    /// Times and counters.
    Counters,
}

/// Why a host without a PMU counts nothing.
pub const NO_PMU: &str = "this processor shows no PMU: a VM without vPMU";

/// The result of an experiment with the VMs of a scene: arms recommended, opposed, not_merged and random are simulated,
/// and the first two and the kernel's measured.
pub fn result(scene: Scene, measured: Measured, is_simulated: bool) -> Summary<ShownFigures> {
    let view = fixtures::view(scene, 1);
    let topology = view.round.topology.value().unwrap();
    let matrix = view.round.matrix.value().unwrap();
    let plan = |policy: Policy| policy.plan(&PlanInput::new(matrix, topology, &[]));
    let mut plans = BTreeMap::new();
    for arm in [Arm::Recommended, Arm::Opposed, Arm::NotMerged, Arm::Kernel] {
        plans.insert(arm.name().to_owned(), plan(arm.policy()));
    }
    let random = plan(Policy::Random);
    let of_arm = |arm: Arm| plans.get(arm.name()).unwrap_or(&random);
    let blocks: Vec<Block> = match measured {
        Measured::Nothing => Vec::new(),
        _ => (1..=BLOCKS).map(|number| block(number, measured, matrix, topology, &of_arm)).collect(),
    };
    let simulated = is_simulated.then(|| {
        let model = CacheModel::preset("paper").unwrap();
        let blocks = (1..=BLOCKS).map(|number| simulated(number, matrix, topology, &of_arm)).collect();
        SimulatedMisses::of(model, 8, AccessOrigin::KnownReads, blocks)
    });
    let text = format!(
        "{{\"schema\":\"{SUMMARY_SCHEMA}\",\"experiment\":\"microbench\",\"guest\":\"process\",\"arms\":{{}}}}"
    );
    let empty: Summary<ShownFigures> = Summary::from_json(&text).unwrap();
    let valid: Vec<&Block> = blocks.iter().collect();
    let verdict = if blocks.is_empty() { "nothing was timed" } else { "opposed took 1.80 times as long" };
    Summary {
        started_utc: Some("2026-01-02T03:04:05Z".into()),
        arms: figures(&valid, "reads/s", Sample::reads_per_s),
        llc_misses: (measured == Measured::Times).then(|| Availability::Unavailable(NO_PMU.into())),
        verdict: Some(verdict.into()),
        topology: Some(Topology::clone(topology)),
        matrix: Some(SharingMatrix::clone(matrix)),
        simulated,
        plans,
        blocks,
        ..empty
    }
}

/// The vCPUs of a matrix with the position of each one's domain.
fn placed<'a>(matrix: &'a SharingMatrix, topology: &Topology, plan: &Plan) -> Vec<(&'a str, u32, u32)> {
    let vcpus = matrix.vms().iter().flat_map(|vm| (0..vm.vcpus).map(|vcpu| (vm.name.as_str(), vcpu)));
    let at = |vm: &str, vcpu: u32| {
        let id = plan.domain_of(vm, vcpu).map_or(0, |domain| domain.id.0);
        topology.domains().iter().position(|domain| domain.id.0 == id).unwrap_or(0) as u32
    };
    vcpus.map(|(vm, vcpu)| (vm, vcpu, at(vm, vcpu))).collect()
}

/// Reads of a million that miss.
fn misses(arm: Arm, number: usize, vm: &str) -> u64 {
    let arm = match arm {
        Arm::Recommended | Arm::Control => 9_000,
        Arm::Random => 300_000,
        _ => 750_000,
    };
    arm + 100 * number as u64 + 10 * vm.len() as u64
}

fn block<'a>(
    number: usize,
    measured: Measured,
    matrix: &SharingMatrix,
    topology: &Topology,
    plan: &impl Fn(Arm) -> &'a Plan,
) -> Block {
    let sample = |arm: Arm| {
        let guest = |(vm, vcpu, domain): (&str, u32, u32)| GuestSample {
            vm: vm.to_owned(),
            vcpu,
            reads: 1_000_000,
            elapsed_ns: 500_000_000,
            busy_ns: 400_000_000,
            host: Some(VcpuProbe {
                counters: Some(match measured {
                    Measured::Counters => counted(misses(arm, number, vm)),
                    _ => CounterDelta::unavailable(NO_PMU),
                }),
                residency: Availability::Available(vec![CpuResidency {
                    cpu: topology.domains()[domain as usize].cpus.iter().next().unwrap(),
                    run_ns: Some(250_000_000),
                    ..CpuResidency::default()
                }]),
                ..VcpuProbe::default()
            }),
        };
        let guests = placed(matrix, topology, plan(arm)).into_iter().map(guest).collect();
        Sample { guests, ..Sample::new(arm) }
    };
    let samples = [Arm::Recommended, Arm::Opposed, Arm::Kernel].into_iter().map(sample).collect();
    Block { number, samples, invalid: None }
}

fn counted(misses: u64) -> CounterDelta {
    CounterDelta::recorded(0.5, (400_000_000, 400_000_000), |role| {
        Availability::Available(match role {
            CounterRole::Cycles => 1.2e9,
            CounterRole::Instructions => 4e8,
            CounterRole::LlcReferences => 1e6,
            CounterRole::LlcMisses => misses as f64,
        })
    })
}

fn simulated<'a>(
    number: usize,
    matrix: &SharingMatrix,
    topology: &Topology,
    plan: &impl Fn(Arm) -> &'a Plan,
) -> SimulatedBlock {
    let reads = |reads| ByKind { reads, ..ByKind::default() };
    let sample = |arm: Arm| {
        let vcpu = |(vm, vcpu, domain): (&str, u32, u32)| SimulatedVcpu {
            vm: vm.to_owned(),
            vcpu,
            domain,
            counts: Counts {
                accesses: reads(1_000_000),
                references: reads(1_000_000),
                misses: reads(misses(arm, number, vm)),
            },
        };
        SimulatedSample { arm, vcpus: placed(matrix, topology, plan(arm)).into_iter().map(vcpu).collect() }
    };
    let arms = [Arm::Recommended, Arm::Opposed, Arm::NotMerged, Arm::Random];
    SimulatedBlock {
        number,
        samples: arms.into_iter().map(sample).collect(),
        lost: 0,
        without_frame: 0,
        elsewhere: 0,
        set_forward: 0,
    }
}
