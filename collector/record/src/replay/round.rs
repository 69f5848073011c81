//! Rebuilds a round from its rows.
//!
//! The inverse of [`huddle_model::schema::round_rows`], as far as possible. Not recorded, and so filled in:
//! - the name of a vCPU's thread: none;
//! - the process of a vCPU, which differs from its VM's in a cgroup only: that of the VM;
//! - where in its process guest memory is: one range of each kind, of the recorded size, from 0;
//! - the CPUs that a VM's cgroup allows: all that are known, so that nothing is taken as forbidden.

use std::collections::HashMap;
use std::sync::Arc;

use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::cpuset::CpuSet;
use huddle_model::event::{Event, EventKind};
use huddle_model::id::{TaskId, VcpuId, VmId, VmRef};
use huddle_model::ksm::KsmState;
use huddle_model::page_size::PageSize;
use huddle_model::pinning::{PinOutcome, Pinning};
use huddle_model::plan::{Plan, VcpuPlacement};
use huddle_model::schema::{DecisionRow, EventRow, GroupRow, KsmRow, PlacementRow, VmColumns, VmRow};
use huddle_model::text::plain;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::update::Round;
use huddle_model::vm::{GuestRegion, MemoryKind, Vcpu, Vm, VmmKind};
use serde::de::DeserializeOwned;

use super::index::{RoundTime, unsigned};
use super::matrix::{Pairs, matrix, with_groups};

/// What a recording holds of one round.
#[derive(Default)]
pub(super) struct RoundRows {
    pub(super) decision: Option<DecisionRow>,
    pub(super) ksm: Option<KsmRow>,
    pub(super) vms: Vec<VmRow>,
    pub(super) placements: Vec<PlacementRow>,
    pub(super) sharing: Pairs,
    pub(super) groups: Vec<GroupRow>,
    pub(super) events: Vec<EventRow>,
    /// Whether rows of VMs and placements may be missing: then no row does not mean "no VM".
    pub(super) has_gaps: bool,
    /// What could not be read.
    pub(super) problems: Vec<String>,
}

pub(super) fn not_recorded<T>(what: &str) -> Availability<T> {
    Availability::Unavailable(format!("the recording does not hold {what}"))
}

/// `topology` is that of the start of the recording, and `page_size` that of its manifest. Events from `until_us`
/// on, if that is known, belong to windows after the round.
pub(super) fn rebuild(
    time: RoundTime,
    until_us: Option<u64>,
    rows: RoundRows,
    topology: &Availability<Arc<Topology>>,
    page_size: PageSize,
) -> RebuiltRound {
    let decision = rows.decision.as_ref();
    let topology = match decision.and_then(|decision| decision.topology_unavailable.clone()) {
        Some(reason) => Availability::Unavailable(reason),
        None => topology_of(topology, &rows.placements),
    };
    let domains = topology.value().map(|topology| &**topology);
    let vms = vms(&rows, domains);
    let is_of_round = |event: &Event| until_us.is_none_or(|until| event.at_unix_us < until);
    let (mut events, later): (Vec<Event>, Vec<Event>) =
        rows.events.iter().map(|row| event(row, &vms)).partition(is_of_round);
    if rows.has_gaps && vms.is_empty() {
        events.push(Event {
            at_unix_us: time.end_us,
            kind: EventKind::Note,
            vm: None,
            message: "the recording does not hold which VMs there were in this round".into(),
        });
    }
    let (matrix, no_groups) = match matrix(decision, rows.sharing, &rows.vms, page_size) {
        Availability::Available(matrix) => with_groups(matrix, &rows.groups),
        unavailable => (unavailable, None),
    };
    let problems = rows.problems.into_iter().chain(unknown_vmms(&rows.vms)).chain(no_groups);
    events.extend(problems.map(|what| problem(time.end_us, what)));
    let plan = plan(decision, domains, &rows.placements).map(Arc::new);
    let round = Round {
        number: time.round,
        begin_unix_us: time.begin_us,
        end_unix_us: time.end_us,
        ksm: ksm(rows.ksm, page_size),
        matrix: matrix.map(Arc::new),
        plan,
        pinning: pinning(decision),
        in_force: Arc::new(in_force(&rows.placements)),
        topology,
        vms: Arc::new(vms),
        left_out: not_recorded("what else looked like a VM"),
        events,
        own_cpu_us: decision
            .and_then(|decision| decision.own_cpu_us)
            .map_or_else(|| not_recorded("the CPU time that huddle had used"), Availability::Available),
    };
    RebuiltRound { round: Arc::new(round), later }
}

