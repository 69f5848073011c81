//! The search and the optimum, on random instances.

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

/// A random instance of `n` items and `d` bins that has room for all.
fn instance(seed: u64, n: usize, d: usize) -> Instance {
    let mut rng = Rng::new(seed);
    let sizes: Vec<u32> = (0..n).map(|_| 1 + rng.below(3) as u32).collect();
    let total: u32 = sizes.iter().sum();
    let mut gains = vec![Vec::new(); n];
    for i in 0..n {
        for j in i + 1..n {
            if rng.below(2) == 0 {
                let gain = rng.below(1000) as f64;
                gains[i].push((j, gain));
                gains[j].push((i, gain));
            }
        }
    }
    let each = total.div_ceil(d as u32) + 2;
    Instance { sizes, gains, room: vec![each; d], ..Instance::default() }
}

/// The best by trying everything.
fn by_trying_all(instance: &Instance) -> f64 {
    let (n, d) = (instance.sizes.len(), instance.room.len());
    let all = (d as u32).pow(n as u32) as usize;
    let mut best = f64::NEG_INFINITY;
    for mut code in 0..all {
        let bins: Bins = (0..n)
            .map(|_| {
                let bin = code % d;
                code /= d;
                Some(bin)
            })
            .collect();
        if instance.holds(&bins) {
            best = best.max(instance.value(&bins));
        }
    }
    best
}

#[test]
fn the_optimum_is_that_of_trying_everything() {
    for seed in 0..25 {
        let instance = instance(seed, 6, 2 + seed as usize % 2);
        let found = exact(&instance, &vec![None; 6]);
        assert!(found.proven && instance.holds(&found.bins));
        let best = by_trying_all(&instance);
        assert!((instance.value(&found.bins) - best).abs() < 1e-6, "seed {seed}");
        assert!((found.bound - best).abs() < 1e-6);
    }
}

#[test]
fn the_search_comes_near_the_optimum() {
    let mut sum = 0.0;
    for seed in 0..30 {
        let instance = instance(100 + seed, 10, 3);
        let bins = search(&instance, &vec![None; 10], 1);
        let best = instance.value(&exact(&instance, &vec![None; 10]).bins);
        let part = instance.value(&bins) / best;
        assert!(part >= 0.95, "seed {seed}: {part}");
        sum += part;
    }
    assert!(sum / 30.0 >= 0.99, "{}", sum / 30.0);
}

fn vms_of(names: &[u32]) -> Vec<MatrixVm> {
    let vm = |(i, vcpus): (usize, &u32)| MatrixVm {
        name: format!("vm{i}"),
        pid: None,
        vcpus: *vcpus,
        memory: Some(crate::matrix::MemoryUse { frames_used: 2000, ..Default::default() }),
    };
    names.iter().enumerate().map(vm).collect()
}

use crate::matrix::{MatrixVm, Method};

fn topology(domains: u32, cpus: u32) -> Topology {
    let domain = |id: u32| CacheDomain {
        id: DomainId(id),
        cpus: (id * cpus..(id + 1) * cpus).collect(),
        size_bytes: None,
        node: None,
    };
    Topology::new(Some(3), (0..domains).map(domain).collect()).unwrap()
}

