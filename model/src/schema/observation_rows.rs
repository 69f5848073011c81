//! Conversion of an observation, and of decisions of trials, to rows of a recording.

use std::collections::HashMap;

use super::rows::signed;
use super::{
    CounterRow, ExitRow, MergingRow, OccupancyRow, ProgramRow, ReportRow, ResidencyRow, Rows, TrialRow,
    VmColumns, WindowRow,
};
use crate::availability::Availability;
use crate::counters::CounterRole;
use crate::observation::{Observation, ProgramCost, TrialBlock, VcpuObservation};
use crate::topology::{DomainId, Topology};
use crate::trial::Decision;

/// The rows of one window; `topology` has the domains of CPUs.
pub fn observation_rows(topology: Option<&Topology>, seen: &Observation) -> Rows {
    let vms = seen.vms.iter().map(|vm| (vm.name.as_str(), VmColumns::from(vm))).collect();
    let window = Window { seen, round: seen.round, topology, vms: &vms };
    Rows {
        counters: seen.vcpus.iter().map(|vcpu| window.counters(vcpu)).collect(),
        residency: seen.vcpus.iter().flat_map(|vcpu| window.residency(vcpu)).collect(),
        exits: seen.vcpus.iter().flat_map(|vcpu| window.exits(vcpu)).collect(),
        merging: window.merging(),
        occupancy: window.occupancy(),
        reported: window.reported(),
        programs: window.programs(),
        windows: vec![window.itself()],
        ..Rows::default()
    }
}

/// The row of a decision.
pub fn decision_row(decision: &Decision) -> TrialRow {
    let seen = decision.observed_change;
    let ends = seen.and_then(|seen| seen.ci95);
    TrialRow {
        begin_us: signed(decision.at_unix_us),
        round: decision.round,
        objective: decision.objective.name().to_owned(),
        proposal: decision.proposal.clone(),
        expected_change: decision.expected_change,
        observed_change: seen.map(|seen| seen.median),
        observed_low: ends.map(|[low, _]| low),
        observed_high: ends.map(|[_, high]| high),
        blocks: seen.map_or(0, |seen| seen.n as u64),
        outcome: decision.outcome.name().to_owned(),
        reason: decision.reason.clone(),
        trial: decision.trial,
        evidence: decision.evidence.map(|evidence| evidence.value),
        evidence_required: decision.evidence.map(|evidence| evidence.required),
    }
}

/// A window with the common values of its rows.
#[derive(Clone, Copy)]
struct Window<'a> {
    seen: &'a Observation,
    round: u64,
    topology: Option<&'a Topology>,
    /// The VM of each name.
    vms: &'a HashMap<&'a str, VmColumns>,
}

impl<'a> Window<'a> {
    fn begin_us(&self) -> i64 {
        signed(self.seen.begin_unix_us)
    }

    fn end_us(&self) -> i64 {
        signed(self.seen.end_unix_us)
    }

    fn vm(&self, name: &str) -> VmColumns {
        self.vms.get(name).copied().unwrap_or_default()
    }

