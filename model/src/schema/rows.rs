//! Conversion of a round and of events to rows of a recording.

use super::{DecisionRow, EventRow, GroupRow, KsmRow, PlacementRow, Rows, SharingRow, VmColumns, VmRow};
use crate::availability::Availability;
use crate::event::Event;
use crate::matrix::{MatrixVm, MemoryUse, SharingMatrix};
use crate::plan::Plan;
use crate::update::Round;
use crate::vm::{MemoryKind, Vcpu, Vm};

/// The rows of `round` with its events: equal rounds give equal rows.
///
/// One row per round in `decisions` and `ksm`, whatever was unavailable, with the reasons; none in `sharing`
/// without a matrix.
pub fn round_rows(round: &Round) -> Rows {
    let time = Window {
        begin_us: signed(round.begin_unix_us),
        end_us: signed(round.end_unix_us),
        round: round.number,
    };
    let matrix = round.matrix.value().map(|matrix| &**matrix);
    Rows {
        sharing: matrix.map(|matrix| sharing(time, matrix)).unwrap_or_default(),
        groups: matrix.map(|matrix| groups(time, matrix)).unwrap_or_default(),
        vms: round.vms.iter().map(|vm| vm_row(time, vm, matrix)).collect(),
        placements: round
            .vms
            .iter()
            .flat_map(|vm| vm.vcpus.iter().map(move |vcpu| placement(time, round, vm, vcpu)))
            .collect(),
        decisions: vec![decision(time, round)],
        ksm: vec![ksm(time, round)],
        events: event_rows(time.round, &round.events),
        ..Rows::default()
    }
}

/// The rows of events that happened in `round`.
pub fn event_rows(round: u64, events: &[Event]) -> Vec<EventRow> {
    let row = |event: &Event| {
        let vm = event.vm.as_ref().map(VmColumns::from).unwrap_or_default();
        EventRow {
            at_us: signed(event.at_unix_us),
            round,
            kind: event.kind.name().to_owned(),
            vm: event.vm.as_ref().map(|vm| vm.name.clone()),
            vm_kind: vm.vm_kind,
            uuid: vm.uuid,
            domid: vm.domid,
            message: event.message.clone(),
        }
    };
    events.iter().map(row).collect()
}

/// Time and round of a reading.
#[derive(Clone, Copy)]
struct Window {
    begin_us: i64,
    end_us: i64,
    round: u64,
}

/// Microseconds since the epoch overflow a signed integer only in the year 294247.
pub(super) fn signed(unix_us: u64) -> i64 {
    i64::try_from(unix_us).unwrap_or(i64::MAX)
}

fn sharing(time: Window, matrix: &SharingMatrix) -> Vec<SharingRow> {
    let vms = matrix.vms();
    let columns: Vec<VmColumns> = vms.iter().map(VmColumns::from).collect();
    let method = matrix.method().to_string();
    let reading = matrix.frame_reading();
    let read_by = reading.map(|reading| reading.by.to_string());
    let read_by_reason = reading.and_then(|reading| reading.reason.clone());
    let measured_in_us = matrix.duration_ms().map(|ms| (ms * 1000.0).round() as u64);
    let ordered = (0..vms.len()).flat_map(|i| (0..vms.len()).map(move |j| (i, j))).filter(|(i, j)| i != j);
    ordered
        .map(|(i, j)| SharingRow {
            begin_us: time.begin_us,
            end_us: time.end_us,
            round: time.round,
            vm: vms[i].name.clone(),
            vm_kind: columns[i].vm_kind,
            vm_pid: columns[i].pid,
            uuid: columns[i].uuid,
            domid: columns[i].domid,
            other: vms[j].name.clone(),
            other_kind: columns[j].vm_kind,
            other_pid: columns[j].pid,
            other_uuid: columns[j].uuid,
            other_domid: columns[j].domid,
            shared_frames: matrix.shared_frames(i, j),
            shared_file_frames: matrix.shared_file_frames(i, j),
            shared_frames_read: matrix.shared_frames_read(i, j),
            read_window_ms: matrix.read_window_ms(),
            rate: matrix.rate(i, j),
            method: method.clone(),
            measured_in_us,
            coverage: matrix.coverage(),
            read_by: read_by.clone(),
            read_by_reason: read_by_reason.clone(),
        })
        .collect()
}

