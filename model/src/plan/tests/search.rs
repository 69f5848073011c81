//! The search and the optimum, on random instances.

use proptest::prelude::*;

use super::super::*;
use crate::page_size::PageSize;
use crate::rng::Rng;

const FRAME_BYTES: u64 = 4096;

/// A random instance of `n` items and `d` bins with room for all.
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

/// The best value by exhaustive search.
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
fn the_optimum_equals_that_of_exhaustive_search() {
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
fn the_search_is_near_the_optimum() {
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
        id: None,
        uuid: None,
        owner: None,
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
        nodes: Default::default(),
    };
    Topology::new(Some(3), (0..domains).map(domain).collect()).unwrap()
}

/// The same with two CPUs per core, and its domains on two nodes.
fn siblings(topology: &Topology) -> Topology {
    let domains = topology.domains().iter().map(|domain| CacheDomain {
        nodes: [domain.id.0 % 2].into(),
        size_bytes: Some(1 << 20),
        ..domain.clone()
    });
    let pairs = topology.domains().iter().flat_map(|domain| {
        let cpus: Vec<u32> = domain.cpus.iter().collect();
        cpus.chunks(2).map(|pair| pair.iter().copied().collect()).collect::<Vec<_>>()
    });
    Topology::new(Some(3), domains.collect()).unwrap().with_cores(pairs.collect())
}

proptest! {
    /// Every limit holds in every plan, or a reason names it.
    #[test]
    fn limits_hold_or_the_plan_has_a_reason(
        sizes in proptest::collection::vec(1u32..4, 1..9),
        domains in 1u32..4,
        cpus in 1u32..6,
        shared in proptest::collection::vec(0u64..1000, 81),
        only in proptest::collection::vec(proptest::option::of(0u32..4), 9),
        enemies in proptest::collection::vec((0usize..9, 0usize..9), 0..4),
        most in proptest::option::of(0.2f64..3.0),
        per_core in proptest::option::of(0.2f64..4.0),
        load in proptest::option::of(0.1f64..1.0),
        busy in proptest::collection::vec(proptest::option::of(0.0f64..1.0), 9),
        local in proptest::option::of(0.1f64..1.0),
        pages in proptest::collection::vec((0u64..100, 0u64..100), 9),
        sets in proptest::collection::btree_map("vm[0-8]", 0u64..10_000, 0..9),
    ) {
        let topology = siblings(&topology(domains, cpus));
        let n = sizes.len();
        let frames: Vec<Vec<u64>> = (0..n).map(|i| (0..n).map(|j| shared[i * 9 + j]).collect()).collect();
        let matrix = SharingMatrix::measured(Method::Merged, vms_of(&sizes), &frames, 0.0, 1.0);
        let vms: Vec<PlanVm> = (0..n)
            .map(|vm| PlanVm {
                allowed: only[vm].map(|domain| [DomainId(domain % domains)].into()),
                cpus_busy: busy[vm].map(|share| share * f64::from(sizes[vm])),
                node_pages: [(0, pages[vm].0), (1, pages[vm].1)].into(),
                ..PlanVm::default()
            })
            .collect();
        let limits = PlanLimits {
            vcpus_per_cpu: most,
            vcpus_per_core: per_core,
            load_per_cpu: load,
            local_memory: local,
            working_set_kib: sets,
            ..PlanLimits::default()
        };
        let apart: Vec<(usize, usize)> =
            enemies.into_iter().filter(|(a, b)| a != b && *a < n && *b < n).collect();
        let input = PlanInput::new(&matrix, &topology, &vms).apart(&apart).limits(&limits);
        for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
            let plan = policy.plan(&input);
            prop_assert_eq!(&plan, &policy.plan(&input), "equal input, equal plan");
            let mut reasons = plan.reasons.iter();
            let has_reason = |vm: usize, what: &str| {
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
                let has_reason = has_reason(*a, "kept apart") || has_reason(*b, "kept apart");
                prop_assert!(!meet || has_reason, "{} {} and {}: {:?}", policy, a, b, plan.reasons);
            }
            let (room, _, extra) = PlacementState::new(&input).shares();
            let over: u32 = (0..domains)
                .map(|domain| {
                    let load = plan.placement.iter().filter(|p| p.domain == DomainId(domain)).count() as u32;
                    load.saturating_sub(room[domain as usize])
                })
                .sum();
            let has_reason = plan.reasons.iter().any(|reason| reason.contains("more vCPUs than their share"));
            for domain in 0..domains {
                let load = plan.placement.iter().filter(|p| p.domain == DomainId(domain)).count();
                let beyond = |most: Option<f64>, of: u32| most.is_some_and(|most| load as f64 > most * f64::from(of) + 1e-9);
                let beyond = beyond(most, cpus) || beyond(per_core, cpus.div_ceil(2));
                prop_assert!(!beyond || has_reason, "{} puts {} vCPUs on {}: {:?}", policy, load, domain, plan.reasons);
            }
            for domain in topology.domains() {
                let here = plan.placement.iter().filter(|p| p.domain == domain.id);
                let used: f64 = here.map(|placed| {
                    let vm: usize = placed.vm[2..].parse().unwrap();
                    busy[vm].unwrap_or(1.0)
                }).sum();
                let beyond = limits.load_per_cpu.is_some_and(|most| used > most * f64::from(cpus) + 1e-6);
                let has_reason = plan.reasons.iter().any(|reason| reason.contains("use more CPU time"));
                prop_assert!(!beyond || has_reason, "{} has {} CPUs busy on {:?}: {:?}", policy, used, domain.id, plan.reasons);
            }
            for placed in &plan.placement {
                let vm: usize = placed.vm[2..].parse().unwrap();
                let (a, b) = (pages[vm].0 as f64, pages[vm].1 as f64);
                let node = *topology.domain(placed.domain).unwrap().nodes.first().unwrap();
                let here = if node == 0 { a } else { b };
                let far = domains > 1 && local.is_some_and(|least| here < least * (a + b));
                let has_reason = plan.reasons.iter().any(|reason| {
                    reason.starts_with(&format!("vm{vm}: ")) && reason.contains("memory")
                });
                prop_assert!(!far || has_reason, "{} {:?}: {:?}", policy, placed, plan.reasons);
            }
            let expected = plan.expected.unwrap();
            prop_assert_eq!(Some(expected.frames_within), plan.shared_within);
            // By pairs, at most; of a VM that is divided, a part of a frame may be left.
            prop_assert!(expected.cache_bytes_saved <= (expected.frames_within + 1) * 4096);
            prop_assert_eq!(expected.moves, None, "their places are unknown");
            prop_assert!(expected.bound_frames.is_none_or(|bound| expected.frames_within <= bound));
            prop_assert_eq!(expected.bound_bytes_saved, None, "there are no groups");
            prop_assert!(over <= extra || reasons.any(|reason| reason.contains("more vCPUs than their share")),
                "{}: {:?}", policy, plan.reasons);
        }
    }
}

