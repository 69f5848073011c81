//! Synthetic views of rounds, and a manifest, for recordings. Nothing of it was measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::cpuset::CpuSet;
use huddle_model::event::{Event, EventKind};
use huddle_model::ksm::KsmState;
use huddle_model::left_out::LeftOutVms;
use huddle_model::matrix::{
    MatrixVm, MemoryUse, Method, SharedGroup, SharedGroups, SharedReads, SharingMatrix,
};
use huddle_model::pinning::{PinOutcome, Pinning};
use huddle_model::plan::{PlanInput, Policy};
use huddle_model::schema::{
    Environment, HostRow, MANIFEST_SCHEMA, Manifest, Rows, SCHEMA_VERSION, SketchRow,
};
use huddle_model::topology::Topology;
use huddle_model::update::{Round, Step};
use huddle_model::view::View;
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId, Uuid, Vcpu, Vm, VmmKind};

/// The view after a round over `vms` VMs, of which the first two share; in odd rounds nothing was pinned.
pub fn view(number: u64, vms: usize) -> View {
    let mut view = View::new(Arc::new(round(number, vms)));
    view.observation = Availability::Unavailable("nothing is observed here".into());
    view.comparison = Availability::Unavailable("no trials here".into());
    view
}

/// The updates that a loop with these views sends, step by step.
pub fn steps<'a>(views: impl IntoIterator<Item = &'a View>) -> Vec<Step> {
    let mut before: Option<&View> = None;
    let step = |view: &'a View| view.updates_since(before.replace(view)).into();
    views.into_iter().map(step).collect()
}

fn reads(shared: &[Vec<u64>], vms: usize) -> SharedReads {
    let half: Vec<Vec<u64>> =
        shared.iter().map(|row| row.iter().map(|frames| frames / 2).collect()).collect();
    let unavailable = |vm: usize| (vm > 1 && vm + 1 == vms).then(|| "it runs in KVM".to_owned());
    SharedReads::new(&half, None, 100, (0..vms).map(unavailable).collect())
}

fn round(round: u64, vms: usize) -> Round {
    let memory = MemoryUse { pages_resident: 1000 + round, frames_used: 800, ..Default::default() };
    let name = |i: usize| format!("vm{i}");
    let measured: Vec<MatrixVm> = (0..vms)
        .map(|i| MatrixVm {
            name: name(i),
            id: Some(TaskId { id: 100 + i as i32, start_ticks: 5 }.into()),
            uuid: uuid(i),
            owner: None,
            vcpus: 1,
            memory: Some(memory),
        })
        .collect();
    let mut shared = vec![vec![0; vms]; vms];
    if vms > 1 {
        shared[0][1] = 200 + round % 7;
    }
    let pair = SharedGroup { vms: vec![0, 1], frames: 200 + round % 7 };
    let groups = SharedGroups::of((vms > 1).then_some(pair), 0);
    let matrix = SharingMatrix::measured(Method::Merged, measured, &shared, 1.25, 1.0).with_groups(groups);
    // In some rounds it is seen what they read, except what the last one does.
    let matrix =
        if vms > 1 && round.is_multiple_of(3) { matrix.with_reads(reads(&shared, vms)) } else { matrix };
    let topology = Topology::from_json(r#"{"domains":[{"id":0,"cpus":[0]},{"id":1,"cpus":[1]}]}"#).unwrap();
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]));
    let begin = 1_700_000_000_000_000 + round * 1_000_000;
    Round {
        number: round,
        begin_unix_us: begin,
        end_unix_us: begin + 1500,
        ksm: Availability::Available(KsmState { run: 1, full_scans: round, ..Default::default() }),
        topology: Availability::Available(Arc::new(topology)),
        vms: Arc::new((0..vms).map(vm).collect()),
        left_out: Availability::Available(LeftOutVms::default()),
        matrix: Availability::Available(Arc::new(matrix)),
        in_force: Arc::new(if round % 2 == 1 { Assignment::default() } else { Assignment::of(&plan) }),
        plan: Availability::Available(Arc::new(plan)),
        pinning: if round % 2 == 1 {
            Pinning::DryRun
        } else {
            Pinning::Done(PinOutcome { changed: 1, unchanged: 1, skipped: 0 })
        },
        events: vec![Event {
            at_unix_us: begin + 10,
            kind: EventKind::Lifecycle,
            vm: None,
            message: format!("round \"{round}\",\nwith a newline"),
        }],
        own_cpu_us: Availability::Available(round * 10),
    }
}

