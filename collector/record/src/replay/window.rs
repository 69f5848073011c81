//! Rebuilds an observation from the rows of a window.
//!
//! The inverse of [`huddle_model::schema::observation_rows`]. Most reasons are not recorded; the reason then is that
//! the recording has none.

use std::collections::{BTreeMap, HashMap, HashSet};

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::id::{TaskId, VmId, VmRef, XenDomainId};
use huddle_model::observation::{
    CountedEvent, CpuResidency, LossObservation, MergeObservation, Observation, OccupancyObservation,
    ProgramCost, ProgramObservation, ReportObservation, TrialBlock, VcpuObservation,
};
use huddle_model::rates::CounterDelta;
use huddle_model::schema::{
    CounterRow, ExitRow, MergingRow, OccupancyRow, ProgramRow, ReportRow, ResidencyRow, UuidText, VmColumns,
    WindowRow,
};
use huddle_model::topology::DomainId;
use huddle_model::vm::Vm;

use super::index::unsigned;
use super::round::{reference, vcpu_id};

/// What a recording holds of one window.
#[derive(Default)]
pub(super) struct WindowRows {
    pub(super) counters: Vec<CounterRow>,
    pub(super) residency: Vec<ResidencyRow>,
    pub(super) exits: Vec<ExitRow>,
    pub(super) merging: Vec<MergingRow>,
    pub(super) occupancy: Vec<OccupancyRow>,
    pub(super) reported: Vec<ReportRow>,
    pub(super) programs: Vec<ProgramRow>,
    pub(super) window: Option<WindowRow>,
}

/// `vms` are those of the round: they distinguish processes of the same number.
pub(super) fn rebuild(rows: WindowRows, vms: &[Vm]) -> Availability<Observation> {
    let Some(window) = &rows.window else {
        return Availability::Unavailable("the recording does not hold this window".into());
    };
    let vm_index = VmIndex::new(vms);
    let mut residency: HashMap<(&str, u32, Option<i32>), Vec<CpuResidency>> = HashMap::new();
    for row in &rows.residency {
        residency.entry((&row.vm, row.vcpu, row.thread)).or_default().push(CpuResidency {
            cpu: row.cpu,
            run_ns: row.run_ns,
            switches: row.switches,
            clock_samples: row.clock_samples,
            miss_samples: row.miss_samples,
        });
    }
    let mut exits: HashMap<(&str, u32), BTreeMap<u32, u64>> = HashMap::new();
    for row in &rows.exits {
        exits.entry((&row.vm, row.vcpu)).or_default().insert(row.reason, row.exits);
    }
    let vcpu = |row: &CounterRow| {
        let of = vm_index.of(&row.vm, row.vm_pid, row.uuid, row.domid)?;
        let ran = residency.get(&(row.vm.as_str(), row.vcpu, row.thread)).cloned();
        let left = exits.get(&(row.vm.as_str(), row.vcpu)).cloned();
        // A thread that was observed and did not run has no row of residency; its migrations are known.
        let ran = ran.or_else(|| row.migrations.map(|_| Vec::new()));
        Some(VcpuObservation {
            vm: row.vm.clone(),
            vcpu: row.vcpu,
            id: vcpu_id(of, row.vcpu, row.thread, row.thread_start_ticks)?,
            process: of.process(),
            counters: delta(row),
            run_ns_anywhere: row.run_ns.filter(|_| ran.is_none()),
            residency: recorded(ran, "where this vCPU ran"),
            migrations: recorded(row.migrations, "the migrations of this vCPU"),
            domain_migrations: recorded(row.domain_migrations, "the moves of this vCPU between domains"),
            guest_entries: recorded(row.guest_entries, "the guest entries of this vCPU"),
            guest_ns: recorded(row.guest_ns, "the guest time of this vCPU"),
            exits: recorded(
                left.or_else(|| row.guest_exits.map(|_| BTreeMap::new())),
                "the guest exits of this vCPU",
            ),
        })
    };
    let trial = part_of_trial(&rows);
    Availability::Available(Observation {
        window: window.window,
        round: window.round,
        trial,
        vms: vm_index.all(&rows),
        begin_unix_us: unsigned(window.begin_us),
        end_unix_us: unsigned(window.end_us),
        vcpus: rows.counters.iter().filter_map(vcpu).collect(),
        merging: rows
            .merging
            .iter()
            .filter_map(|row| Some(merging(row, vm_index.of(&row.vm, row.vm_pid, row.uuid, row.domid)?)))
            .collect(),
        occupancy: occupancy(&rows.occupancy),
        reported: rows
            .reported
            .iter()
            .map(|row| ReportObservation {
                vm: row.vm.clone(),
                operations: row.operations,
                latency_us: row.latency_us,
            })
            .collect(),
        events: events(window),
        programs: rows.programs.iter().map(program).collect(),
        losses: losses(window),
        own_cpu_us: recorded(window.own_cpu_us, "the CPU time of this process in this window"),
        reading_cpu_us: recorded(window.reading_cpu_us, "the CPU time of reading in this window"),
    })
}