/// A round, and the events after it was published.
pub(super) struct RebuiltRound {
    pub(super) round: Arc<Round>,
    pub(super) later: Vec<Event>,
}

/// What could not be read, as an event.
pub(super) fn problem(at_unix_us: u64, message: String) -> Event {
    Event { at_unix_us, kind: EventKind::StageFailed, vm: None, message }
}

/// The domains of the start, unless a placement of the round shows that they had changed by then.
fn topology_of(
    at_start: &Availability<Arc<Topology>>,
    placements: &[PlacementRow],
) -> Availability<Arc<Topology>> {
    let topology = match at_start {
        Availability::Available(topology) => topology,
        Availability::Unavailable(reason) => {
            return not_recorded(&format!("the cache domains: at its start there were none ({reason})"));
        }
    };
    let is_same = |row: &PlacementRow| {
        let (Some(id), Some(cpus)) = (row.domain, &row.cpus) else { return true };
        topology.domain(DomainId(id)).is_some_and(|domain| domain.cpus.to_string() == *cpus)
    };
    if placements.iter().all(is_same) {
        Availability::Available(Arc::clone(topology))
    } else {
        not_recorded("the cache domains of this round, which were others than at its start")
    }
}

fn vms(rows: &RoundRows, topology: Option<&Topology>) -> Vec<Vm> {
    // By name, process and Xen domain.
    type Key<'a> = (&'a str, Option<i32>, Option<u32>);
    let mut by_vm: HashMap<Key<'_>, Vec<&PlacementRow>> = HashMap::new();
    for row in &rows.placements {
        by_vm.entry((&row.vm, row.vm_pid, row.domid)).or_default().push(row);
    }
    // An affinity that cannot be parsed is empty.
    let affinity = |row: &PlacementRow| row.cpus_before.parse::<CpuSet>().unwrap_or_default();
    let mut known: CpuSet = topology.map(Topology::cpus).unwrap_or_default();
    known = known
        .iter()
        .chain(rows.placements.iter().flat_map(|row| affinity(row).iter().collect::<Vec<_>>()))
        .collect();
    let vm = |row: &VmRow| {
        let columns = columns_of(row);
        // Every version has either a process or a Xen domain.
        let id = columns.id()?;
        let own = by_vm.get(&(row.vm.as_str(), row.pid, row.domid)).map(Vec::as_slice).unwrap_or_default();
        let vcpu = |row: &&PlacementRow| {
            Some(Vcpu {
                index: row.vcpu,
                id: vcpu_id(id, row.vcpu, row.thread, row.thread_start_ticks)?,
                process: id.process(),
                thread_name: None,
                affinity: affinity(row),
                last_cpu: row.last_cpu,
                limits: Default::default(),
            })
        };
        Some(Vm {
            name: row.vm.clone(),
            id,
            uuid: known_uuid(&columns),
            vmid: None,
            owner: None,
            vmm: vmm(row),
            vcpus: own.iter().filter_map(vcpu).collect(),
            memory: memory(id.process(), row),
            allowed_cpus: known.clone(),
            left_out: Vec::new(),
            cannot_merge: lines(row.cannot_merge.as_deref()),
        })
    };
    rows.vms.iter().filter_map(vm).collect()
}

/// The identity of the VM of a row of the table `vms`, whatever version wrote it.
pub(super) fn columns_of(row: &VmRow) -> VmColumns {
    let VmRow { vm_kind, pid, start_ticks, uuid, domid, .. } = *row;
    VmColumns { vm_kind, pid, start_ticks, uuid, domid }.modern(vmm(row))
}

