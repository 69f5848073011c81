//! How good and how fast placing is: the search beside the optimum, and beside the paper's greedy.
//!
//! `cargo bench -p huddle-model --bench plan`
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::plan::{Instance, PlanInput, Policy, search};
use huddle_model::rng::Rng;
use huddle_model::topology::{CacheDomain, DomainId, Topology};

fn topology(domains: u32, cpus: u32) -> Topology {
    let domain = |id: u32| CacheDomain {
        id: DomainId(id),
        cpus: (id * cpus..(id + 1) * cpus).collect(),
        size_bytes: None,
        node: None,
    };
    Topology::new(Some(3), (0..domains).map(domain).collect()).unwrap()
}

/// VMs of random sharing, or in layers of sharing (system, libraries, application) as real ones are.
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
        pid: None,
        vcpus: 1 + rng.below(2) as u32,
        memory: Some(MemoryUse { frames_used: 20_000, ..MemoryUse::default() }),
    });
    SharingMatrix::measured(Method::Merged, vms.collect(), &frames, 0.0, 1.0)
}

fn quality() {
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
        for (policy, parts) in policies.iter().zip(&mut parts) {
            let within = policy.plan(&input).shared_within.unwrap() as f64;
            parts.push(if best > 0.0 { within / best } else { 1.0 });
        }
    }
    println!("200 hosts of 4 to 12 VMs on 2 to 4 domains, {proven} optima proven; part of the optimum:");
    for (policy, parts) in policies.iter().zip(&parts) {
        let mean = parts.iter().sum::<f64>() / parts.len() as f64;
        let least = parts.iter().copied().fold(f64::INFINITY, f64::min);
        println!("  {:<8} mean {:6.2} %   least {:6.2} %", policy.name(), mean * 100.0, least * 100.0);
    }
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
}

/// A sparse instance: a matrix of 10,000 VMs is a hundred million pairs, of which a scan names those that
/// share.
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
}

fn main() {
    quality();
    large_plans();
    huge();
}
