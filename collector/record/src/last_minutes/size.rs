//! How much memory a step takes: an estimate from its lengths, since the allocator does not tell.

use std::mem::size_of;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::event::Event;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::{
    CountedEvent, CpuResidency, MergeObservation, Observation, OccupancyObservation, ProgramObservation,
    ReportObservation, VcpuObservation,
};
use huddle_model::plan::{Plan, VcpuPlacement};
use huddle_model::trial::{Arm, Decision};
use huddle_model::update::{Round, Update};
use huddle_model::vm::{GuestRegion, Vcpu, Vm, VmRef};

/// What an allocation costs besides what was asked for: glibc's header, and half of its granularity of 16 bytes.
const OVERHEAD: u64 = 16;
/// An entry of a map of small numbers, with its part of the tree's nodes.
const MAP_ENTRY: u64 = 24;

fn text(length: usize) -> u64 {
    if length == 0 { 0 } else { length as u64 + OVERHEAD }
}

fn list<T>(length: usize) -> u64 {
    if length == 0 { 0 } else { (length * size_of::<T>()) as u64 + OVERHEAD }
}

fn reason<T>(value: &Availability<T>) -> u64 {
    text(value.reason().map_or(0, str::len))
}

/// Estimates one step after the other: what a round shares with the one before it counts once.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    last: Option<Arc<Round>>,
}

impl Sizes {
    /// Bytes that the updates take beyond what earlier ones hold already.
    pub(super) fn of(&mut self, updates: &[Update]) -> u64 {
        let sum: u64 = updates.iter().map(|update| self.of_update(update)).sum();
        sum + list::<Update>(updates.len())
    }

    fn of_update(&mut self, update: &Update) -> u64 {
        match update {
            Update::Round(round) => {
                let bytes = of_round(round, self.last.as_deref());
                self.last = Some(Arc::clone(round));
                bytes
            }
            Update::Window(window) => reason(window) + window.value().map_or(0, |window| of_window(window)),
            Update::Switch { in_force, .. } => list::<VcpuPlacement>(in_force.len()) * 2,
            Update::Comparison(comparison) => {
                let arms = comparison.value().map_or(&[][..], |comparison| &comparison.arms);
                reason(comparison)
                    + list::<Arm>(arms.len())
                    + arms.iter().map(|arm| text(arm.name.len()) + list::<f64>(arm.blocks.len())).sum::<u64>()
            }
            Update::Event(event) => of_event(event),
            Update::Decision(decision) => of_decision(decision),
        }
    }
}

fn of_event(event: &Event) -> u64 {
    text(event.message.len()) + event.vm.as_ref().map_or(0, of_reference)
}

fn of_decision(decision: &Decision) -> u64 {
    text(decision.proposal.len()) + text(decision.reason.len())
}

fn of_reference(vm: &VmRef) -> u64 {
    text(vm.name.len())
}

fn of_window(window: &Observation) -> u64 {
    let occupancy = window.occupancy.value().map_or(&[][..], |occupancy| occupancy);
    let head = size_of::<Observation>() as u64 + OVERHEAD + reason(&window.losses);
    let lists = list::<VmRef>(window.vms.len())
        + list::<VcpuObservation>(window.vcpus.len())
        + list::<MergeObservation>(window.merging.len())
        + list::<OccupancyObservation>(occupancy.len())
        + list::<ReportObservation>(window.reported.len())
        + list::<CountedEvent>(window.events.len())
        + list::<ProgramObservation>(window.programs.len());
    let vms: u64 = window.vms.iter().map(of_reference).sum();
    let vcpus: u64 = window.vcpus.iter().map(of_vcpu).sum();
    let merging = window.merging.iter().map(|of| {
        text(of.vm.len())
            + reason(&of.merged_now)
            + reason(&of.merges)
            + reason(&of.breaks)
            + reason(&of.failed)
    });
    let occupied = occupancy.iter().map(|of| {
        text(of.vm.len()) + reason(&of.llc_bytes) + reason(&of.total_bytes) + reason(&of.local_bytes)
    });
    let reported: u64 = window.reported.iter().map(|of| text(of.vm.len())).sum();
    let events =
        window.events.iter().map(|of| reason(&of.event) + text(of.event.value().map_or(0, String::len)));
    let programs = window.programs.iter().map(|of| text(of.name.len()) + reason(&of.cost));
    head + lists
        + vms
        + vcpus
        + merging.sum::<u64>()
        + occupied.sum::<u64>()
        + reason(&window.occupancy)
        + reported
        + events.sum::<u64>()
        + programs.sum::<u64>()
}

