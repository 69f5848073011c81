use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::assignment::Assignment;
use crate::availability::Availability;
use crate::counters::{CounterRole, Counts, GroupReading};
use crate::cpuset::CpuSet;
use crate::event::{Event, EventKind};
use crate::ksm::KsmState;
use crate::left_out::LeftOutVms;
use crate::matrix::{MatrixVm, Method, SharedGroup, SharedGroups};
use crate::observation::*;
use crate::pinning::{PinOutcome, Pinning};
use crate::plan::{PlanInput, Policy};
use crate::rates::CounterDelta;
use crate::schema::{
    HostRow, ResponseRow, Row, RowContext, SketchRow, Table, TableVisitor, Value, decision_row,
    observation_rows,
};
use crate::stats::Estimate;
use crate::topology::{DomainId, Topology};
use crate::trial::{Comparison, Decision, Evidence, Objective, Outcome, Phase};
use crate::update::Update;
use crate::view::View;
use crate::vm::{GuestRegion, TaskId, Uuid, VcpuId, VmId, VmKind, VmRef, VmmKind, XenDomainId};

fn vm(name: &str, pid: i32, cpus: &str) -> Vm {
    let process = TaskId { id: pid, start_ticks: 7 };
    let vcpu = |index: u32| Vcpu {
        index,
        id: TaskId { id: pid + 1 + index as i32, start_ticks: 8 }.into(),
        process: Some(process),
        thread_name: Some(format!("CPU {index}/KVM")),
        affinity: cpus.parse().unwrap(),
        last_cpu: Some(1),
        limits: Default::default(),
    };
    Vm {
        name: name.into(),
        id: process.into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::QemuKvm,
        vcpus: vec![vcpu(0)],
        memory: vec![GuestRegion {
            process: Some(process),
            start: 0,
            end: 8192,
            kind: MemoryKind::Mergeable,
        }],
        allowed_cpus: CpuSet::new(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn round() -> Round {
    let memory = |frames| MemoryUse { pages_resident: 90, frames_used: frames, ..Default::default() };
    let of = |name: &str, pid, frames| MatrixVm {
        name: name.into(),
        id: Some(TaskId { id: pid, start_ticks: 7 }.into()),
        uuid: None,
        owner: None,
        vcpus: 1,
        memory: Some(memory(frames)),
    };
    let matrix = SharingMatrix::measured(
        Method::Merged,
        vec![of("a", 10, 80), of("b", 20, 40)],
        &[vec![0, 20], vec![0, 0]],
        2.5,
        1.0,
    )
    .with_groups(SharedGroups::of([SharedGroup { vms: vec![0, 1], frames: 20 }], 0));
    let json = r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":3,"cpus":[2,3]}]}"#;
    let topology = Topology::from_json(json).unwrap();
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]));
    let mut lonely = vm("c", 30, "0-3");
    lonely.cannot_merge = vec!["it is a memfd".into(), "not requested".into()];
    Round {
        number: 4,
        begin_unix_us: 1000,
        end_unix_us: 2000,
        ksm: Availability::Available(KsmState { full_scans: 9, ..Default::default() }),
        topology: Availability::Available(Arc::new(topology)),
        left_out: Availability::Available(LeftOutVms::default()),
        vms: Arc::new(vec![vm("a", 10, "0-3"), vm("b", 21, "0-3"), lonely]),
        matrix: Availability::Available(Arc::new(matrix)),
        in_force: Arc::new(Assignment::of(&plan)),
        plan: Availability::Available(Arc::new(plan)),
        pinning: Pinning::Done(PinOutcome { changed: 2, unchanged: 0, skipped: 0 }),
        events: vec![Event { at_unix_us: 1500, kind: EventKind::Pinned, vm: None, message: "moved".into() }],
        own_cpu_us: Availability::Unavailable("no /proc/self/stat".into()),
    }
}