/// Four VMs of which 0 and 1 share all, 2 and 3 share all; 1,000 frames each.
fn two_pairs() -> SharingMatrix {
    let mut frames = vec![vec![0; 4]; 4];
    (frames[0][1], frames[2][3]) = (1000, 1000);
    let mut vms = vms_of(&[1; 4]);
    for vm in &mut vms {
        vm.memory = Some(crate::matrix::MemoryUse { frames_used: 1000, ..Default::default() });
    }
    SharingMatrix::measured(Method::Merged, vms, &frames, 0.0, 1.0)
}

fn domains_of(plan: &Plan) -> Vec<u32> {
    plan.placement.iter().map(|placed| placed.domain.0).collect()
}

#[test]
fn load_separates_what_sharing_would_join() {
    let matrix = two_pairs();
    let topology = topology(2, 4);
    let busy = |cpus: f64| PlanVm { cpus_busy: Some(cpus), ..PlanVm::default() };
    let limits = PlanLimits { load_per_cpu: Some(0.25), ..PlanLimits::default() };
    // One CPU per domain may be busy: the two that share use more than that together.
    let vms = [busy(0.7), busy(0.7), busy(0.2), busy(0.2)];
    for policy in [Policy::Sharing, Policy::Exact, Policy::Opposed] {
        let plan = policy.plan(&PlanInput::new(&matrix, &topology, &vms).limits(&limits));
        let domains = domains_of(&plan);
        assert_ne!(domains[0], domains[1], "{policy}: {:?}", plan.reasons);
        assert!(!plan.reasons.iter().any(|reason| reason.contains("more CPU time")), "{:?}", plan.reasons);
    }
    // The load of the last is unknown: it counts as a whole CPU.
    let plan = Policy::Sharing.plan(&PlanInput::new(&matrix, &topology, &vms[..3]).limits(&limits));
    assert!(plan.reasons.iter().any(|reason| reason.starts_with("vm3: its CPU load")), "{:?}", plan.reasons);
    assert!(plan.reasons.iter().any(|reason| reason.contains("more CPU time")), "{:?}", plan.reasons);
}