proptest! {
    /// Every limit holds in every plan, or a reason says which does not.
    #[test]
    fn limits_hold_or_the_plan_says_so(
        sizes in proptest::collection::vec(1u32..4, 1..9),
        domains in 1u32..4,
        cpus in 1u32..6,
        shared in proptest::collection::vec(0u64..1000, 81),
        only in proptest::collection::vec(proptest::option::of(0u32..4), 9),
        enemies in proptest::collection::vec((0usize..9, 0usize..9), 0..4),
        most in proptest::option::of(0.2f64..3.0),
    ) {
        let topology = topology(domains, cpus);
        let n = sizes.len();
        let frames: Vec<Vec<u64>> = (0..n).map(|i| (0..n).map(|j| shared[i * 9 + j]).collect()).collect();
        let matrix = SharingMatrix::measured(Method::Merged, vms_of(&sizes), &frames, 0.0, 1.0);
        let limits: Vec<PlanVm> = (0..n)
            .map(|vm| PlanVm {
                allowed: only[vm].map(|domain| [DomainId(domain % domains)].into()),
                current: Vec::new(),
            })
            .collect();
        let apart: Vec<(usize, usize)> =
            enemies.into_iter().filter(|(a, b)| a != b && *a < n && *b < n).collect();
        let input = PlanInput::new(&matrix, &topology, &limits).apart(&apart).vcpus_per_cpu(most);
        for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
            let plan = policy.plan(&input);
            prop_assert_eq!(&plan, &policy.plan(&input), "equal input, equal plan");
            let mut said = plan.reasons.iter();
            let tells = |vm: usize, what: &str| {
                plan.reasons.iter().any(|reason| reason.starts_with(&format!("vm{vm} ")) && reason.contains(what))
            };
            for placed in &plan.placement {
                let vm: usize = placed.vm[2..].parse().unwrap();
                prop_assert!(input.is_allowed(vm, placed.domain), "{} {:?}", policy, placed);
            }
            prop_assert_eq!(plan.placement.len(), sizes.iter().sum::<u32>() as usize);
            for (a, b) in &apart {
                let of = |vm: usize| -> BTreeSet<DomainId> {
                    let name = format!("vm{vm}");
                    plan.placement.iter().filter(|p| p.vm == name).map(|p| p.domain).collect()
                };
                let meet = !of(*a).is_disjoint(&of(*b));
                let told = tells(*a, "kept apart") || tells(*b, "kept apart");
                prop_assert!(!meet || told, "{} {} and {}: {:?}", policy, a, b, plan.reasons);
            }
            let (room, _, extra) = Board::new(&input).shares();
            let over: u32 = (0..domains)
                .map(|domain| {
                    let load = plan.placement.iter().filter(|p| p.domain == DomainId(domain)).count() as u32;
                    load.saturating_sub(room[domain as usize])
                })
                .sum();
            let told = plan.reasons.iter().any(|reason| reason.contains("more vCPUs than their share"));
            for domain in 0..domains {
                let load = plan.placement.iter().filter(|p| p.domain == DomainId(domain)).count();
                let beyond = most.is_some_and(|most| load as f64 > most * f64::from(cpus) + 1e-9);
                prop_assert!(!beyond || told, "{} puts {} vCPUs on {}: {:?}", policy, load, domain, plan.reasons);
            }
            let expected = plan.expected.unwrap();
            prop_assert_eq!(Some(expected.frames_within), plan.shared_within);
            prop_assert_eq!(expected.cache_bytes_saved, expected.frames_within * 4096);
            prop_assert_eq!(expected.moves, expected.placed, "nobody knows where they are");
            prop_assert!(expected.bound_frames.is_none_or(|bound| expected.frames_within <= bound));
            prop_assert!(over <= extra || said.any(|reason| reason.contains("more vCPUs than their share")),
                "{}: {:?}", policy, plan.reasons);
        }
    }
}

#[test]
fn groups_count_and_not_only_pairs() {
    // One strong pair would tear two groups of three apart: 0-1-2 share 60 each, 3-4-5 too, and 2-3 share 100.
    let mut frames = vec![vec![0; 6]; 6];
    for (i, j, shared) in
        [(0, 1, 60), (0, 2, 60), (1, 2, 60), (3, 4, 60), (3, 5, 60), (4, 5, 60), (2, 3, 100)]
    {
        frames[i][j] = shared;
    }
    let matrix = SharingMatrix::measured(Method::Merged, vms_of(&[1; 6]), &frames, 0.0, 1.0);
    let topology = topology(2, 3);
    let input = PlanInput::new(&matrix, &topology, &[]);
    assert_eq!(Policy::Sharing.plan(&input).shared_within, Some(360));
    assert_eq!(Policy::Exact.plan(&input).shared_within, Some(360));
    assert!(Policy::Paper.plan(&input).shared_within < Some(360));
}

#[test]
fn a_plan_that_is_as_good_moves_nobody() {
    let mut frames = vec![vec![0; 4]; 4];
    (frames[0][1], frames[2][3]) = (100, 100);
    let matrix = SharingMatrix::measured(Method::Merged, vms_of(&[1; 4]), &frames, 0.0, 1.0);
    let topology = topology(2, 2);
    let at = |domain: u32| PlanVm { allowed: None, current: vec![Some(DomainId(domain))] };
    let now = [at(1), at(1), at(0), at(0)];
    let plan = Policy::Sharing.plan(&PlanInput::new(&matrix, &topology, &now));
    let domains: Vec<u32> = plan.placement.iter().map(|placed| placed.domain.0).collect();
    assert_eq!(domains, [1, 1, 0, 0]);
    assert!(plan.reasons.iter().any(|reason| reason.contains("0 of 4 vCPUs moved")), "{:?}", plan.reasons);
    let even = Policy::Load.plan(&PlanInput::new(&matrix, &topology, &[at(0), at(0), at(0), at(1)]));
    let counts = [0, 1].map(|d| even.placement.iter().filter(|placed| placed.domain.0 == d).count());
    assert_eq!(counts, [2, 2]);
}