/// The UUID, unless an older version recorded only half of it.
pub(super) fn known_uuid(columns: &VmColumns) -> Option<huddle_model::id::Uuid> {
    let is_part = columns.id().and_then(|id| id.xen_domain()).is_some_and(|domain| domain.is_partly_known());
    columns.uuid.filter(|_| !is_part).map(|uuid| uuid.uuid())
}

/// The vCPU of a row, of a VM that is known; `None` where the thread of a process is missing.
pub(super) fn vcpu_id(vm: VmId, vcpu: u32, thread: Option<i32>, start_ticks: Option<u64>) -> Option<VcpuId> {
    Some(match vm {
        VmId::XenDomain(domain) => VcpuId::Xen { domain, vcpu },
        VmId::Process(_) => VcpuId::Thread(TaskId { id: thread?, start_ticks: start_ticks? }),
    })
}

/// A VM of this name, as the round has it; else as far as a row of another table identifies it.
pub(super) fn reference(name: &str, columns: VmColumns, known: Option<&Vm>) -> VmRef {
    match known {
        Some(vm) => vm.reference(),
        None => VmRef { name: name.to_owned(), id: columns.id(), uuid: columns.uuid.map(|uuid| uuid.uuid()) },
    }
}

fn memory(process: Option<TaskId>, row: &VmRow) -> Vec<GuestRegion> {
    let sizes = [
        (MemoryKind::Mergeable, row.mergeable_bytes),
        (MemoryKind::Anonymous, row.anonymous_bytes),
        (MemoryKind::PrivateFile, row.private_file_bytes.unwrap_or(0)),
        (MemoryKind::SharedFile, row.shared_file_bytes.unwrap_or(0)),
        (MemoryKind::SharedMemory, row.shared_memory_bytes),
        (MemoryKind::HugeTlb, row.hugetlb_bytes),
        (MemoryKind::Device, row.device_bytes.unwrap_or(0)),
        (MemoryKind::Firmware, row.firmware_bytes.unwrap_or(0)),
    ];
    let mut start = 0u64;
    let mut regions = Vec::new();
    for (kind, bytes) in sizes.into_iter().filter(|(_, bytes)| *bytes > 0) {
        let end = start.saturating_add(bytes);
        regions.push(GuestRegion { process, start, end, kind });
        start = end;
    }
    regions
}

/// What runs the VM of a row; what is not known is said by [`unknown_vmms`].
fn vmm(row: &VmRow) -> VmmKind {
    row.vmm.parse().unwrap_or(VmmKind::Unknown)
}

/// The VMs of which it is not known what runs them, one sentence each.
fn unknown_vmms(rows: &[VmRow]) -> impl Iterator<Item = String> {
    rows.iter().filter_map(|row| {
        let error = row.vmm.parse::<VmmKind>().err()?;
        Some(format!("the recording does not say what runs VM {}: {error}", plain(&row.vm)))
    })
}

