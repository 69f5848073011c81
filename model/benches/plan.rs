//! Quality and speed of placing: the search compared with the optimum, with the paper's greedy, and with a
//! multilevel graph partitioner (metis-rs, METIS in Rust; it assumes equal parts and knows no limits, so the
//! number of parts above their domain's share is printed, too).
//!
//! `cargo bench -p huddle-model --bench plan`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark: failures panic, results are printed"
)]

use std::time::Instant;

use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::plan::{Instance, PlanInput, Policy, search};
use huddle_model::rng::Rng;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use metis_rs::{Graph, partition};

fn topology(domains: u32, cpus: u32) -> Topology {
    let domain = |id: u32| CacheDomain {
        id: DomainId(id),
        cpus: (id * cpus..(id + 1) * cpus).collect(),
        size_bytes: None,
        nodes: Default::default(),
    };
    Topology::new(Some(3), (0..domains).map(domain).collect()).unwrap()
}

/// VMs with random sharing, or with layers of sharing (system, libraries, application) like real ones.
fn matrix(seed: u64, n: usize, structured: bool) -> SharingMatrix {
    let mut rng = Rng::new(seed);
    let layers: Vec<[usize; 3]> = (0..n).map(|_| [rng.below(2), rng.below(3), rng.below(4)]).collect();
    let mut frames = vec![vec![0; n]; n];
    for i in 0..n {
        for j in i + 1..n {
            frames[i][j] = if structured {
                let same = (0..3).map(|layer| u64::from(layers[i][layer] == layers[j][layer]));
                let sizes = [3000, 2000, 4000];
                same.zip(sizes).map(|(same, size)| same * size).sum::<u64>() + rng.below(200) as u64
            } else {
                rng.below(10_000) as u64
            };
        }
    }
    let vms = (0..n).map(|i| MatrixVm {
        name: format!("vm{i}"),
        id: None,
        uuid: None,
        owner: None,
        vcpus: 1 + rng.below(2) as u32,
        memory: Some(MemoryUse { frames_used: 20_000, ..MemoryUse::default() }),
    });
    SharingMatrix::measured(Method::Merged, vms.collect(), &frames, 0.0, 1.0)
}

/// The graph of gains, in frames, in the partitioner's format.
fn graph(sizes: &[u32], gains: &[Vec<(usize, f64)>]) -> Graph {
    let mut begins = vec![0];
    let (mut others, mut weights) = (Vec::new(), Vec::new());
    for gains in gains {
        others.extend(gains.iter().map(|(other, _)| *other));
        weights.extend(gains.iter().map(|(_, gain)| *gain as i64));
        begins.push(others.len());
    }
    let sizes = sizes.iter().map(|size| i64::from(*size)).collect();
    Graph::new(gains.len(), begins, others).with_adjwgt(weights).with_vwgt(sizes)
}

/// The same problem for the partitioner: an instance whose capacity is the share of a plan on equal domains.
fn instance(matrix: &SharingMatrix, domains: u32, cpus: u32) -> Instance {
    let n = matrix.len();
    let sizes: Vec<u32> = matrix.vms().iter().map(|vm| vm.vcpus).collect();
    let gain = |i: usize, j: usize| matrix.shared_frames(i, j).unwrap() as f64;
    let gains = (0..n).map(|i| {
        let others = (0..n).filter(|j| *j != i).map(|j| (j, gain(i, j)));
        others.filter(|(_, gain)| *gain > 0.0).collect()
    });
    let mut largest = sizes.clone();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let pair: u32 = largest.iter().take(2).sum();
    let share = sizes.iter().sum::<u32>().div_ceil(domains).max(pair.min(cpus));
    Instance { gains: gains.collect(), room: vec![share; domains as usize], sizes, ..Instance::default() }
}

/// The partitioner's result for an instance: value, whether everything fits, and seconds.
fn partitioned(instance: &Instance) -> (f64, bool, f64) {
    let graph = graph(&instance.sizes, &instance.gains);
    let began = Instant::now();
    let (_, parts) = partition(&graph, instance.room.len());
    let seconds = began.elapsed().as_secs_f64();
    let bins = parts.into_iter().map(Some).collect();
    (instance.value(&bins), instance.holds(&bins), seconds)
}

