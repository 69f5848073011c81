//! Time and quality of moves between hosts, by the size of the fleet: hosts of 20 VMs, of which groups of 10 hold the same
//! application, on three systems, with contents of their own. Beside the time to sort all kept hashes, which any way of
//! finding equal ones has to do.
//!
//! `cargo bench --workspace --profile dev --bench fleet -- [VMS...]`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark: failures panic, results are printed"
)]

use std::time::{Duration, Instant};

use huddle_model::fleet::{Fleet, FleetContents, FleetHost, FleetVm, MoveLimits, propose};
use huddle_model::rng::Rng;

const PER_HOST: usize = 20;
const GROUP: usize = 10;
const VM_BYTES: u64 = 4 << 30;

/// Kept hashes of each VM: 300 of its application, 200 of its system, 500 of its own.
fn hashes(vms: usize) -> Vec<Vec<u64>> {
    let part = |kind: u64, number: u64, count: usize| {
        let mut rng = Rng::of_part(kind, number);
        (0..count).map(move |_| rng.next_u64())
    };
    let of_vm = |vm: usize| {
        let (application, system) = ((vm / GROUP) as u64, (vm / GROUP % 3) as u64);
        part(1, application, 300).chain(part(2, system, 200)).chain(part(3, vm as u64, 500)).collect()
    };
    (0..vms).map(of_vm).collect()
}

fn fleet(vms: usize, contents: FleetContents) -> Fleet {
    let mut places: Vec<usize> = (0..vms).collect();
    Rng::new(4).shuffle(&mut places);
    let vm = |(number, place): (usize, usize)| FleetVm {
        name: format!("vm{number}"),
        host: place / PER_HOST,
        memory_bytes: VM_BYTES,
        vcpus: 2,
        is_movable: true,
    };
    let host = |number| FleetHost {
        name: format!("host{number}"),
        memory_bytes: (PER_HOST as u64 + 1) * VM_BYTES,
        vcpus: 2 * (PER_HOST as u64 + 1),
    };
    let hosts = (0..vms.div_ceil(PER_HOST)).map(host).collect();
    Fleet::new(hosts, places.into_iter().enumerate().map(vm).collect(), contents, &[]).unwrap()
}

/// Kept contents that are saved with two groups of one system on each host.
fn best(vms: usize) -> u64 {
    let groups = (vms / GROUP) as u64;
    groups * 300 * (GROUP as u64 - 1) + 200 * (vms as u64 - groups / 2)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let found = work();
    (found, began.elapsed())
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 4_000, 16_000] } else { sizes };
    let mut before: Option<f64> = None;
    for vms in sizes {
        let hashes = hashes(vms);
        let (_, sorting) = timed(|| {
            let mut all: Vec<u64> = hashes.iter().flatten().copied().collect();
            all.sort_unstable();
            all
        });
        let (contents, grouping) = timed(|| FleetContents::of_sketches(hashes.iter().map(Vec::as_slice)));
        let fleet = fleet(vms, contents);
        let mut line = format!(
            "{vms} VMs: sorting {:.2} s, grouping contents {:.1} times that",
            sorting.as_secs_f64(),
            grouping.as_secs_f64() / sorting.as_secs_f64()
        );
        let mut total = grouping.as_secs_f64();
        for moves in [100, usize::MAX] {
            let (proposal, time) = timed(|| propose(&fleet, MoveLimits { moves }));
            total += time.as_secs_f64();
            line += &format!(
                "; {} moves in {:.1} times that, {:.3} of the best (today {:.3})",
                proposal.moves.len(),
                time.as_secs_f64() / sorting.as_secs_f64(),
                proposal.saved_kept as f64 / best(vms) as f64,
                proposal.saved_today_kept as f64 / best(vms) as f64
            );
        }
        if let Some(before) = before {
            line += &format!("; {:.1} times the time of the size before", total / before);
        }
        before = Some(total);
        println!("{line}");
    }
}