#[test]
fn load_is_balanced_by_measured_cpu_time() {
    let matrix = two_pairs();
    let topology = topology(2, 4);
    let at = |domain: u32, cpus_busy: Option<f64>| PlanVm {
        current: vec![Some(DomainId(domain))],
        cpus_busy,
        ..PlanVm::default()
    };
    let plan = |vms: &[PlanVm]| Policy::Load.plan(&PlanInput::new(&matrix, &topology, vms));
    // By vCPUs the domains are balanced, so two have to be exchanged.
    let uneven = [at(0, Some(0.9)), at(0, Some(0.9)), at(1, Some(0.1)), at(1, Some(0.1))];
    let evened = plan(&uneven);
    assert_ne!(domains_of(&evened)[0], domains_of(&evened)[1], "{:?}", evened.reasons);
    assert!(
        evened.reasons.iter().any(|reason| reason.contains("in exchange with vm2")),
        "{:?}",
        evened.reasons
    );
    let roomy = siblings(&topology);
    let vms = [at(0, Some(0.9)), at(0, Some(0.9)), at(1, Some(0.1))];
    let three = SharingMatrix::measured(Method::Merged, vms_of(&[1; 3]), &vec![vec![0; 3]; 3], 0.0, 1.0);
    let evened = Policy::Load.plan(&PlanInput::new(&three, &roomy, &vms));
    assert_ne!(domains_of(&evened)[0], domains_of(&evened)[1], "{:?}", evened.reasons);
    // If it is unknown, nothing moves; nor for a difference that is noise.
    let vms = [at(0, Some(0.9)), at(0, Some(0.9)), at(1, None)];
    assert_eq!(domains_of(&Policy::Load.plan(&PlanInput::new(&three, &roomy, &vms))), [0, 0, 1]);
    let vms = [at(0, Some(0.06)), at(0, Some(0.06)), at(1, Some(0.0))];
    assert_eq!(domains_of(&Policy::Load.plan(&PlanInput::new(&three, &roomy, &vms))), [0, 0, 1]);
}

#[test]
fn siblings_count_as_one_if_configured() {
    let matrix = two_pairs();
    let topology = siblings(&topology(2, 4));
    let vcpus = |limits: &PlanLimits| {
        let plan = Policy::Spread.plan(&PlanInput::new(&matrix, &topology, &[]).limits(limits));
        plan.reasons.iter().any(|reason| reason.contains("more vCPUs than their share"))
    };
    assert!(!vcpus(&PlanLimits { vcpus_per_core: Some(1.0), ..PlanLimits::default() }));
    assert!(vcpus(&PlanLimits { vcpus_per_core: Some(0.5), ..PlanLimits::default() }));
    assert!(!vcpus(&PlanLimits { vcpus_per_cpu: Some(0.5), ..PlanLimits::default() }));
}

#[test]
fn vms_stay_where_their_memory_is() {
    let matrix = two_pairs();
    let topology = siblings(&topology(2, 4));
    let on = |first: u64, second: u64| PlanVm {
        node_pages: [(0, first), (1, second)].into(),
        ..PlanVm::default()
    };
    let vms = [on(900, 100), on(100, 900), on(500, 500), PlanVm::default()];
    let limits = PlanLimits { local_memory: Some(0.8), ..PlanLimits::default() };
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &vms).limits(&limits));
    assert_eq!(domains_of(&plan)[..2], [0, 1]);
    let notes = |vm: &str| plan.reasons.iter().filter(|reason| reason.starts_with(vm)).count();
    assert_eq!((notes("vm0:"), notes("vm2:"), notes("vm3:")), (0, 1, 1), "{:?}", plan.reasons);
    // Without the limit the two that share are together.
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &vms));
    assert_eq!(domains_of(&plan)[0], domains_of(&plan)[1]);
}