/// The VMs of the round, by process and by name.
struct VmIndex<'a> {
    started: HashMap<i32, u64>,
    by_name: HashMap<&'a str, &'a Vm>,
}

impl<'a> VmIndex<'a> {
    fn new(vms: &'a [Vm]) -> Self {
        let started = vms.iter().filter_map(Vm::process).map(|process| (process.id, process.start_ticks));
        let by_name = vms.iter().map(|vm| (vm.name.as_str(), vm));
        Self { started: started.collect(), by_name: by_name.collect() }
    }

    /// The VM of a row; `None` if it has neither a process nor a Xen domain. A process that the round does not have gets
    /// the start time 0.
    fn of(&self, name: &str, pid: Option<i32>, uuid: Option<UuidText>, domid: Option<u32>) -> Option<VmId> {
        if let (Some(domid), Some(uuid)) = (domid, uuid) {
            return Some(VmId::XenDomain(XenDomainId { domid, uuid: uuid.uuid() }));
        }
        let pid = pid?;
        // Before version 4 this column had the number of a Xen domain.
        let of_name = self.by_name.get(name).map(|vm| vm.id);
        let of_domain = of_name.filter(|id| id.xen_domain().is_some() && id.number() == i64::from(pid));
        let start_ticks = self.started.get(&pid).copied().unwrap_or(0);
        Some(of_domain.unwrap_or(VmId::Process(TaskId { id: pid, start_ticks })))
    }

    /// All VMs that a row of the window names.
    fn all(&self, rows: &WindowRows) -> Vec<VmRef> {
        let merging = rows.merging.iter().map(|row| (&row.vm, row.vm_pid, row.uuid, row.domid));
        let counters = rows.counters.iter().map(|row| (&row.vm, row.vm_pid, row.uuid, row.domid));
        let occupancy = rows.occupancy.iter().map(|row| (&row.vm, None, row.uuid, row.domid));
        let reported = rows.reported.iter().map(|row| (&row.vm, None, row.uuid, row.domid));
        let mut found: Vec<VmRef> = Vec::new();
        let mut names = HashSet::new();
        for (name, pid, uuid, domid) in merging.chain(counters).chain(occupancy).chain(reported) {
            if !names.insert(name) {
                continue;
            }
            let columns = VmColumns { uuid, domid, ..VmColumns::default() };
            let known = reference(name, columns, self.by_name.get(name.as_str()).copied());
            let id = self.of(name, pid, uuid, domid).or(known.id);
            found.push(VmRef { id, ..known });
        }
        found
    }
}

/// The value, or that it was unavailable for a reason that the recording does not have.
fn recorded<T>(value: Option<T>, what: &str) -> Availability<T> {
    value.map_or_else(
        || Availability::Unavailable(format!("the recording does not hold {what}, nor why not")),
        Availability::Available,
    )
}