fn lines(text: Option<&str>) -> Vec<String> {
    text.filter(|text| !text.is_empty())
        .map(|text| text.split('\n').map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The value that has this name in files.
pub(super) fn from_name<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}

fn event(row: &EventRow, vms: &[Vm]) -> Event {
    let EventRow { vm_kind, uuid, domid, .. } = *row;
    let columns = VmColumns { vm_kind, uuid, domid, ..VmColumns::default() };
    let (kind, message) = match row.kind.parse() {
        Ok(kind) => (kind, row.message.clone()),
        Err(unknown) => (EventKind::Note, format!("{unknown}: {}", row.message)),
    };
    Event {
        at_unix_us: unsigned(row.at_us),
        kind,
        vm: row.vm.as_deref().map(|name| reference(name, columns, vms.iter().find(|vm| vm.name == name))),
        message,
    }
}

fn ksm(row: Option<KsmRow>, page_size: PageSize) -> Availability<KsmState> {
    let Some(row) = row else { return not_recorded("KSM's state in this round") };
    if let Some(reason) = row.unavailable {
        return Availability::Unavailable(reason);
    }
    let state = || {
        Some(KsmState {
            run: row.ksm_run?,
            full_scans: row.full_scans?,
            pages_shared: row.pages_shared?,
            pages_sharing: row.pages_sharing?,
            pages_unshared: row.pages_unshared?,
            pages_volatile: row.pages_volatile?,
            pages_skipped: row.pages_skipped,
            ksm_zero_pages: row.ksm_zero_pages,
            general_profit_bytes: row.general_profit_bytes,
            pages_to_scan: row.pages_to_scan?,
            sleep_millisecs: row.sleep_millisecs?,
            smart_scan: row.smart_scan,
            max_page_sharing: row.max_page_sharing,
            merge_across_nodes: row.merge_across_nodes,
            use_zero_pages: row.use_zero_pages,
            advisor_mode: row.advisor_mode.clone(),
            page_size,
        })
    };
    state().map_or_else(|| not_recorded("all of KSM's state in this round"), Availability::Available)
}

fn plan(
    decision: Option<&DecisionRow>,
    topology: Option<&Topology>,
    placements: &[PlacementRow],
) -> Availability<Plan> {
    let Some(decision) = decision else { return not_recorded("what was planned in this round") };
    if let Some(reason) = &decision.plan_unavailable {
        return Availability::Unavailable(reason.clone());
    }
    let Some(policy) = &decision.policy else { return not_recorded("the policy that planned this round") };
    let policy = match policy.parse() {
        Ok(policy) => policy,
        Err(error) => {
            return Availability::Unavailable(format!("the policy of the recording is unknown: {error}"));
        }
    };
    let placed = placements.iter().filter_map(|row| {
        Some(VcpuPlacement { vm: row.vm.clone(), vcpu: row.vcpu, domain: DomainId(row.domain?) })
    });
    Availability::Available(Plan {
        policy,
        domains: topology.map_or_else(|| domains_of(placements), |topology| topology.domains().to_vec()),
        placement: placed.collect(),
        shared_within: decision.shared_within_frames,
        shared_total: decision.shared_total_frames,
        // The reasons have it as text; its parts are not recorded.
        expected: None,
        waiting: None,
        reasons: lines(decision.reasons.as_deref()),
    })
}

/// The domains that placements name.
fn domains_of(placements: &[PlacementRow]) -> Vec<CacheDomain> {
    let mut domains: Vec<CacheDomain> = Vec::new();
    for row in placements {
        let (Some(id), Some(cpus)) = (row.domain.map(DomainId), &row.cpus) else { continue };
        let Ok(cpus) = cpus.parse() else { continue };
        if domains.iter().all(|domain| domain.id != id) {
            let nodes =
                row.nodes.as_deref().and_then(|nodes| nodes.parse::<CpuSet>().ok()).unwrap_or_default();
            domains.push(CacheDomain { id, cpus, size_bytes: None, nodes: nodes.iter().collect() });
        }
    }
    domains.sort_by_key(|domain| domain.id);
    domains
}

/// What was in force at the end of the round. Up to version 5 only the plan is known, and whether it was applied.
fn in_force(placements: &[PlacementRow]) -> Assignment {
    let domain = |row: &PlacementRow| row.in_force.or(row.domain.filter(|_| row.applied == Some(true)));
    placements.iter().filter_map(|row| Some(((row.vm.clone(), row.vcpu), DomainId(domain(row)?)))).collect()
}

fn pinning(decision: Option<&DecisionRow>) -> Pinning {
    let not_recorded = |what: &str| Pinning::NotDone(format!("the recording does not hold {what}"));
    let Some(decision) = decision else { return not_recorded("whether anything was pinned in this round") };
    if let Some(reason) = &decision.pin_unavailable {
        return Pinning::recorded(decision.pinning.as_deref(), reason.clone());
    }
    match (decision.threads_changed, decision.threads_unchanged, decision.threads_skipped) {
        (Some(changed), Some(unchanged), Some(skipped)) => {
            Pinning::Done(PinOutcome { changed, unchanged, skipped })
        }
        _ => not_recorded("how many threads were pinned in this round"),
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::schema::round_rows;
    use huddle_testing::sample;

    use super::*;

    /// The round of a recording whose rows were changed in this way.
    fn rebuilt(change: impl FnOnce(&mut huddle_model::schema::Rows)) -> (Arc<Round>, Arc<Round>) {
        let original = sample::view(3, 3).round;
        let mut rows = round_rows(&original);
        change(&mut rows);
        let mut sharing = Pairs::default();
        rows.sharing.into_iter().for_each(|row| sharing.push(row));
        let rows = RoundRows {
            decision: rows.decisions.pop(),
            ksm: rows.ksm.pop(),
            vms: rows.vms,
            placements: rows.placements,
            sharing,
            groups: rows.groups,
            events: rows.events,
            ..RoundRows::default()
        };
        let time = RoundTime { round: 3, begin_us: original.begin_unix_us, end_us: original.end_unix_us };
        let round = rebuild(time, None, rows, &original.topology, PageSize::default()).round;
        (original, round)
    }

    #[test]
    fn names_that_this_version_does_not_know_are_not_taken_for_others() {
        let (original, same) = rebuilt(|_| {});
        assert_eq!(same.matrix, original.matrix);
        assert_eq!(same.vms[0].vmm, original.vms[0].vmm);

        let (_, round) = rebuilt(|rows| {
            rows.vms[0].vmm = "bhyve".into();
            rows.sharing.iter_mut().for_each(|row| row.method = "guessed".into());
            rows.events[0].kind = "vm_moved".into();
        });
        assert_eq!(round.vms[0].vmm, VmmKind::Unknown);
        assert_eq!(round.vms[1].vmm, original.vms[1].vmm);
        let said = "the recording does not say what runs VM vm0: unknown kind of VMM \"bhyve\"";
        assert!(round.events.iter().any(|event| event.message == said), "{:?}", round.events);
        let reason = round.matrix.reason().unwrap();
        assert!(reason.ends_with("unknown method of measurement \"guessed\""), "{reason}");
        let moved = format!("unknown kind of event \"vm_moved\": {}", original.events[0].message);
        assert!(round.events.iter().any(|event| event.message == moved && event.kind == EventKind::Note));
    }

    #[test]
    fn reads_are_as_they_were_and_one_without_a_reason_is_not_seen() {
        let (original, round) = rebuilt(|_| {});
        let matrix = round.matrix.value().unwrap();
        assert_eq!(round.matrix, original.matrix);
        assert_eq!((matrix.shared_frames_read(0, 1), matrix.shared_frames_read(0, 2)), (Some(101), None));
        assert_eq!(matrix.reads_unavailable(2), Some("it runs in KVM"));
        let (_, round) = rebuilt(|rows| rows.vms.iter_mut().for_each(|row| row.reads_unavailable = None));
        let matrix = round.matrix.value().unwrap();
        assert_eq!(matrix.shared_frames(0, 1), original.matrix.value().unwrap().shared_frames(0, 1));
        assert_eq!((matrix.shared_frames_read(0, 1), matrix.shared_frames_read(0, 2)), (Some(101), None));
        assert!(matrix.reads_unavailable(2).unwrap().contains("does not say why"));
    }

    #[test]
    fn groups_of_which_rows_are_missing_are_left_out_and_the_pairs_stay() {
        let (original, round) = rebuilt(|rows| _ = rows.groups.pop());
        let (was, matrix) = (original.matrix.value().unwrap(), round.matrix.value().unwrap());
        assert!(was.shared_groups().is_some() && matrix.shared_groups().is_none());
        assert_eq!(matrix.shared_frames(0, 1), was.shared_frames(0, 1));
        let says = |event: &&Event| event.message.contains("does not hold the groups of this round");
        assert_eq!(round.events.iter().filter(says).count(), 1, "{:?}", round.events);
    }
}