#[test]
fn contention_is_weighed_against_sharing() {
    let matrix = two_pairs();
    // Caches of 1,200 frames.
    let plain = topology(2, 4);
    let sized = |domain: &CacheDomain| CacheDomain { size_bytes: Some(1200 * FRAME_BYTES), ..domain.clone() };
    let topology = Topology::new(Some(3), plain.domains().iter().map(sized).collect()).unwrap();
    let sets = |frames: [u64; 4]| -> PlanLimits {
        let of = |(vm, frames): (usize, &u64)| (format!("vm{vm}"), frames * FRAME_BYTES / 1024);
        PlanLimits { working_set_kib: frames.iter().enumerate().map(of).collect(), ..PlanLimits::default() }
    };
    let plan =
        |limits: &PlanLimits| Policy::Sharing.plan(&PlanInput::new(&matrix, &topology, &[]).limits(limits));
    // Those that share use the same frames, which fit.
    let fitting = plan(&sets([1000, 1000, 1000, 1000]));
    assert_eq!(fitting.shared_within, Some(2000));
    assert!(fitting.reasons.iter().any(|reason| reason.contains("fit into the caches")));
    // vm0 and vm1 use 2,000 frames more than the caches hold together: separating them saves that much
    // contention, but costs no more than the 1,000 shared frames.
    let apart = plan(&sets([2200, 2200, 10, 10]));
    assert!(apart.reasons.iter().any(|reason| reason.contains("exceed")), "{:?}", apart.reasons);
    // With nothing to gain from sharing, working sets are spread: 1,100 each in caches of 1,200.
    let strangers = SharingMatrix::measured(Method::Merged, vms_of(&[1; 4]), &vec![vec![0; 4]; 4], 0.0, 1.0);
    let limits = sets([1100, 1100, 10, 10]);
    let plan = Policy::Sharing.plan(&PlanInput::new(&strangers, &topology, &[]).limits(&limits));
    assert_ne!(domains_of(&plan)[0], domains_of(&plan)[1], "{:?}", plan.reasons);
    // A weight of 0 ignores it.
    let limits = PlanLimits { contention: Some(0.0), ..limits };
    let plan = Policy::Sharing.plan(&PlanInput::new(&strangers, &topology, &[]).limits(&limits));
    assert!(!plan.reasons.iter().any(|reason| reason.contains("contention")));
}

#[test]
fn groups_count_and_not_only_pairs() {
    // One strong pair would break up two groups of three: 0-1-2 share 60 each, 3-4-5 too, and 2-3 share 100.
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
fn an_equally_good_plan_moves_no_vm() {
    let mut frames = vec![vec![0; 4]; 4];
    (frames[0][1], frames[2][3]) = (100, 100);
    let matrix = SharingMatrix::measured(Method::Merged, vms_of(&[1; 4]), &frames, 0.0, 1.0);
    let topology = topology(2, 2);
    let at = |domain: u32| PlanVm { current: vec![Some(DomainId(domain))], ..PlanVm::default() };
    let now = [at(1), at(1), at(0), at(0)];
    let plan = Policy::Sharing.plan(&PlanInput::new(&matrix, &topology, &now));
    let domains: Vec<u32> = plan.placement.iter().map(|placed| placed.domain.0).collect();
    assert_eq!(domains, [1, 1, 0, 0]);
    assert!(plan.reasons.iter().any(|reason| reason.contains("0 of 4 vCPUs moved")), "{:?}", plan.reasons);
    let even = Policy::Load.plan(&PlanInput::new(&matrix, &topology, &[at(0), at(0), at(0), at(1)]));
    let counts = [0, 1].map(|d| even.placement.iter().filter(|placed| placed.domain.0 == d).count());
    assert_eq!(counts, [2, 2]);
}

#[test]
fn no_optimum_is_claimed_where_limits_cannot_all_hold() {
    let mut frames = vec![vec![0; 4]; 4];
    (frames[0][1], frames[2][3]) = (10, 10);
    let matrix = SharingMatrix::measured(Method::Merged, vms_of(&[1; 4]), &frames, 0.0, 1.0);
    let topology = topology(2, 2);
    let apart = [(0, 1), (0, 2), (1, 2)];
    let plan = Policy::Exact.plan(&PlanInput::new(&matrix, &topology, &[]).apart(&apart));
    assert!(plan.reasons.iter().any(|reason| reason.contains("there is no optimum")), "{:?}", plan.reasons);
    assert!(!plan.reasons.iter().any(|reason| reason.contains("proven")), "{:?}", plan.reasons);
    assert_eq!(plan.expected.unwrap().bound_frames, None);
}

#[test]
fn vcpus_keep_their_numbers_where_some_are_missing() {
    let matrix = SharingMatrix::measured(Method::Merged, vms_of(&[2]), &[vec![0]], 0.0, 1.0);
    let topology = topology(2, 2);
    let vm = PlanVm {
        vcpus: vec![1, 3],
        current: vec![Some(DomainId(0)), Some(DomainId(0))],
        ..PlanVm::default()
    };
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, std::slice::from_ref(&vm)));
    let placed: Vec<(u32, u32)> = plan.placement.iter().map(|p| (p.vcpu, p.domain.0)).collect();
    assert_eq!(placed, [(1, 0), (3, 0)]);
    assert_eq!(plan.expected.unwrap().moves, Some(0));
}