#[test]
fn each_ordered_pair_is_a_row_with_its_own_rate() {
    let rows = round_rows(&round());
    let pairs: Vec<_> = rows.sharing.iter().map(|r| (r.vm.as_str(), r.other.as_str(), r.rate)).collect();
    assert_eq!(pairs, [("a", "b", 0.25), ("b", "a", 0.5)]);
    let first = &rows.sharing[0];
    assert_eq!((first.begin_us, first.end_us, first.round), (1000, 2000, 4));
    assert_eq!((first.shared_frames, first.measured_in_us, first.vm_pid), (Some(20), Some(2500), Some(10)));
    assert_eq!(first.method, "merged");
}

#[test]
fn a_vm_that_was_not_measured_has_nulls_not_zeros() {
    let rows = round_rows(&round());
    assert_eq!((rows.vms[0].frames_used, rows.vms[0].pages_file), (Some(80), None));
    assert_eq!(rows.vms[0].mergeable_bytes, 8192);
    // b is measured as process 20, and is process 21 now; c is not in the matrix.
    assert_eq!((rows.vms[1].frames_used, rows.vms[2].pages_resident), (None, None));
    assert_eq!(rows.vms[2].cannot_merge.as_deref(), Some("it is a memfd\nnot requested"));
    assert_eq!(rows.vms[0].cannot_merge, None);
}

#[test]
fn a_placement_is_applied_or_has_a_reason() {
    let mut round = round();
    let rows = round_rows(&round);
    assert_eq!(
        (rows.placements[0].applied, rows.placements[0].not_applied_reason.as_deref()),
        (Some(true), None)
    );
    assert_eq!((rows.placements[0].thread, rows.placements[0].cpus_before.as_str()), (Some(11), "0-3"));
    assert!(rows.placements[0].domain.is_some() && rows.placements[0].cpus.is_some());
    // c is not in the plan.
    assert_eq!((rows.placements[2].domain, rows.placements[2].applied), (None, None));
    assert!(rows.placements[2].not_applied_reason.as_deref().unwrap().contains("leaves this vCPU"));

    round.pinning = Pinning::DryRun;
    round.in_force = Arc::default();
    let row = &round_rows(&round).placements[0];
    assert_eq!(
        (row.applied, row.not_applied_reason.as_deref()),
        (Some(false), Some("dry run: affinities are left as they are"))
    );

    // One was skipped.
    round.pinning = Pinning::Done(PinOutcome { changed: 0, unchanged: 1, skipped: 1 });
    let domain = DomainId(rows.placements[0].domain.unwrap());
    round.in_force = Arc::new([(("a".to_owned(), 0), domain)].into_iter().collect());
    let placements = round_rows(&round).placements;
    assert_eq!((placements[0].applied, placements[1].applied), (Some(true), Some(false)));
    assert_eq!((placements[0].in_force, placements[1].in_force), (Some(domain.0), None));
    assert!(placements[1].not_applied_reason.as_deref().unwrap().contains("skipped"));
}

/// Before a trial decides, and after it has reverted the plan, pinning is done, but not as planned.
#[test]
fn what_a_trial_has_not_put_in_force_is_not_applied() {
    let mut round = round();
    round.pinning = Pinning::Done(PinOutcome { changed: 2, unchanged: 0, skipped: 0 });
    round.in_force = Arc::default();
    for row in &round_rows(&round).placements[..2] {
        assert_eq!((row.applied, row.in_force), (Some(false), None));
        assert!(row.not_applied_reason.as_deref().unwrap().contains("trial"));
    }
}

