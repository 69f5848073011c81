//! What pinning and restoring cost for each vCPU, by how many there are: threads of this process as the vCPUs of VMs
//! of twelve. Prints milliseconds a vCPU, the best of several rounds, and how much more one of 12,000 costs than one of
//! 1,500; ends with 1 where that is more than twice as much.
//! Run it with `cargo bench -p huddle-host --bench pinning`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::sync::mpsc::channel;
use std::time::Instant;

use huddle_host::pin::{HostPinner, Journal, StateDir, Undoers, restore};
use huddle_host::{HostRoot, task};
use huddle_model::cpuset::CpuSet;
use huddle_model::plan::{Plan, Policy, VcpuPlacement};
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::vm::{TaskId, Vcpu, Vm, VmmKind};
use nix::sched::sched_getaffinity;
use nix::unistd::{Pid, gettid};

/// How many vCPUs there are.
const SIZES: [usize; 4] = [1_500, 3_000, 6_000, 12_000];
const VCPUS_A_VM: usize = 12;
const ROUNDS: usize = 5;
/// Most that a vCPU among many may cost, as a multiple of one among few.
const MOST: f64 = 2.0;

fn main() {
    let threads = threads(SIZES[SIZES.len() - 1]);
    let all = affinity();
    if all.len() < 2 {
        println!("skipped: pinning needs two usable CPUs, and this machine has one");
        return;
    }
    println!("{:>8} {:>14} {:>14} {:>14}", "vCPUs", "pin ms/vCPU", "again ms/vCPU", "restore ms/vCPU");
    let mut rows = Vec::new();
    for size in SIZES.into_iter().filter(|size| *size <= threads.len()) {
        let mut best = [f64::MAX; 3];
        // Fewer where there are many: each is as long as all of the smaller ones.
        for _ in 0..(ROUNDS * SIZES[0] / size).max(2) {
            let took = measure(&threads[..size], &all);
            best.iter_mut().zip(took).for_each(|(best, took)| *best = best.min(took));
        }
        println!("{size:8} {:14.4} {:14.4} {:14.4}", best[0], best[1], best[2]);
        rows.push(best);
    }
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    let ratios = [0, 1, 2].map(|column| last[column] / first[column]);
    println!(
        "a vCPU among the most costs, of one among {}: pin {:.2}, again {:.2}, restore {:.2} times",
        SIZES[0], ratios[0], ratios[1], ratios[2]
    );
    if ratios.iter().any(|ratio| *ratio > MOST) {
        println!("it does not grow with their number alone (limit {MOST})");
        std::process::exit(1);
    }
}

/// Milliseconds a vCPU: to pin, to pin what is pinned, and to restore after an end that undid nothing.
fn measure(ids: &[TaskId], all: &CpuSet) -> [f64; 3] {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::real().with_run(dir.path());
    let state = StateDir::open(Some(&dir.path().join("state"))).unwrap();
    let (vms, plan) = (vms(ids, all), plan(ids.len(), all));
    let of_each = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3 / ids.len() as f64;
    let count = u32::try_from(ids.len()).unwrap();

    let lock = state.lock(&root).unwrap();
    let mut pinner = HostPinner::new(root.clone(), Journal::open(&root, &lock).unwrap());
    let begun = Instant::now();
    let report = pinner.apply(&vms, &plan).unwrap();
    let pin = of_each(begun);
    assert_eq!((report.outcome.changed, report.outcome.skipped), (count, 0));
    let begun = Instant::now();
    let report = pinner.apply(&vms, &plan).unwrap();
    let again = of_each(begun);
    assert_eq!(report.outcome.unchanged, count);
    pinner.keep();

    let begun = Instant::now();
    let report = restore(&Undoers::of_host(root), &lock).unwrap();
    let restored = of_each(begun);
    assert_eq!((report.restored, report.failures), (count, Vec::new()));
    [pin, again, restored]
}

fn vms(ids: &[TaskId], all: &CpuSet) -> Vec<Vm> {
    let process = task::process(&HostRoot::real(), std::process::id().cast_signed()).unwrap().id;
    let of = |(number, threads): (usize, &[TaskId])| Vm {
        name: format!("vm{number}"),
        id: threads[0].into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::Process,
        vcpus: (0..)
            .zip(threads)
            .map(|(index, thread)| Vcpu {
                index,
                id: (*thread).into(),
                process: Some(process),
                thread_name: None,
                affinity: all.clone(),
                last_cpu: None,
                limits: Default::default(),
            })
            .collect(),
        memory: Vec::new(),
        allowed_cpus: all.clone(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    };
    ids.chunks(VCPUS_A_VM).enumerate().map(of).collect()
}

/// Every VM on one CPU, in turns.
fn plan(vcpus: usize, all: &CpuSet) -> Plan {
    let domain = |(id, cpu)| CacheDomain {
        id: DomainId(id),
        cpus: CpuSet::from_iter([cpu]),
        size_bytes: None,
        nodes: Default::default(),
    };
    let domains: Vec<CacheDomain> = (0..).zip(all.iter().take(2)).map(domain).collect();
    let place = |number: usize| VcpuPlacement {
        vm: format!("vm{}", number / VCPUS_A_VM),
        vcpu: u32::try_from(number % VCPUS_A_VM).unwrap(),
        domain: domains[number / VCPUS_A_VM % domains.len()].id,
    };
    Plan {
        policy: Policy::Paper,
        placement: (0..vcpus).map(place).collect(),
        domains,
        shared_within: None,
        shared_total: None,
        expected: None,
        waiting: None,
        reasons: Vec::new(),
    }
}

fn affinity() -> CpuSet {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..1024).filter(|cpu| set.is_set(*cpu as usize).unwrap()).collect()
}

/// Threads that do nothing, until the program ends.
fn threads(wanted: usize) -> Vec<TaskId> {
    let (send, receive) = channel();
    let mut started = 0;
    while started < wanted {
        let send = send.clone();
        let spawned = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            send.send(gettid().as_raw()).unwrap();
            loop {
                std::thread::park();
            }
        });
        if let Err(error) = spawned {
            println!("only {started} threads can be had here: {error}");
            break;
        }
        started += 1;
    }
    let (root, pid) = (HostRoot::real(), std::process::id().cast_signed());
    let id = |tid| task::thread(&root, pid, tid).unwrap().id;
    receive.iter().take(started).map(id).collect()
}