#[test]
fn unknown_names_are_reported() {
    let matrix = two_pairs();
    let topology = topology(2, 2);
    let limits = PlanLimits { apart: vec![vec!["vm0".into(), "vm7".into()]], ..PlanLimits::default() };
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &topology, &[]).limits(&limits));
    assert!(plan.reasons.iter().any(|reason| reason.contains("\"vm7\"")), "{:?}", plan.reasons);
}

#[test]
fn broken_limits_are_detected() {
    let matrix = two_pairs();
    let topology = topology(2, 2);
    let limits = PlanLimits { vcpus_per_cpu: Some(1.0), load_per_cpu: Some(0.5), ..PlanLimits::default() };
    let apart = [(0, 1)];
    let input = PlanInput::new(&matrix, &topology, &[]).apart(&apart).limits(&limits);
    let at = |domains: [u32; 4]| -> Vec<VcpuPlacement> {
        let placed = domains.iter().enumerate().map(|(vm, domain)| VcpuPlacement {
            vm: format!("vm{vm}"),
            vcpu: 0,
            domain: DomainId(*domain),
        });
        placed.collect()
    };
    // No load is known, so two VMs keep the two CPUs of a domain busy, beyond half.
    let parted = input.broken(&at([0, 1, 0, 1]));
    assert_eq!((parted.apart.len(), parted.others.len()), (0, 2), "{parted}");
    let joined = input.broken(&at([0, 0, 1, 1]));
    assert_eq!(joined.apart, ["vm0 and vm1 are to be kept apart"]);
    assert!(joined.is_worse_than(&parted));
    assert_eq!(input.broken(&at([0, 0, 0, 1])).others.len(), 2, "three on one domain, and its load");
    assert_eq!(input.broken(&[]).apart.len(), 1, "where the kernel runs them is unknown");
}

#[test]
fn bytes_of_a_plan_are_of_the_size_of_its_frames() {
    let topology = topology(2, 4);
    let kib = PageSize::new(16_384).unwrap();
    let of = |matrix: &SharingMatrix| {
        let plan = Policy::Sharing.plan(&PlanInput::new(matrix, &topology, &[]));
        let expected = plan.expected.unwrap();
        (expected.cache_bytes_saved, expected.frames_within, expected.to_string())
    };
    let (small, large) = (of(&two_pairs()), of(&two_pairs().of_pages(kib)));
    assert!(small.0 > 0 && small.1 == large.1, "{small:?}");
    assert_eq!(large.0, small.0 * 4, "a frame has four times the bytes");
    assert!(large.2.contains(&format!("{} KiB of cache saved", small.0 * 4 / 1024)), "{large:?}");
    // The same working set is a quarter of the frames.
    let limits = PlanLimits { working_set_kib: [("vm0".to_owned(), 64)].into(), ..PlanLimits::default() };
    let frames = |matrix: &SharingMatrix, vms: &[PlanVm]| {
        let input = PlanInput::new(matrix, &topology, vms).limits(&limits);
        [0, 1].map(|vm| input.working_set_frames(vm))
    };
    let measured = [PlanVm::default(), PlanVm { working_set_bytes: Some(1 << 20), ..PlanVm::default() }];
    assert_eq!(frames(&two_pairs(), &measured), [Some(16), Some(256)]);
    assert_eq!(frames(&two_pairs().of_pages(kib), &measured), [Some(4), Some(64)]);
}