    /// The part of the trial that the row of a VM belongs to.
    fn part(&self, vm: &str) -> Option<&'a TrialBlock> {
        self.seen.trial.as_ref().filter(|_| !self.seen.is_outside(vm))
    }

    fn counters(&self, vcpu: &VcpuObservation) -> CounterRow {
        let counters = &vcpu.counters;
        // Without two readings there is no interval; a thread that did not run has an interval without counts.
        let read = (counters.interval_s > 0.0).then_some(counters);
        let count = |role| counters.count(role).value().copied();
        let broken = self.seen.merging.iter().find(|vm| vm.vm == vcpu.vm);
        let (vm, thread) = (self.vm(&vcpu.vm), vcpu.id.thread());
        let part = self.part(&vcpu.vm);
        CounterRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            vm: vcpu.vm.clone(),
            vm_kind: vm.vm_kind,
            vm_pid: vcpu.process.map(|process| process.id),
            uuid: vm.uuid,
            domid: vm.domid,
            vcpu: vcpu.vcpu,
            thread: thread.map(|thread| thread.id),
            thread_start_ticks: thread.map(|thread| thread.start_ticks),
            domain: self.topology.and_then(|topology| vcpu.domain(topology)).map(|DomainId(id)| id),
            trial: part.map(|part| part.trial),
            arm: part.map(|part| part.arm.clone()),
            block: part.map(|part| part.block),
            interval_ns: read.map(|read| (read.interval_s * 1e9).round() as u64),
            time_enabled_ns: read.map(|read| read.time_enabled_ns),
            time_running_ns: read.map(|read| read.time_running_ns),
            run_ns: vcpu.run_ns(),
            cycles: count(CounterRole::Cycles),
            instructions: count(CounterRole::Instructions),
            llc_references: count(CounterRole::LlcReferences),
            llc_misses: count(CounterRole::LlcMisses),
            unavailable: counters.count(CounterRole::LlcMisses).reason().map(str::to_owned),
            migrations: vcpu.migrations.value().copied(),
            domain_migrations: vcpu.domain_migrations.value().copied(),
            pages_broken: broken.and_then(|vm| vm.breaks.value().copied()),
            guest_entries: vcpu.guest_entries.value().copied(),
            guest_ns: vcpu.guest_ns.value().copied(),
            guest_exits: vcpu.exits.value().map(|exits| exits.values().sum()),
        }
    }

    fn residency(self, vcpu: &VcpuObservation) -> impl Iterator<Item = ResidencyRow> {
        let vm = self.vm(&vcpu.vm);
        vcpu.residency.value().into_iter().flatten().map(move |cpu| ResidencyRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            vm: vcpu.vm.clone(),
            vm_kind: vm.vm_kind,
            uuid: vm.uuid,
            domid: vm.domid,
            vcpu: vcpu.vcpu,
            thread: vcpu.id.thread().map(|thread| thread.id),
            cpu: cpu.cpu,
            domain: self.topology.and_then(|topology| topology.domain_of(cpu.cpu)).map(|DomainId(id)| id),
            run_ns: cpu.run_ns,
            switches: cpu.switches,
            clock_samples: cpu.clock_samples,
            miss_samples: cpu.miss_samples,
        })
    }

    fn exits(self, vcpu: &VcpuObservation) -> impl Iterator<Item = ExitRow> {
        let vm = self.vm(&vcpu.vm);
        vcpu.exits.value().into_iter().flatten().map(move |(reason, exits)| ExitRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            vm: vcpu.vm.clone(),
            vm_kind: vm.vm_kind,
            uuid: vm.uuid,
            domid: vm.domid,
            vcpu: vcpu.vcpu,
            reason: *reason,
            exits: *exits,
        })
    }

    fn merging(&self) -> Vec<MergingRow> {
        let rows = self.seen.merging.iter().map(|vm| (vm, self.vm(&vm.vm))).map(|(vm, columns)| MergingRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            vm: vm.vm.clone(),
            vm_kind: Some(vm.id.kind()),
            vm_pid: vm.id.process().map(|process| process.id),
            uuid: columns.uuid,
            domid: vm.id.xen_domain().map(|domain| domain.domid),
            pages_merged_now: vm.merged_now.value().copied(),
            pages_merged: vm.merges.value().copied(),
            pages_broken: vm.breaks.value().copied(),
            merges_failed: vm.failed.value().copied(),
        });
        rows.collect()
    }

    fn occupancy(&self) -> Vec<OccupancyRow> {
        let seen = self.seen.occupancy.value().into_iter().flatten().map(|of| (of, self.vm(&of.vm)));
        let rows = seen.map(|(of, vm)| OccupancyRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            vm: of.vm.clone(),
            vm_kind: vm.vm_kind,
            uuid: vm.uuid,
            domid: vm.domid,
            cache: of.cache,
            domain: of.domain.map(|DomainId(id)| id),
            llc_bytes: of.llc_bytes.value().copied(),
            memory_total_bytes: of.total_bytes.value().copied(),
            memory_local_bytes: of.local_bytes.value().copied(),
        });
        rows.collect()
    }

    fn reported(&self) -> Vec<ReportRow> {
        let rows = self.seen.reported.iter();
        let rows = rows.map(|report| (report, self.vm(&report.vm), self.part(&report.vm)));
        let rows = rows.map(|(report, vm, part)| ReportRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            vm: report.vm.clone(),
            vm_kind: vm.vm_kind,
            uuid: vm.uuid,
            domid: vm.domid,
            trial: part.map(|part| part.trial),
            arm: part.map(|part| part.arm.clone()),
            block: part.map(|part| part.block),
            operations: report.operations,
            latency_us: report.latency_us,
        });
        rows.collect()
    }

    fn programs(&self) -> Vec<ProgramRow> {
        let rows = self.seen.programs.iter().map(|program| ProgramRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: self.seen.window,
            round: self.round,
            program: program.name.clone(),
            runs: program.cost.value().map(|cost| cost.runs),
            run_ns: program.cost.value().map(|cost| cost.run_ns),
            unavailable: program.cost.reason().map(str::to_owned),
        });
        rows.collect()
    }

    fn itself(&self) -> WindowRow {
        let seen = self.seen;
        let losses = seen.losses.value();
        let event = |role| {
            let found = seen.events.iter().find(|event| event.role == role);
            found.and_then(|event| event.event.value().cloned())
        };
        WindowRow {
            begin_us: self.begin_us(),
            end_us: self.end_us(),
            window: seen.window,
            round: self.round,
            own_cpu_us: seen.own_cpu_us.value().copied(),
            reading_cpu_us: seen.reading_cpu_us.value().copied(),
            programs_ns: seen.programs_cost().value().map(|cost| cost.run_ns),
            lost_pass_events: losses.map(|losses| losses.pass_events),
            lost_ksm_events: losses.map(|losses| losses.ksm_events),
            lost_exit_reasons: losses.map(|losses| losses.exit_reasons),
            lost_vcpu_threads: losses.map(|losses| losses.vcpu_threads),
            cycles_event: event(CounterRole::Cycles),
            instructions_event: event(CounterRole::Instructions),
            llc_references_event: event(CounterRole::LlcReferences),
            llc_misses_event: event(CounterRole::LlcMisses),
        }
    }
}

impl Observation {
    /// Total cost of all BPF programs in the window; unavailable if none of them reports it.
    pub fn programs_cost(&self) -> Availability<ProgramCost> {
        let mut reason = "no BPF program runs".to_owned();
        let mut total: Option<ProgramCost> = None;
        for program in &self.programs {
            match &program.cost {
                Availability::Available(cost) => {
                    let total = total.get_or_insert_default();
                    total.runs += cost.runs;
                    total.run_ns += cost.run_ns;
                }
                Availability::Unavailable(why) => reason.clone_from(why),
            }
        }
        total.map_or(Availability::Unavailable(reason), Availability::Available)
    }
}
