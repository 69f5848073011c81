use super::*;
use crate::availability::Availability;
use crate::cpuset::CpuSet;
use crate::ksm::KsmState;
use crate::matrix::{MatrixVm, Method};
use crate::plan::{PlanInput, Policy};
use crate::schema::{Row, Table, TableVisitor, Value};
use crate::snapshot::{Event, EventKind, PinOutcome};
use crate::topology::Topology;
use crate::vm::{GuestRegion, TaskId, VmmKind};

fn vm(name: &str, pid: i32, cpus: &str) -> Vm {
    let process = TaskId { id: pid, start_ticks: 7 };
    let vcpu = |index: u32| Vcpu {
        index,
        thread: TaskId { id: pid + 1 + index as i32, start_ticks: 8 },
        process,
        thread_name: format!("CPU {index}/KVM"),
        affinity: cpus.parse().unwrap(),
        last_cpu: Some(1),
    };
    Vm {
        name: name.into(),
        process,
        vmm: VmmKind::QemuKvm,
        vcpus: vec![vcpu(0)],
        memory: vec![GuestRegion { process, start: 0, end: 8192, kind: MemoryKind::Mergeable }],
        allowed_cpus: CpuSet::new(),
        cannot_merge: Vec::new(),
    }
}

fn snapshot() -> Snapshot {
    let memory = |frames| MemoryUse { pages_resident: 90, frames_used: frames, ..Default::default() };
    let of = |name: &str, pid, frames| MatrixVm {
        name: name.into(),
        pid: Some(pid),
        vcpus: 1,
        memory: Some(memory(frames)),
    };
    let matrix = SharingMatrix::measured(
        Method::Merged,
        vec![of("a", 10, 80), of("b", 20, 40)],
        &[vec![0, 20], vec![0, 0]],
        2.5,
        1.0,
    );
    let json = r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":3,"cpus":[2,3]}]}"#;
    let topology = Topology::from_json(json).unwrap();
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]));
    let mut lonely = vm("c", 30, "0-3");
    lonely.cannot_merge = vec!["it is a memfd".into(), "nobody asked".into()];
    Snapshot {
        round: 4,
        begin_unix_us: 1000,
        end_unix_us: 2000,
        ksm: Availability::Available(KsmState { full_scans: 9, ..Default::default() }),
        topology: Availability::Available(topology),
        vms: vec![vm("a", 10, "0-3"), vm("b", 21, "0-3"), lonely],
        matrix: Availability::Available(matrix),
        plan: Availability::Available(plan),
        pinned: Availability::Available(PinOutcome { changed: 2, unchanged: 0, skipped: 0 }),
        events: vec![Event { at_unix_us: 1500, kind: EventKind::Pinned, vm: None, message: "moved".into() }],
        own_cpu_us: Availability::Unavailable("no /proc/self/stat".into()),
    }
}

#[test]
fn each_ordered_pair_is_a_row_with_its_own_rate() {
    let rows = rows_of(&snapshot());
    let pairs: Vec<_> = rows.sharing.iter().map(|r| (r.vm.as_str(), r.other.as_str(), r.rate)).collect();
    assert_eq!(pairs, [("a", "b", 0.25), ("b", "a", 0.5)]);
    let first = &rows.sharing[0];
    assert_eq!((first.begin_us, first.end_us, first.round), (1000, 2000, 4));
    assert_eq!((first.shared_frames, first.measured_in_us, first.vm_pid), (Some(20), Some(2500), Some(10)));
    assert_eq!(first.method, "merged");
}

#[test]
fn a_vm_that_was_not_measured_has_nulls_not_zeros() {
    let rows = rows_of(&snapshot());
    assert_eq!((rows.vms[0].frames_used, rows.vms[0].pages_huge), (Some(80), None));
    assert_eq!(rows.vms[0].mergeable_bytes, 8192);
    // b is measured as process 20, and is process 21 now; c is not in the matrix.
    assert_eq!((rows.vms[1].frames_used, rows.vms[2].pages_resident), (None, None));
    assert_eq!(rows.vms[2].cannot_merge.as_deref(), Some("it is a memfd\nnobody asked"));
    assert_eq!(rows.vms[0].cannot_merge, None);
}

#[test]
fn a_placement_says_whether_it_holds_or_why_not() {
    let mut snapshot = snapshot();
    let rows = rows_of(&snapshot);
    assert_eq!(
        (rows.placements[0].applied, rows.placements[0].not_applied_reason.as_deref()),
        (Some(true), None)
    );
    assert_eq!((rows.placements[0].thread, rows.placements[0].cpus_before.as_str()), (11, "0-3"));
    assert!(rows.placements[0].domain.is_some() && rows.placements[0].cpus.is_some());
    // c is not in the plan.
    assert_eq!((rows.placements[2].domain, rows.placements[2].applied), (None, None));
    assert!(rows.placements[2].not_applied_reason.as_deref().unwrap().contains("leaves this vCPU"));

    snapshot.pinned = Availability::Unavailable("dry run".into());
    let row = &rows_of(&snapshot).placements[0];
    assert_eq!((row.applied, row.not_applied_reason.as_deref()), (Some(false), Some("dry run")));

    // With a thread passed over, only those that were in place before are known to be there.
    snapshot.pinned = Availability::Available(PinOutcome { changed: 0, unchanged: 1, skipped: 1 });
    snapshot.vms[0].vcpus[0].affinity = rows.placements[0].cpus.as_deref().unwrap().parse().unwrap();
    let placements = rows_of(&snapshot).placements;
    assert_eq!((placements[0].applied, placements[1].applied), (Some(true), None));
    assert!(placements[1].not_applied_reason.as_deref().unwrap().contains("passed over"));
}

#[test]
fn a_round_without_anything_still_is_a_round() {
    let no = || "not root".to_owned();
    let empty = Snapshot {
        ksm: Availability::Unavailable(no()),
        topology: Availability::Unavailable(no()),
        vms: Vec::new(),
        matrix: Availability::Unavailable(no()),
        plan: Availability::Unavailable(no()),
        pinned: Availability::Unavailable(no()),
        events: Vec::new(),
        own_cpu_us: Availability::Available(3),
        ..snapshot()
    };
    let rows = rows_of(&empty);
    let counts: Vec<_> = Table::ALL.iter().map(|table| rows.count(*table)).collect();
    assert_eq!(counts, [0, 0, 0, 1, 1, 0]);
    let decision = &rows.decisions[0];
    assert_eq!((decision.changed, decision.policy.as_deref(), decision.own_cpu_us), (None, None, Some(3)));
    assert_eq!(decision.sharing_unavailable.as_deref(), Some("not root"));
    assert_eq!((rows.ksm[0].run, rows.ksm[0].unavailable.as_deref()), (None, Some("not root")));
}

/// The type of each value is that of its column, and only nullable columns hold nulls.
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
    rows_of(&snapshot()).visit(&mut check).unwrap();
    assert_eq!(check.0, Table::ALL);
}