/// Maximum number of groups that are recorded in a round, those that save most: each has a row a VM.
const MAX_RECORDED_GROUPS: usize = 512;

/// The rest first, so that its row shows that groups were counted.
fn groups(time: Window, matrix: &SharingMatrix) -> Vec<GroupRow> {
    let Some(groups) = matrix.shared_groups() else { return Vec::new() };
    let groups = groups.at_most(MAX_RECORDED_GROUPS);
    let row = |group_number: u32, frames: u64, vm: Option<&MatrixVm>| {
        let columns = vm.map(VmColumns::from).unwrap_or_default();
        GroupRow {
            begin_us: time.begin_us,
            end_us: time.end_us,
            round: time.round,
            group_number,
            frames,
            vm: vm.map(|vm| vm.name.clone()),
            vm_kind: columns.vm_kind,
            vm_pid: columns.pid,
            uuid: columns.uuid,
            domid: columns.domid,
        }
    };
    let mut rows = vec![row(0, groups.rest_frames(), None)];
    for (number, group) in (1..).zip(groups.groups()) {
        rows.extend(group.vms.iter().map(|vm| row(number, group.frames, Some(&matrix.vms()[*vm as usize]))));
    }
    rows
}

fn vm_row(time: Window, vm: &Vm, matrix: Option<&SharingMatrix>) -> VmRow {
    // A VM that ended during the scan and was restarted with its name is another process.
    let measured =
        matrix.and_then(|matrix| Some((matrix, matrix.vms().iter().position(|measured| measured.is(vm))?)));
    let memory: Option<MemoryUse> = measured.and_then(|(matrix, at)| matrix.vms()[at].memory);
    let reads_unavailable = measured.and_then(|(matrix, at)| matrix.reads_unavailable(at));
    let columns = VmColumns::from(vm);
    VmRow {
        begin_us: time.begin_us,
        end_us: time.end_us,
        round: time.round,
        vm: vm.name.clone(),
        vm_kind: columns.vm_kind,
        pid: columns.pid,
        start_ticks: columns.start_ticks,
        uuid: columns.uuid,
        domid: columns.domid,
        vmm: vm.vmm.to_string(),
        vcpus: u32::try_from(vm.vcpus.len()).unwrap_or(u32::MAX),
        mergeable_bytes: vm.memory_bytes(MemoryKind::Mergeable),
        anonymous_bytes: vm.memory_bytes(MemoryKind::Anonymous),
        private_file_bytes: Some(vm.memory_bytes(MemoryKind::PrivateFile)),
        shared_file_bytes: Some(vm.memory_bytes(MemoryKind::SharedFile)),
        shared_memory_bytes: vm.memory_bytes(MemoryKind::SharedMemory),
        hugetlb_bytes: vm.memory_bytes(MemoryKind::HugeTlb),
        device_bytes: Some(vm.memory_bytes(MemoryKind::Device)),
        firmware_bytes: Some(vm.memory_bytes(MemoryKind::Firmware)),
        pages_resident: memory.map(|m| m.pages_resident),
        pages_used: memory.map(|m| m.pages_used),
        frames_used: memory.map(|m| m.frames_used),
        pages_zero: memory.map(|m| m.pages_zero),
        self_shared_pages: memory.map(|m| m.self_shared_pages),
        pages_file: memory.and_then(|m| m.pages_file),
        reads_unavailable: reads_unavailable.map(str::to_owned),
        cannot_merge: (!vm.cannot_merge.is_empty()).then(|| vm.cannot_merge.join("\n")),
    }
}