/// A window in which one vCPU was counted and the other was not.
fn observation() -> Observation {
    let unavailable = || Availability::Unavailable("no PMU".to_owned());
    let reading = |at: u64, counts: Counts| GroupReading {
        begin_ns: at,
        end_ns: at + 10,
        time_enabled_ns: at,
        time_running_ns: at,
        counts,
    };
    let counts = |n: u64| Counts {
        cycles: Some(200 * n),
        instructions: Some(100 * n),
        llc_references: Some(4 * n),
        llc_misses: Some(n),
    };
    let task = |id| TaskId { id, start_ticks: 7 };
    let counted = VcpuObservation {
        vm: "a".into(),
        vcpu: 0,
        id: task(11).into(),
        process: Some(task(10)),
        counters: CounterDelta::between(&reading(1000, counts(0)), &reading(2000, counts(100))),
        residency: Availability::Available(vec![
            CpuResidency { cpu: 1, run_ns: Some(10), switches: Some(1), ..Default::default() },
            CpuResidency { cpu: 2, run_ns: Some(90), clock_samples: Some(3), ..Default::default() },
        ]),
        run_ns_anywhere: None,
        migrations: Availability::Available(1),
        domain_migrations: Availability::Available(1),
        guest_entries: Availability::Available(5),
        guest_ns: Availability::Available(50),
        exits: Availability::Available(BTreeMap::from([(30, 4), (48, 1)])),
    };
    let uncounted = VcpuObservation {
        vm: "b".into(),
        id: task(21).into(),
        process: Some(task(20)),
        counters: CounterDelta::unavailable("no PMU"),
        residency: unavailable().map(|_: u64| Vec::new()),
        run_ns_anywhere: None,
        migrations: unavailable(),
        domain_migrations: unavailable(),
        guest_entries: unavailable(),
        guest_ns: unavailable(),
        exits: Availability::Unavailable("no KVM".into()),
        ..counted.clone()
    };
    Observation {
        round: 4,
        window: 9,
        vms: vec![
            VmRef { name: "a".into(), id: Some(task(10).into()), uuid: Some(Uuid::from_u128(7)) },
            VmRef { name: "b".into(), id: Some(task(20).into()), uuid: None },
        ],
        trial: Some(TrialBlock { trial: 3, arm: "before".into(), block: 1, outside: Vec::new() }),
        begin_unix_us: 1000,
        end_unix_us: 2000,
        vcpus: vec![counted, uncounted],
        merging: vec![MergeObservation {
            vm: "a".into(),
            id: task(10).into(),
            merged_now: Availability::Available(40),
            merges: Availability::Available(3),
            breaks: Availability::Available(2),
            failed: unavailable(),
        }],
        occupancy: Availability::Available(vec![OccupancyObservation {
            vm: "a".into(),
            cache: 0,
            domain: Some(DomainId(3)),
            llc_bytes: Availability::Available(4096),
            total_bytes: unavailable(),
            local_bytes: unavailable(),
        }]),
        reported: vec![ReportObservation { vm: "a".into(), operations: 7, latency_us: Some(1.5) }],
        events: vec![CountedEvent {
            role: CounterRole::LlcMisses,
            event: Availability::Available("x".into()),
        }],
        programs: vec![
            ProgramObservation {
                name: "sched_switch".into(),
                cost: Availability::Available(ProgramCost { runs: 7, run_ns: 70 }),
            },
            ProgramObservation { name: "kvm_exit".into(), cost: Availability::Unavailable("refused".into()) },
        ],
        losses: Availability::Available(LossObservation::default()),
        own_cpu_us: Availability::Available(30),
        reading_cpu_us: Availability::Available(20),
    }
}

fn comparison() -> Comparison {
    Comparison { objective: Objective::Mpki, phase: Phase::Holding, arms: Vec::new() }
}

fn decided() -> Decision {
    Decision {
        at_unix_us: 5,
        round: 4,
        objective: Objective::Mpki,
        proposal: "a and b together".into(),
        expected_change: None,
        observed_change: Some(Estimate { n: 8, median: 0.2, ci95: Some([0.1, 0.3]) }),
        trial: Some(3),
        evidence: Some(Evidence { value: 81.0, required: 40.0 }),
        outcome: Outcome::Kept,
        reason: "it helped".into(),
    }
}

