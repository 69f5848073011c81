//! Views with a window of counters, for recordings. Nothing of it was measured.
//!
//! Odd rounds run the arm `before`, even ones `paper`, two rounds a block. In `before` a VM has 10 misses
//! per 1000 instructions, in `paper` 8, and each block has 1 % more of both than the one before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::counters::{CounterRole, Counts, GroupReading};
use huddle_model::observation::{
    CountedEvent, CpuResidency, LossObservation, MergeObservation, Observation, OccupancyObservation,
    ProgramCost, ProgramObservation, ReportObservation, TrialBlock, VcpuObservation,
};
use huddle_model::rates::CounterDelta;
use huddle_model::schema::{ResponseRow, Rows, VmColumns};
use huddle_model::stats::Estimate;
use huddle_model::topology::DomainId;
use huddle_model::trial::{Arm, Comparison, Decision, Evidence, Objective, Outcome, Phase};
use huddle_model::view::View;
use huddle_model::vm::Vm;

use crate::sample;

/// The arms, in the order of the rounds of a block.
pub const ARMS: [&str; 2] = ["before", "paper"];

/// [`sample::view`] with the window of the same number, and from round 4 on a decision.
pub fn observed(round: u64, vms: usize) -> View {
    let mut view = sample::view(round, vms);
    view.observation = Availability::Available(Arc::new(observation(&view)));
    view.comparison = Availability::Available(Arc::new(comparison(round)));
    view.decisions = Arc::new(if round >= 4 { vec![decision()] } else { Vec::new() });
    view
}

/// Requests that a load generator timed in the window of `view`: 20 requests to the first VM, of which the
/// last timed out and the one before it was an error.
pub fn responses(view: &View) -> Rows {
    let round = &view.round;
    let (block, arm) = ((round.number - 1) / 2, (round.number - 1) % 2);
    let of = VmColumns::from(&round.vms[0]);
    let response = |number: u64| ResponseRow {
        at_us: (round.begin_unix_us + 1000 * number) as i64,
        window: round.number,
        round: round.number,
        vm: round.vms[0].name.clone(),
        vm_kind: of.vm_kind,
        uuid: of.uuid,
        domid: of.domid,
        trial: Some(1),
        arm: Some(ARMS[arm as usize].into()),
        block: Some(block as u32),
        latency_us: Some(match number {
            19 => 1e6,
            number => 6000.0 - 900.0 * arm as f64 + ((number * number) % 23) as f64 * 40.0,
        }),
        failure: match number {
            19 => Some("timed_out".into()),
            18 => Some("status".into()),
            _ => None,
        },
        status: match number {
            19 => None,
            18 => Some(503),
            _ => Some(200),
        },
    };
    Rows { responses: (0..20).map(response).collect(), ..Rows::default() }
}