fn placement(time: Window, round: &Round, vm: &Vm, vcpu: &Vcpu) -> PlacementRow {
    let domain = round.plan.value().and_then(|plan| plan.domain_of(&vm.name, vcpu.index));
    let in_force = round.in_force.domain(&vm.name, vcpu.index);
    let (applied, not_applied_reason) = match (domain, round.pinning.outcome()) {
        (None, _) => (None, Some(no_domain_reason(round))),
        (Some(domain), _) if in_force == Some(domain.id) => (Some(true), None),
        (Some(_), None) => (Some(false), round.pinning.reason().map(str::to_owned)),
        (Some(_), Some(outcome)) => {
            let another = "another placement is in force, as a trial demands";
            let reason = match outcome.skipped {
                0 => another.to_owned(),
                skipped => {
                    format!("it is one of {skipped} vCPUs that were skipped (see the events), or {another}")
                }
            };
            (Some(false), Some(reason))
        }
    };
    let (columns, thread) = (VmColumns::from(vm), vcpu.id.thread());
    PlacementRow {
        begin_us: time.begin_us,
        end_us: time.end_us,
        round: time.round,
        vm: vm.name.clone(),
        vm_kind: columns.vm_kind,
        vm_pid: columns.pid,
        uuid: columns.uuid,
        domid: columns.domid,
        vcpu: vcpu.index,
        thread: thread.map(|thread| thread.id),
        thread_start_ticks: thread.map(|thread| thread.start_ticks),
        cpus_before: vcpu.affinity.to_string(),
        last_cpu: vcpu.last_cpu,
        domain: domain.map(|domain| domain.id.0),
        cpus: domain.map(|domain| domain.cpus.to_string()),
        nodes: domain.and_then(|domain| domain.nodes_text()),
        applied,
        not_applied_reason,
        in_force: in_force.map(|domain| domain.0),
    }
}

fn no_domain_reason(round: &Round) -> String {
    match &round.plan {
        Availability::Unavailable(why) => format!("there is no plan: {why}"),
        Availability::Available(plan) => plan.waiting.as_ref().map_or_else(
            || "the plan leaves this vCPU to the kernel's scheduler".to_owned(),
            |waiting| format!("the plan leaves this vCPU as it is: {waiting}"),
        ),
    }
}

fn decision(time: Window, round: &Round) -> DecisionRow {
    let plan: Option<&Plan> = round.plan.value().map(|plan| &**plan);
    let pinned = round.pinning.outcome();
    DecisionRow {
        begin_us: time.begin_us,
        end_us: time.end_us,
        round: time.round,
        policy: plan.map(|plan| plan.policy.to_string()),
        reasons: plan.map(|plan| plan.reasons.join("\n")),
        shared_within_frames: plan.and_then(|plan| plan.shared_within),
        shared_total_frames: plan.and_then(|plan| plan.shared_total),
        changed: pinned.map(|outcome| outcome.changed > 0),
        threads_changed: pinned.map(|outcome| outcome.changed),
        threads_unchanged: pinned.map(|outcome| outcome.unchanged),
        threads_skipped: pinned.map(|outcome| outcome.skipped),
        sharing_unavailable: round.matrix.reason().map(str::to_owned),
        topology_unavailable: round.topology.reason().map(str::to_owned),
        plan_unavailable: round.plan.reason().map(str::to_owned),
        pin_unavailable: round.pinning.reason().map(str::to_owned),
        pinning: round.pinning.name().map(str::to_owned),
        own_cpu_us: round.own_cpu_us.value().copied(),
    }
}

fn ksm(time: Window, round: &Round) -> KsmRow {
    let state = round.ksm.value();
    KsmRow {
        begin_us: time.begin_us,
        end_us: time.end_us,
        round: time.round,
        unavailable: round.ksm.reason().map(str::to_owned),
        ksm_run: state.map(|s| s.run),
        full_scans: state.map(|s| s.full_scans),
        pages_shared: state.map(|s| s.pages_shared),
        pages_sharing: state.map(|s| s.pages_sharing),
        pages_unshared: state.map(|s| s.pages_unshared),
        pages_volatile: state.map(|s| s.pages_volatile),
        pages_skipped: state.and_then(|s| s.pages_skipped),
        ksm_zero_pages: state.and_then(|s| s.ksm_zero_pages),
        general_profit_bytes: state.and_then(|s| s.general_profit_bytes),
        pages_to_scan: state.map(|s| s.pages_to_scan),
        sleep_millisecs: state.map(|s| s.sleep_millisecs),
        smart_scan: state.and_then(|s| s.smart_scan),
        max_page_sharing: state.and_then(|s| s.max_page_sharing),
        merge_across_nodes: state.and_then(|s| s.merge_across_nodes),
        use_zero_pages: state.and_then(|s| s.use_zero_pages),
        advisor_mode: state.and_then(|s| s.advisor_mode.clone()),
    }
}

#[cfg(test)]
mod tests;