#[test]
fn an_empty_round_still_has_rows() {
    let no = || "not root".to_owned();
    let empty = Round {
        ksm: Availability::Unavailable(no()),
        topology: Availability::Unavailable(no()),
        vms: Arc::default(),
        matrix: Availability::Unavailable(no()),
        plan: Availability::Unavailable(no()),
        pinning: Pinning::NoPlan(no()),
        events: Vec::new(),
        own_cpu_us: Availability::Available(3),
        ..round()
    };
    let rows = round_rows(&empty);
    let counts: Vec<_> = Table::ALL.iter().map(|table| rows.count(*table)).collect();
    assert_eq!(counts[..7], [0, 0, 0, 0, 1, 1, 0]);
    assert!(
        counts[7..].iter().all(|count| *count == 0),
        "what is observed is recorded by window: {counts:?}"
    );
    let decision = &rows.decisions[0];
    assert_eq!((decision.changed, decision.policy.as_deref(), decision.own_cpu_us), (None, None, Some(3)));
    assert_eq!(decision.sharing_unavailable.as_deref(), Some("not root"));
    assert_eq!((rows.ksm[0].ksm_run, rows.ksm[0].unavailable.as_deref()), (None, Some("not root")));
}

/// Each value has the type of its column, and only nullable columns contain nulls.
#[test]
fn values_are_of_the_type_of_their_column() {
    struct Check(Vec<Table>);
    impl TableVisitor for Check {
        type Error = std::convert::Infallible;
        fn visit<R: Row>(&mut self, rows: &[R]) -> Result<(), Self::Error> {
            use crate::schema::ColumnKind as K;
            assert_eq!(R::COLUMNS.len(), R::CELLS.len());
            assert!(!rows.is_empty(), "{}", R::TABLE);
            for (row, (column, cell)) in
                rows.iter().flat_map(|row| R::COLUMNS.iter().zip(R::CELLS).map(move |c| (row, c)))
            {
                let fits = match cell(row) {
                    Value::Null => column.nullable,
                    Value::Bool(_) => column.kind == K::Bool,
                    Value::I32(_) => column.kind == K::I32,
                    Value::U32(_) => column.kind == K::U32,
                    Value::I64(_) => column.kind == K::I64,
                    Value::U64(_) => column.kind == K::U64,
                    Value::F64(_) => column.kind == K::F64,
                    Value::Text(_) => column.kind == K::Text,
                };
                assert!(fits, "{}: {column:?} holds {:?}", R::TABLE, cell(row));
            }
            self.0.push(R::TABLE);
            Ok(())
        }
    }
    let mut check = Check(Vec::new());
    let mut rows = round_rows(&round());
    let seen = observation();
    let of_window = observation_rows(round().topology.value().map(|topology| &**topology), &seen);
    let (counters, residency) = (of_window.counters.clone(), of_window.residency.clone());
    rows = Rows {
        sharing: rows.sharing,
        groups: rows.groups,
        vms: rows.vms,
        placements: rows.placements,
        decisions: rows.decisions,
        ksm: rows.ksm,
        events: rows.events,
        trials: vec![decision_row(&decided())],
        // Reported by load generators, not by the loop.
        responses: vec![ResponseRow {
            at_us: 1,
            window: 0,
            round: 0,
            vm: "vm1".into(),
            vm_kind: None,
            uuid: None,
            domid: None,
            trial: None,
            arm: None,
            block: None,
            latency_us: Some(0.5),
            status: None,
            failure: None,
        }],
        // Of hosts for a fleet, not of the loop.
        sketches: vec![SketchRow {
            begin_us: 1,
            end_us: 2,
            vm: "vm1".into(),
            vm_kind: None,
            uuid: None,
            hash: 5,
        }],
        hosts: vec![HostRow {
            begin_us: 1,
            end_us: 2,
            host_cpus: Some(8),
            host_cores: None,
            host_caches: Some(2),
            host_cache_bytes: None,
            host_memory_bytes: Some(1 << 34),
            vm: Some("vm1".into()),
            vm_kind: None,
            uuid: None,
            vm_vmid: Some(100),
            vm_owner: None,
            vm_vcpus: Some(2),
            vm_memory_bytes: Some(1 << 30),
            vm_apart: Some("vm1,vm2".into()),
            vm_pages_read: Some(7),
            vm_pages_zero: Some(1),
            vm_not_sketched: None,
        }],
        ..of_window
    };
    rows.visit(&mut check).unwrap();
    assert_eq!(check.0, Table::ALL);

    assert_eq!((counters[0].llc_misses, counters[0].instructions), (Some(100.0), Some(10_000.0)));
    assert_eq!((counters[0].domain, counters[0].pages_broken), (Some(3), Some(2)));
    assert_eq!((counters[0].arm.as_deref(), counters[0].block), (Some("before"), Some(1)));
    assert_eq!((counters[0].trial, counters[0].run_ns), (Some(3), Some(100)));
    assert_eq!((counters[0].vm_kind, counters[0].vm_pid), (Some(VmKind::Process), Some(10)));
    let uuid = "00000000-0000-0000-0000-000000000007";
    assert_eq!((counters[0].uuid.unwrap().as_str(), counters[0].domid, counters[1].uuid), (uuid, None, None));
    assert_eq!((counters[1].llc_misses, counters[1].domain), (None, None));
    assert_eq!(counters[1].unavailable.as_deref(), Some("no PMU"));
    assert_eq!(
        residency.iter().map(|row| (row.cpu, row.domain)).collect::<Vec<_>>(),
        [(1, Some(0)), (2, Some(3))]
    );
    assert_eq!(
        (rows.windows[0].programs_ns, rows.windows[0].llc_misses_event.as_deref()),
        (Some(70), Some("x"))
    );
    assert_eq!((rows.programs[1].runs, rows.programs[1].unavailable.as_deref()), (None, Some("refused")));
    assert_eq!((rows.trials[0].observed_low, rows.trials[0].blocks), (Some(0.1), 8));
}