fn delta(row: &CounterRow) -> CounterDelta {
    let times = (row.time_enabled_ns.unwrap_or(0), row.time_running_ns.unwrap_or(0));
    CounterDelta::recorded(row.interval_ns.map_or(0.0, |ns| ns as f64 / 1e9), times, |role| {
        let count = match role {
            CounterRole::Cycles => row.cycles,
            CounterRole::Instructions => row.instructions,
            CounterRole::LlcReferences => row.llc_references,
            CounterRole::LlcMisses => row.llc_misses,
        };
        match (count, role, &row.unavailable) {
            (None, CounterRole::LlcMisses, Some(reason)) => Availability::Unavailable(reason.clone()),
            (None, _, Some(reason)) => Availability::Unavailable(format!(
                "the recording does not hold {}, and has a reason for LLC misses only: {reason}",
                role.name()
            )),
            (count, ..) => recorded(count, role.name()),
        }
    })
}

fn merging(row: &MergingRow, id: VmId) -> MergeObservation {
    MergeObservation {
        vm: row.vm.clone(),
        id,
        merged_now: recorded(row.pages_merged_now, "the merged pages of this VM"),
        merges: recorded(row.pages_merged, "the merges of this VM"),
        breaks: recorded(row.pages_broken, "the breaks of this VM"),
        failed: recorded(row.merges_failed, "the failed merges of this VM"),
    }
}

/// The part of a trial that the window belongs to: rows of VMs that are no part of it have none.
fn part_of_trial(rows: &WindowRows) -> Option<TrialBlock> {
    let counters = rows.counters.iter().map(|row| (&row.vm, row.trial, &row.arm, row.block));
    let parts = counters.chain(rows.reported.iter().map(|row| (&row.vm, row.trial, &row.arm, row.block)));
    let part =
        parts.clone().find_map(|(_, trial, arm, block)| Some((trial.unwrap_or(0), arm.clone()?, block?)));
    let (trial, arm, block) = part?;
    let mut outside: Vec<String> = Vec::new();
    for (vm, ..) in parts.filter(|(_, _, arm, _)| arm.is_none()) {
        if !outside.contains(vm) {
            outside.push(vm.clone());
        }
    }
    Some(TrialBlock { trial, arm, block, outside })
}

fn occupancy(rows: &[OccupancyRow]) -> Availability<Vec<OccupancyObservation>> {
    let of = |row: &OccupancyRow| OccupancyObservation {
        vm: row.vm.clone(),
        cache: row.cache,
        domain: row.domain.map(DomainId),
        llc_bytes: recorded(row.llc_bytes, "the cache occupancy of this VM"),
        total_bytes: recorded(row.memory_total_bytes, "the memory traffic of this VM"),
        local_bytes: recorded(row.memory_local_bytes, "the local memory traffic of this VM"),
    };
    recorded((!rows.is_empty()).then(|| rows.iter().map(of).collect()), "any cache occupancy in this window")
}

fn events(window: &WindowRow) -> Vec<CountedEvent> {
    let counted = |role| match role {
        CounterRole::Cycles => &window.cycles_event,
        CounterRole::Instructions => &window.instructions_event,
        CounterRole::LlcReferences => &window.llc_references_event,
        CounterRole::LlcMisses => &window.llc_misses_event,
    };
    let event = |role: CounterRole| CountedEvent {
        role,
        event: recorded(counted(role).clone(), &format!("an event for {}", role.name())),
    };
    CounterRole::ALL.into_iter().map(event).collect()
}

fn program(row: &ProgramRow) -> ProgramObservation {
    let cost = match (row.runs, row.run_ns, &row.unavailable) {
        (Some(runs), Some(run_ns), _) => Availability::Available(ProgramCost { runs, run_ns }),
        (_, _, Some(reason)) => Availability::Unavailable(reason.clone()),
        _ => recorded(None, "the cost of this program"),
    };
    ProgramObservation { name: row.program.clone(), cost }
}

fn losses(window: &WindowRow) -> Availability<LossObservation> {
    let losses = || {
        Some(LossObservation {
            pass_events: window.lost_pass_events?,
            ksm_events: window.lost_ksm_events?,
            exit_reasons: window.lost_exit_reasons?,
            vcpu_threads: window.lost_vcpu_threads?,
        })
    };
    recorded(losses(), "what was lost in this window")
}
