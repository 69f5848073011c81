//! How much memory steps take: an estimate from their lengths, since the allocator does not tell.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem::size_of;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::event::Event;
use huddle_model::matrix::{MatrixVm, SharedGroup, SharedGroups, SharingMatrix};
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

/// What the kept steps take. Rounds share what did not change between them: such a part counts once, for as long as a step
/// that has it is kept.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    bytes: u64,
    /// The parts, by their addresses, which are their own since a kept step holds each.
    parts: HashMap<usize, Part>,
}

/// A part that several rounds may have.
#[derive(Debug)]
struct Part {
    bytes: u64,
    /// How many of the kept rounds have it.
    rounds: usize,
}

/// What was counted of one step.
#[derive(Debug)]
pub(super) struct Counted {
    /// What no other step has.
    own_bytes: u64,
    /// The addresses of its parts.
    parts: Vec<usize>,
}

impl Sizes {
    /// What all steps that were added and not removed take together, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a step.
    pub(super) fn add(&mut self, updates: &[Update]) -> Counted {
        let mut parts = Vec::new();
        let sum: u64 = updates.iter().map(|update| self.of_update(update, &mut parts)).sum();
        let own_bytes = sum + list::<Update>(updates.len());
        self.bytes += own_bytes;
        Counted { own_bytes, parts }
    }

    /// Removes a step that was added, and the parts that only it had.
    pub(super) fn remove(&mut self, step: Counted) {
        self.bytes -= step.own_bytes;
        for address in step.parts {
            if let Entry::Occupied(mut part) = self.parts.entry(address) {
                part.get_mut().rounds -= 1;
                if part.get().rounds == 0 {
                    self.bytes -= part.remove().bytes;
                }
            }
        }
    }

    /// What nothing else has of an update; what others may have is added and its addresses are added to `parts`.
    fn of_update(&mut self, update: &Update, parts: &mut Vec<usize>) -> u64 {
        match update {
            Update::Round(round) => {
                self.add_parts(round, parts);
                of_round(round)
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

    fn add_parts(&mut self, round: &Round, parts: &mut Vec<usize>) {
        let mut add = |address: usize, bytes: &dyn Fn() -> u64| {
            let part = self.parts.entry(address).or_insert_with(|| {
                let bytes = bytes();
                self.bytes += bytes;
                Part { bytes, rounds: 0 }
            });
            part.rounds += 1;
            parts.push(address);
        };
        add(Arc::as_ptr(&round.vms).addr(), &|| of_vms(&round.vms));
        add(Arc::as_ptr(&round.in_force).addr(), &|| list::<VcpuPlacement>(round.in_force.len()) * 2);
        if let Some(plan) = round.plan.value() {
            add(Arc::as_ptr(plan).addr(), &|| of_plan(plan));
        }
        if let Some(matrix) = round.matrix.value() {
            add(Arc::as_ptr(matrix).addr(), &|| of_matrix(matrix));
            add(matrix.cells_address(), &|| of_cells(matrix));
            if let Some(address) = matrix.reads_address() {
                add(address, &|| of_reads(matrix));
            }
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

/// Without the parts that other rounds may have. The topology is not counted: it does not change while a loop runs.
fn of_round(round: &Round) -> u64 {
    let events = list::<Event>(round.events.len()) + round.events.iter().map(of_event).sum::<u64>();
    let reasons = reason(&round.matrix) + reason(&round.plan) + reason(&round.topology) + reason(&round.ksm);
    size_of::<Round>() as u64 + OVERHEAD + events + reasons
}

fn of_vms(vms: &[Vm]) -> u64 {
    list::<Vm>(vms.len()) + vms.iter().map(of_vm).sum::<u64>()
}

fn of_plan(plan: &Plan) -> u64 {
    size_of::<Plan>() as u64
        + list::<VcpuPlacement>(plan.placement.len())
        + plan.placement.iter().map(|placed| text(placed.vm.len())).sum::<u64>()
        + plan.reasons.iter().map(|reason| text(reason.len()) + size_of::<String>() as u64).sum::<u64>()
}

/// A matrix without its cells and what was read.
fn of_matrix(matrix: &SharingMatrix) -> u64 {
    let vms = list::<MatrixVm>(matrix.len());
    let names: u64 = matrix.vms().iter().map(|vm| text(vm.name.len())).sum();
    size_of::<SharingMatrix>() as u64 + OVERHEAD + vms + names
}

fn of_cells(matrix: &SharingMatrix) -> u64 {
    let n = matrix.len();
    // Rates, frames, and what an estimate has besides: error and two ends of an interval.
    let tables = 1
        + u64::from(n > 1 && matrix.shared_frames(0, 1).is_some())
        + u64::from(n > 1 && matrix.shared_file_frames(0, 1).is_some())
        + if n > 1 && matrix.rate_error(0, 1).is_some() { 3 } else { 0 };
    tables * table(n) + of_groups(matrix.shared_groups())
}

fn of_reads(matrix: &SharingMatrix) -> u64 {
    let reasons = (0..matrix.len()).filter_map(|vm| matrix.reads_unavailable(vm));
    table(matrix.len())
        + list::<Option<String>>(matrix.len())
        + reasons.map(|reason| text(reason.len())).sum::<u64>()
        + of_groups(matrix.read_groups())
}

/// A row of numbers of eight bytes for each VM.
fn table(vms: usize) -> u64 {
    list::<Vec<u64>>(vms) + vms as u64 * list::<u64>(vms)
}

fn of_groups(groups: Option<&SharedGroups>) -> u64 {
    let groups = groups.map_or(&[][..], |groups| groups.groups());
    list::<SharedGroup>(groups.len()) + groups.iter().map(|group| list::<u32>(group.vms.len())).sum::<u64>()
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