fn of_vcpu(vcpu: &VcpuObservation) -> u64 {
    let counts: u64 = CounterRole::ALL.map(|role| reason(vcpu.counters.count(role))).iter().sum();
    text(vcpu.vm.len())
        + counts
        + reason(&vcpu.residency)
        + list::<CpuResidency>(vcpu.residency.value().map_or(0, Vec::len))
        + reason(&vcpu.migrations)
        + reason(&vcpu.domain_migrations)
        + reason(&vcpu.guest_entries)
        + reason(&vcpu.guest_ns)
        + reason(&vcpu.exits)
        + vcpu.exits.value().map_or(0, |exits| MAP_ENTRY * exits.len() as u64)
}

fn of_round(round: &Round, before: Option<&Round>) -> u64 {
    let is_new = |same: &dyn Fn(&Round) -> bool| !before.is_some_and(same);
    let mut bytes = size_of::<Round>() as u64 + OVERHEAD;
    bytes += list::<Event>(round.events.len()) + round.events.iter().map(of_event).sum::<u64>();
    bytes += reason(&round.matrix) + reason(&round.plan) + reason(&round.topology) + reason(&round.ksm);
    if is_new(&|before| Arc::ptr_eq(&before.vms, &round.vms)) {
        bytes += list::<Vm>(round.vms.len()) + round.vms.iter().map(of_vm).sum::<u64>();
    }
    if is_new(&|before| Arc::ptr_eq(&before.in_force, &round.in_force)) {
        bytes += list::<VcpuPlacement>(round.in_force.len()) * 2;
    }
    if let Some(plan) = round.plan.value()
        && is_new(&|before| before.plan.value().is_some_and(|before| Arc::ptr_eq(before, plan)))
    {
        bytes += size_of::<Plan>() as u64
            + list::<VcpuPlacement>(plan.placement.len())
            + plan.placement.iter().map(|placed| text(placed.vm.len())).sum::<u64>()
            + plan.reasons.iter().map(|reason| text(reason.len()) + size_of::<String>() as u64).sum::<u64>();
    }
    if let Some(matrix) = round.matrix.value()
        && is_new(&|before| before.matrix.value().is_some_and(|before| Arc::ptr_eq(before, matrix)))
    {
        let has_cells =
            is_new(&|before| before.matrix.value().is_some_and(|before| before.same_sharing_as(matrix)));
        bytes += of_matrix(matrix, has_cells);
    }
    bytes
}

fn of_matrix(matrix: &SharingMatrix, has_cells: bool) -> u64 {
    let n = matrix.len() as u64;
    let vm = size_of::<huddle_model::matrix::MatrixVm>() as u64;
    let names: u64 = matrix.vms().iter().map(|vm| text(vm.name.len())).sum();
    let cells = if has_cells {
        // Rates, frames, and what an estimate has besides: error and two ends of an interval.
        let tables = 1
            + u64::from(n > 1 && matrix.shared_frames(0, 1).is_some())
            + if n > 1 && matrix.rate_error(0, 1).is_some() { 3 } else { 0 }
            + u64::from(matrix.read_window_ms().is_some()) * 2;
        let groups = matrix.shared_groups().map_or(0, |groups| {
            groups.groups().iter().map(|group| list::<u32>(group.vms.len()) + 32).sum::<u64>()
        });
        tables * n * (n * 8 + 24 + OVERHEAD) + groups
    } else {
        0
    };
    size_of::<SharingMatrix>() as u64 + OVERHEAD + n * vm + names + cells
}

fn of_vm(vm: &Vm) -> u64 {
    let texts =
        |texts: &[String]| texts.iter().map(|one| text(one.len()) + size_of::<String>() as u64).sum::<u64>();
    let vcpus = vm
        .vcpus
        .iter()
        .map(|vcpu| text(vcpu.thread_name.as_ref().map_or(0, String::len)) + 2 * (MAP_ENTRY + OVERHEAD));
    text(vm.name.len())
        + list::<Vcpu>(vm.vcpus.len())
        + vcpus.sum::<u64>()
        + list::<GuestRegion>(vm.memory.len())
        + texts(&vm.left_out)
        + texts(&vm.cannot_merge)
}