fn quality() {
    let (mut by_partitioner, mut over) = (Vec::new(), 0);
    let policies = [Policy::Sharing, Policy::Paper, Policy::Spread, Policy::Random];
    let mut parts = vec![Vec::new(); policies.len()];
    let mut proven = 0;
    for seed in 0..200 {
        let mut rng = Rng::of_part(9, seed);
        let (n, domains) = (4 + rng.below(9), 2 + rng.below(3) as u32);
        let matrix = matrix(seed, n, seed % 2 == 0);
        let topology = topology(domains, 8);
        let input = PlanInput::new(&matrix, &topology, &[]);
        let exact = Policy::Exact.plan(&input);
        proven += u32::from(exact.reasons.iter().any(|reason| reason.contains("proven")));
        let best = exact.shared_within.unwrap() as f64;
        let (value, holds, _) = partitioned(&instance(&matrix, domains, 8));
        if holds {
            by_partitioner.push(if best > 0.0 { value / best } else { 1.0 });
        }
        over += u32::from(!holds);
        for (policy, parts) in policies.iter().zip(&mut parts) {
            let within = policy.plan(&input).shared_within.unwrap() as f64;
            parts.push(if best > 0.0 { within / best } else { 1.0 });
        }
    }
    println!("200 hosts of 4 to 12 VMs on 2 to 4 domains, {proven} optima proven; part of the optimum:");
    let names = policies.iter().map(|policy| policy.name()).chain(["metis-rs"]);
    for (name, parts) in names.zip(parts.iter().chain([&by_partitioner])) {
        let mean = parts.iter().sum::<f64>() / parts.len().max(1) as f64;
        let least = parts.iter().copied().fold(f64::INFINITY, f64::min);
        println!("  {name:<8} mean {:6.2} %   least {:6.2} %", mean * 100.0, least * 100.0);
    }
    println!(
        "  metis-rs puts more on a domain than its share on {over} of 200 hosts, which are left out of its line"
    );
}

fn large_plans() {
    let matrix = matrix(5, 1000, true);
    let topology = topology(32, 64);
    let input = PlanInput::new(&matrix, &topology, &[]);
    let mut paper = None;
    for policy in [Policy::Paper, Policy::Sharing] {
        let began = Instant::now();
        let plan = policy.plan(&input);
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let within = plan.shared_within.unwrap() as f64;
        let (value, time) = *paper.get_or_insert((within, ms));
        println!(
            "1,000 VMs on 32 domains, {:<8} {ms:8.1} ms ({:.2} of paper's), {:.3} of paper's shared frames",
            policy.name(),
            ms / time,
            within / value
        );
    }
    let (within, holds, seconds) = partitioned(&instance(&matrix, 32, 64));
    let (value, time) = paper.unwrap();
    println!(
        "1,000 VMs on 32 domains, metis-rs {:8.1} ms ({:.2} of paper's), {:.3} of paper's shared frames{}",
        seconds * 1e3,
        seconds * 1e3 / time,
        within / value,
        if holds { "" } else { ", over the share of a domain" }
    );
}

/// A sparse instance: the matrix of 10,000 VMs has a hundred million pairs, of which a scan lists only those
/// that share.
fn huge() {
    let (n, d, group) = (10_000, 32, 40);
    let mut rng = Rng::new(3);
    let mut gains: Vec<Vec<(usize, f64)>> = vec![Vec::new(); n];
    for i in 0..n {
        for _ in 0..20 {
            // Four of five within the group of the same application.
            let other = if rng.below(5) > 0 { i % 250 + 250 * rng.below(group) } else { rng.below(n) };
            if other != i && gains[i].iter().all(|(known, _)| *known != other) {
                let gain = 1.0 + rng.below(1000) as f64;
                gains[i].push((other, gain));
                gains[other].push((i, gain));
            }
        }
    }
    gains.iter_mut().for_each(|gains| gains.sort_by_key(|(other, _)| *other));
    let total: f64 = gains.iter().flatten().map(|(_, gain)| gain).sum::<f64>() / 2.0;
    let instance =
        Instance { sizes: vec![1; n], gains, room: vec![(n / d + 10) as u32; d], ..Instance::default() };
    let began = Instant::now();
    let bins = search(&instance, &vec![None; n], 1);
    let seconds = began.elapsed().as_secs_f64();
    assert!(instance.holds(&bins));
    let chance = 1.0 / d as f64;
    println!(
        "10,000 VMs on 32 domains, search   {seconds:8.2} s, {:.1} % of all shared frames within domains ({:.1} % by chance)",
        instance.value(&bins) / total * 100.0,
        chance * 100.0
    );
    let (value, holds, seconds) = partitioned(&instance);
    println!(
        "10,000 VMs on 32 domains, metis-rs {seconds:8.2} s, {:.1} %{}",
        value / total * 100.0,
        if holds { "" } else { ", over the share of a domain" }
    );
}

fn main() {
    quality();
    large_plans();
    huge();
}