/// Every other VM has a UUID.
fn uuid(number: usize) -> Option<Uuid> {
    (number % 2 == 1).then(|| Uuid::from_u128(0x6a8c_3a1e_6e1c_4c0e_9c3c_1f0e_5a6b_0000 + number as u128))
}

fn vm(number: usize) -> Vm {
    let (name, pid) = (format!("vm{number}"), 100 + number as i32);
    let process = TaskId { id: pid, start_ticks: 5 };
    let cpus: CpuSet = "0-1".parse().unwrap();
    Vm {
        name,
        id: process.into(),
        uuid: uuid(number),
        vmid: None,
        owner: None,
        vmm: VmmKind::QemuTcg,
        vcpus: vec![Vcpu {
            index: 0,
            id: TaskId { id: pid + 1000, start_ticks: 6 }.into(),
            process: Some(process),
            thread_name: Some("CPU 0/TCG".into()),
            affinity: cpus.clone(),
            last_cpu: None,
            limits: Default::default(),
        }],
        memory: vec![GuestRegion {
            process: Some(process),
            start: 0,
            end: 1 << 20,
            kind: MemoryKind::Mergeable,
        }],
        allowed_cpus: cpus,
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

/// A manifest of a synthetic host, before anything was recorded.
pub fn manifest() -> Manifest {
    Manifest {
        schema: MANIFEST_SCHEMA.to_owned(),
        schema_version: SCHEMA_VERSION,
        run: "20261123T060233Z-1".into(),
        host: "h".into(),
        begin_us: 1_700_000_000_000_000,
        end_us: None,
        stopped: None,
        huddle_version: "0.1.0".into(),
        git_revision: Some("abc".into()),
        command_line: vec!["huddle".into(), "run".into()],
        config: None,
        environment: environment(),
        caches: Availability::Unavailable("not asked".into()),
        topology: Availability::Unavailable("not asked".into()),
        findings: Some(Vec::new()),
        events: Vec::new(),
        sketches: None,
        segment_checksum: None,
        gaps: Vec::new(),
        tables: BTreeMap::new(),
    }
}

/// What a host records for its fleet: a kept content of one VM, and what the VM and the host may hold.
pub fn sketches() -> Rows {
    Rows {
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
            vm_vmid: None,
            vm_owner: None,
            vm_vcpus: Some(2),
            vm_memory_bytes: Some(1 << 30),
            vm_apart: Some("vm1,vm2".into()),
            vm_pages_read: Some(7),
            vm_pages_zero: Some(1),
            vm_not_sketched: None,
        }],
        ..Rows::default()
    }
}

/// A guest with two CPUs, with some unknown facts.
fn environment() -> Environment {
    let unavailable = || "not reported by this host".to_owned();
    Environment {
        kernel_release: Availability::Available("6.12.0".into()),
        kernel_version: Availability::Available("Linux version 6.12.0".into()),
        kernel_parameters: Availability::Available(vec!["isolcpus=1".into()]),
        cpu_model: Availability::Available("A Processor @ 2.00GHz".into()),
        is_guest: Availability::Available(true),
        cpus_online: Availability::Available("0-1".into()),
        memory_bytes: Availability::Available(8 << 30),
        ksm: Availability::Available(BTreeMap::from([
            ("run".into(), Availability::Available("1".into())),
            ("pages_to_scan".into(), Availability::Available("100".into())),
        ])),
        transparent_hugepage: Availability::Available("always [madvise] never".into()),
        khugepaged_defrag: Availability::Available("1".into()),
        governors: Availability::Unavailable(unavailable()),
        frequency_boost: Availability::Unavailable(unavailable()),
        numa_balancing: Availability::Available(0),
        smt_active: Availability::Available(false),
        nmi_watchdog: Availability::Unavailable(unavailable()),
        cache_aware_scheduling: None,
        sched_ext: None,
        mediated_vpmu: None,
        page_bytes: None,
        exit_reasons: None,
    }
}