#[test]
fn each_update_is_recorded_once_and_in_its_round() {
    let mut context = RowContext::default();
    let first = Arc::new(round());
    let mut view = View::new(Arc::clone(&first));
    assert_eq!(context.rows(&[Update::Round(Arc::clone(&first))]), round_rows(&first));

    let note = Event { at_unix_us: 9, kind: EventKind::Note, vm: None, message: "in the window".into() };
    let window = [
        Update::Window(Availability::Available(Arc::new(observation()))),
        Update::Switch { pinning: Pinning::DryRun, in_force: Arc::default() },
        Update::Comparison(Availability::Available(Arc::new(comparison()))),
        Update::Event(note),
        Update::Decision(decided()),
    ];
    let rows = context.rows(&window);
    let of_window = observation_rows(first.topology.value().map(|topology| &**topology), &observation());
    assert_eq!((rows.sharing.len(), rows.ksm.len(), rows.counters), (0, 0, of_window.counters));
    let events: Vec<_> = rows.events.iter().map(|row| (row.round, row.message.as_str())).collect();
    assert_eq!(events, [(4, "in the window")]);
    assert_eq!(rows.trials, [decision_row(&decided())]);

    // A recorder that joins late records the last round, and all decisions.
    let before = view.clone();
    window.iter().for_each(|update| view.apply(update));
    let late = RowContext::default().rows(&view.updates_since(None));
    assert_eq!((late.decisions.len(), late.events.len(), late.trials.len()), (1, 2, 1));
    assert_eq!(context.rows(&view.updates_since(Some(&view))), Rows::default(), "nothing is new");
    assert_eq!(view.updates_since(Some(&before)), window);

    let next = Arc::new(Round { number: 5, ..round() });
    let rows = context.rows(&[Update::Round(Arc::clone(&next))]);
    assert_eq!((rows.events.len(), rows.counters.len(), rows.trials.len()), (next.events.len(), 0, 0));
}