fn observation(view: &View) -> Observation {
    let (round, vms, begin_unix_us) = (view.round.number, &view.round.vms, view.round.begin_unix_us);
    let (block, arm) = ((round - 1) / 2, (round - 1) % 2);
    let vcpus = vms.iter().enumerate().flat_map(|(number, vm)| {
        vm.vcpus.iter().map(move |vcpu| VcpuObservation {
            vm: vm.name.clone(),
            vcpu: vcpu.index,
            id: vcpu.id,
            process: vm.process(),
            counters: delta(block, arm, number as u64),
            residency: Availability::Available(vec![
                residency(0, 700_000_000 - 300_000_000 * arm),
                residency(1, 100_000_000),
            ]),
            run_ns_anywhere: None,
            migrations: Availability::Available(2),
            // In each block's `before` part the first VM moved.
            domain_migrations: Availability::Available(u64::from(number == 0 && arm == 0)),
            guest_entries: Availability::Available(50),
            guest_ns: Availability::Available(600_000_000),
            exits: Availability::Available(BTreeMap::from([(1, 30), (12, 20)])),
        })
    });
    let merging = vms.iter().enumerate().map(|(number, vm)| MergeObservation {
        vm: vm.name.clone(),
        id: vm.id,
        merged_now: Availability::Available(200),
        merges: Availability::Available(7),
        // Pages of the last VM are written to in the third block.
        breaks: Availability::Available(u64::from(block == 2 && number + 1 == vms.len())),
        failed: Availability::Unavailable("not watched".into()),
    });
    let reported = vms.iter().take(2).enumerate().map(|(number, vm)| ReportObservation {
        vm: vm.name.clone(),
        operations: 1000 + 150 * arm + 3 * block,
        latency_us: Some(5.0 + number as f64 - 0.8 * arm as f64 + 0.05 * block as f64),
    });
    let occupancy = vms.iter().map(|vm| OccupancyObservation {
        vm: vm.name.clone(),
        cache: 0,
        domain: Some(DomainId(0)),
        llc_bytes: Availability::Available(4 << 20),
        total_bytes: Availability::Available(10 << 20),
        local_bytes: Availability::Unavailable("not measured by this processor".into()),
    });
    Observation {
        window: round,
        round,
        vms: vms.iter().map(Vm::reference).collect(),
        trial: Some(TrialBlock {
            trial: 1,
            arm: ARMS[arm as usize].into(),
            block: block as u32,
            outside: Vec::new(),
        }),
        begin_unix_us,
        end_unix_us: begin_unix_us + 1_000_000,
        vcpus: vcpus.collect(),
        merging: merging.collect(),
        occupancy: Availability::Available(occupancy.collect()),
        reported: reported.collect(),
        events: CounterRole::ALL
            .iter()
            .map(|role| CountedEvent {
                role: *role,
                event: Availability::Available(format!("event of {}", role.name())),
            })
            .collect(),
        programs: vec![
            ProgramObservation {
                name: "sched_switch".into(),
                cost: Availability::Available(ProgramCost { runs: 400, run_ns: 90_000 }),
            },
            ProgramObservation {
                name: "kvm_exit".into(),
                cost: Availability::Unavailable("no KVM here".into()),
            },
        ],
        losses: Availability::Available(LossObservation { ksm_events: 1, ..Default::default() }),
        own_cpu_us: Availability::Available(900),
        reading_cpu_us: Availability::Available(300),
    }
}

/// 1 000 000 instructions and more in a second; the second VM's counters share the PMU.
fn delta(block: u64, arm: u64, number: u64) -> CounterDelta {
    let instructions = 1_000_000 + 10_000 * number;
    let misses = instructions / 1000 * if arm == 0 { 10 } else { 8 };
    let counted = if number == 1 { 2 } else { 1 };
    let later = GroupReading {
        begin_ns: 1_000_000_000,
        end_ns: 1_000_000_000,
        time_enabled_ns: 800_000_000,
        time_running_ns: 800_000_000 / counted,
        counts: Counts {
            cycles: Some(2 * instructions / counted),
            instructions: Some(instructions / counted),
            llc_references: Some(20 * instructions / 1000 / counted),
            llc_misses: Some((misses + misses * block / 100) / counted),
        },
    };
    let none =
        Counts { cycles: Some(0), instructions: Some(0), llc_references: Some(0), llc_misses: Some(0) };
    CounterDelta::between(&GroupReading { counts: none, ..Default::default() }, &later)
}

fn residency(cpu: u32, run_ns: u64) -> CpuResidency {
    CpuResidency {
        cpu,
        run_ns: Some(run_ns),
        switches: Some(12),
        clock_samples: Some(run_ns / 10_000_000),
        miss_samples: None,
    }
}

fn comparison(round: u64) -> Comparison {
    let arms = ARMS.iter().map(|name| Arm {
        name: (*name).into(),
        value: Availability::Unavailable("the trial has just begun".into()),
        blocks: Vec::new(),
    });
    Comparison {
        objective: Objective::Mpki,
        phase: Phase::Trial { block: round as u32, blocks: 12 },
        arms: arms.collect(),
    }
}

fn decision() -> Decision {
    Decision {
        at_unix_us: 1_700_000_004_000_000,
        round: 4,
        objective: Objective::Mpki,
        proposal: "paper: 2 VMs to one domain".into(),
        expected_change: Some(0.25),
        observed_change: Some(Estimate { n: 8, median: 0.2, ci95: Some([0.15, 0.24]) }),
        trial: Some(1),
        evidence: Some(Evidence { value: 55.5, required: 40.0 }),
        outcome: Outcome::Kept,
        reason: "fewer misses".into(),
    }
}