/// A domain of Xen has no pid and no thread, and its UUID is in none of their columns.
#[test]
fn a_domain_of_xen_has_its_own_columns() {
    let domain = XenDomainId { domid: 5, uuid: Uuid::from_u128(0x6a8c_3a1e << 96 | 0x8000 << 48 | 7) };
    let on_xen = |vm: &mut Vm| {
        vm.id = VmId::XenDomain(domain);
        vm.uuid = Some(domain.uuid);
        vm.vmm = VmmKind::XenPvh;
        vm.vcpus[0] = Vcpu {
            id: VcpuId::Xen { domain, vcpu: 0 },
            process: None,
            thread_name: None,
            ..vm.vcpus[0].clone()
        };
    };
    let mut round = round();
    on_xen(&mut Arc::make_mut(&mut round.vms)[2]);
    let rows = round_rows(&round);
    let (vm, vcpu) = (&rows.vms[2], &rows.placements[2]);
    let uuid = Some(domain.uuid.into());
    assert_eq!((vm.vm_kind, vm.domid, vm.uuid), (Some(VmKind::XenDomain), Some(5), uuid));
    assert_eq!((vm.pid, vm.start_ticks), (None, None));
    assert_eq!((vcpu.vm_kind, vcpu.domid, vcpu.uuid), (Some(VmKind::XenDomain), Some(5), uuid));
    assert_eq!((vcpu.vm_pid, vcpu.thread, vcpu.thread_start_ticks), (None, None, None));
    assert_eq!(super::VmColumns::from(&round.vms[2]).id(), Some(VmId::XenDomain(domain)));
    assert_eq!((rows.vms[0].vm_kind, rows.vms[0].domid), (Some(VmKind::Process), None));

    let mut seen = observation();
    seen.vms[1] = round.vms[2].reference();
    seen.vcpus[1].vm = seen.vms[1].name.clone();
    seen.vcpus[1].id = VcpuId::Xen { domain, vcpu: 0 };
    seen.vcpus[1].process = None;
    seen.vcpus[1].run_ns_anywhere = Some(77);
    seen.merging[0].vm = seen.vms[1].name.clone();
    seen.merging[0].id = VmId::XenDomain(domain);
    let rows = observation_rows(None, &seen);
    let row = &rows.counters[1];
    assert_eq!((row.vm_kind, row.domid, row.uuid), (Some(VmKind::XenDomain), Some(5), uuid));
    assert_eq!((row.vm_pid, row.thread, row.run_ns), (None, None, Some(77)));
    assert_eq!((rows.merging[0].vm_pid, rows.merging[0].domid, rows.merging[0].uuid), (None, Some(5), uuid));
}

#[test]
fn a_domain_that_spans_nodes_lists_them() {
    let mut round = round();
    let json = r#"{"domains":[{"id":0,"cpus":[0,1],"nodes":[0,1]},{"id":3,"cpus":[2,3],"node":2}]}"#;
    let topology = Topology::from_json(json).unwrap();
    let Availability::Available(plan) = &mut round.plan else { panic!() };
    Arc::make_mut(plan).domains = topology.domains().to_vec();
    let nodes: Vec<_> =
        round_rows(&round).placements.iter().map(|row| (row.domain, row.nodes.clone())).collect();
    for (domain, nodes) in nodes {
        let expected = match domain {
            Some(0) => Some("0-1"),
            Some(3) => Some("2"),
            _ => None,
        };
        assert_eq!(nodes.as_deref(), expected);
    }
}

#[test]
fn a_group_has_a_row_for_each_of_its_vms_after_that_of_the_rest() {
    let rows = round_rows(&round()).groups;
    let rows: Vec<_> = rows.iter().map(|row| (row.group_number, row.frames, row.vm.as_deref())).collect();
    assert_eq!(rows, [(0, 0, None), (1, 20, Some("a")), (1, 20, Some("b"))]);
}
