//! Plans by groups of VMs that map the same frames, against all placements of small hosts.

use proptest::prelude::*;

use super::super::*;
use super::{host, vms};
use crate::matrix::{CountedBy, MatrixVm, MemoryUse, Method, SharedGroup, SharedGroups};
use crate::rng::Rng;

/// VMs `vm0`, `vm1`, ... with these vCPUs that map the frames of these groups, and 100,000 frames in all.
fn of_groups(vcpus: &[u32], groups: &[(Vec<u32>, u64)]) -> SharingMatrix {
    let n = vcpus.len();
    let mut frames = vec![vec![0; n]; n];
    for (members, count) in groups {
        for i in members {
            members.iter().filter(|j| *j > i).for_each(|j| frames[*i as usize][*j as usize] += count);
        }
    }
    let memory = Some(MemoryUse { frames_used: 100_000, ..MemoryUse::default() });
    let vms = vcpus.iter().enumerate();
    let vms = vms.map(|(at, vcpus)| MatrixVm { vcpus: *vcpus, memory, ..MatrixVm::named(format!("vm{at}")) });
    let sets = groups.iter().map(|(vms, frames)| SharedGroup { vms: vms.clone(), frames: *frames });
    SharingMatrix::measured(Method::Merged, vms.collect(), &frames, 0.0, 1.0)
        .with_groups(SharedGroups::of(sets, 0))
}

fn random_groups(rng: &mut Rng, n: usize) -> Vec<(Vec<u32>, u64)> {
    let mut groups: Vec<(Vec<u32>, u64)> = (0..2 + rng.below(8))
        .map(|_| {
            let part = 2 + rng.below(3);
            ((0..n as u32).filter(|_| rng.below(part) == 0).collect(), 1 + rng.below(5000) as u64)
        })
        .collect();
    groups.push(((0..n as u32).collect(), rng.below(3000) as u64));
    groups
}

/// Frames saved by a placement, from the definition: one for each VM of a group in a domain but the first.
fn saved(groups: &[(Vec<u32>, u64)], at: &[usize], d: usize) -> u64 {
    let in_domain = |(members, frames): &(Vec<u32>, u64), domain: usize| {
        let there = members.iter().filter(|vm| at[**vm as usize] == domain).count() as u64;
        there.saturating_sub(1) * frames
    };
    groups.iter().map(|group| (0..d).map(|domain| in_domain(group, domain)).sum::<u64>()).sum()
}

/// The value of each placement of VMs of one vCPU within the shares of domains of one CPU.
fn all(n: usize, d: usize, value: impl Fn(&[usize]) -> u64) -> Vec<u64> {
    let placements = (0..d.pow(n as u32)).map(|mut code| -> Vec<usize> {
        (0..n)
            .map(|_| {
                let domain = code % d;
                code /= d;
                domain
            })
            .collect()
    });
    let holds = |at: &Vec<usize>| {
        let load = |domain: usize| at.iter().filter(|there| **there == domain).count();
        (0..d).all(|domain| load(domain) <= n.div_ceil(d) && load(domain) >= n / d)
    };
    placements.filter(holds).map(|at| value(&at)).collect()
}

fn at(plan: &Plan) -> Vec<usize> {
    plan.placement.iter().map(|placed| placed.domain.0 as usize).collect()
}

#[test]
fn a_common_frame_of_twelve_vms_is_saved_eleven_times() {
    let mut matrix = of_groups(&[1; 12], &[((0..12).collect(), 1000)]);
    let topology = host(&[12, 12]);
    for policy in [Policy::Paper, Policy::Sharing, Policy::Exact] {
        let expected = policy.plan(&PlanInput::new(&matrix, &topology, &[])).expected.unwrap();
        let kept = expected.cache_bytes_saved;
        assert!([10_000 * 4096, 11_000 * 4096].contains(&kept), "{policy}: {expected:?}");
        assert_eq!(expected.cache_bytes_saved_by, CountedBy::Groups);
        assert!(expected.to_string().contains("KiB of cache saved)"), "{expected}");
    }
    // Without groups the pairs say 66,000, of 14,400 frames in all.
    let one = host(&[24]);
    let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &one, &[]));
    assert_eq!(plan.expected.unwrap().cache_bytes_saved, 11_000 * 4096);
    assert_eq!(plan.shared_within, Some(66_000));
    let memory = Some(MemoryUse { frames_used: 1200, ..MemoryUse::default() });
    let vms = (0..12).map(|at| MatrixVm { memory, ..MatrixVm::named(format!("vm{at:02}")) });
    matrix = SharingMatrix::measured(Method::Merged, vms.collect(), &vec![vec![1000; 12]; 12], 0.0, 1.0);
    let expected = Policy::Paper.plan(&PlanInput::new(&matrix, &one, &[])).expected.unwrap();
    assert_eq!(
        (expected.cache_bytes_saved, expected.cache_bytes_saved_by),
        (13_200 * 4096, CountedBy::Pairs)
    );
    assert!(
        expected.to_string().contains("at most 52800 KiB of cache saved, counted by pairs"),
        "{expected}"
    );
}

/// With one vCPU for each VM nothing is divided, so there is one optimum, and one least.
#[test]
fn sharing_and_exact_save_the_most_and_opposed_the_least() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let (n, d) = (4 + rng.below(4), 2 + rng.below(2));
        let groups = random_groups(&mut rng, n);
        let (matrix, topology) = (of_groups(&vec![1; n], &groups), host(&vec![1; d]));
        let values = all(n, d, |at| saved(&groups, at, d));
        let input = PlanInput::new(&matrix, &topology, &[]);
        for policy in [Policy::Sharing, Policy::Exact, Policy::Opposed] {
            let plan = policy.plan(&input);
            let best = if policy == Policy::Opposed { values.iter().min() } else { values.iter().max() };
            let found = saved(&groups, &at(&plan), d);
            assert_eq!(Some(&found), best, "{policy}, seed {seed}: {:?}", plan.reasons);
            let expected = plan.expected.unwrap();
            assert_eq!(expected.cache_bytes_saved, found * 4096, "{policy}, seed {seed}");
            if policy != Policy::Opposed {
                assert_eq!(expected.bound_bytes_saved, Some(found * 4096), "{:?}", plan.reasons);
                assert!(expected.bound_is_proven && expected.bound_frames.is_none());
                assert!(plan.reasons.iter().any(|reason| reason.contains("which is proven")));
            }
        }
    }
}

#[test]
fn opposed_has_the_least_shared_frames_whatever_the_order() {
    for seed in 0..60 {
        let mut rng = Rng::new(1000 + seed);
        let (n, d) = (4 + rng.below(4), 2 + rng.below(2));
        let mut frames = vec![vec![0; n]; n];
        for (i, j) in (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))) {
            frames[i][j] = rng.below(3) as u64 * rng.below(1000) as u64;
            frames[j][i] = frames[i][j];
        }
        let topology = host(&vec![1; d]);
        let mut order: Vec<usize> = (0..n).collect();
        let least = {
            let within = |at: &[usize]| {
                let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
                pairs.filter(|(i, j)| at[*i] == at[*j]).map(|(i, j)| frames[i][j]).sum()
            };
            all(n, d, within).into_iter().min()
        };
        let mut first: Option<BTreeMap<String, DomainId>> = None;
        for _ in 0..4 {
            let vms = order.iter().map(|at| MatrixVm {
                memory: Some(MemoryUse { frames_used: 5000, ..MemoryUse::default() }),
                ..MatrixVm::named(format!("vm{at}"))
            });
            let permuted: Vec<Vec<u64>> =
                order.iter().map(|i| order.iter().map(|j| frames[*i][*j]).collect()).collect();
            let matrix = SharingMatrix::measured(Method::Merged, vms.collect(), &permuted, 0.0, 1.0);
            let plan = Policy::Opposed.plan(&PlanInput::new(&matrix, &topology, &[]));
            assert_eq!(plan.shared_within, least, "seed {seed}");
            let places = plan.placement.iter().map(|placed| (placed.vm.clone(), placed.domain)).collect();
            assert_eq!(*first.get_or_insert_with(|| BTreeMap::clone(&places)), places, "seed {seed}");
            rng.shuffle(&mut order);
        }
    }
}

/// Of a host too large for the optimum.
#[test]
fn the_order_of_many_vms_plays_no_part() {
    let mut rng = Rng::new(5);
    let n = 70;
    let rates: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| if i == j { 0.0 } else { rng.below(1000) as f64 / 1000.0 }).collect())
        .collect();
    let topology = host(&[8; 9]);
    let mut order: Vec<usize> = (0..n).collect();
    let mut first: Vec<Option<BTreeMap<String, DomainId>>> = vec![None; 2];
    for _ in 0..3 {
        let parts = crate::matrix::MatrixParts {
            method: Method::File,
            vms: order.iter().map(|at| MatrixVm::named(format!("vm{at}"))).collect(),
            shared_frames: None,
            shared_file_frames: None,
            reads: None,
            groups: None,
            rate: order.iter().map(|i| order.iter().map(|j| rates[*i][*j]).collect()).collect(),
            duration_ms: None,
            coverage: None,
            page_size: Default::default(),
            frame_reading: None,
        };
        let matrix = SharingMatrix::from_parts(parts).unwrap();
        for (policy, first) in [Policy::Opposed, Policy::Sharing].into_iter().zip(&mut first) {
            let plan = policy.plan(&PlanInput::new(&matrix, &topology, &[]));
            let places = plan.placement.iter().map(|placed| (placed.vm.clone(), placed.domain)).collect();
            assert_eq!(*first.get_or_insert_with(|| BTreeMap::clone(&places)), places, "{policy}");
        }
        rng.shuffle(&mut order);
    }
}

#[test]
fn three_pairs_on_domains_of_two_one_and_two_cpus_are_together() {
    let matrix =
        vms(&[1; 6], &[(0, 3, 990), (1, 4, 980), (2, 5, 970), (0, 1, 300), (3, 4, 200), (2, 3, 150)]);
    let topology = host(&[2, 1, 2]);
    let within = |policy: Policy| policy.plan(&PlanInput::new(&matrix, &topology, &[])).shared_within;
    assert_eq!(within(Policy::Sharing), Some(2940));
    assert_eq!(within(Policy::Exact), Some(2940));
}

#[test]
fn no_bound_is_claimed_where_a_vm_may_be_divided() {
    // VMs of 3 vCPUs on domains of 2, 1, 3 and 2 CPUs: each in one domain they share nothing, divided they do.
    let matrix = vms(
        &[1, 3, 3, 3],
        &[(0, 1, 1000), (1, 2, 1000), (2, 3, 1000), (0, 2, 500), (0, 3, 500), (1, 3, 900)],
    );
    let topology = host(&[2, 1, 3, 2]);
    let plan = |policy: Policy| policy.plan(&PlanInput::new(&matrix, &topology, &[]));
    let paper = plan(Policy::Paper).shared_within;
    for policy in [Policy::Exact, Policy::Sharing] {
        let plan = plan(policy);
        assert!(!plan.reasons.iter().any(|reason| reason.contains("proven")), "{:?}", plan.reasons);
        let expected = plan.expected.unwrap();
        assert_eq!((expected.bound_frames, expected.bound_is_proven), (None, false));
        assert!(plan.shared_within >= paper, "{policy}: {:?}", plan.reasons);
    }
}

#[test]
fn a_plan_says_where_pairs_and_groups_disagree() {
    // Three VMs that map the same 100 frames are 300 frames of pairs, and save 200. Two of them, and two pairs with 75
    // frames each, are 250, and save 250.
    let groups = [(vec![0, 1, 2], 100), (vec![0, 3], 75), (vec![1, 4], 75)];
    let matrix = of_groups(&[1; 6], &groups);
    let topology = host(&[1, 1]);
    let plan = Policy::Sharing.plan(&PlanInput::new(&matrix, &topology, &[]));
    let pairs = SharingMatrix::measured(
        Method::Merged,
        matrix.vms().to_vec(),
        &(0..6).map(|i| (0..6).map(|j| matrix.shared_frames(i, j).unwrap()).collect()).collect::<Vec<_>>(),
        0.0,
        1.0,
    );
    let by_pairs = Policy::Sharing.plan(&PlanInput::new(&pairs, &topology, &[]));
    let (mine, theirs) = (saved(&groups, &at(&plan), 2), saved(&groups, &at(&by_pairs), 2));
    assert!(mine > theirs && by_pairs.shared_within > plan.shared_within, "{mine} {theirs}");
    let says =
        |plan: &Plan| plan.reasons.iter().any(|reason| reason.starts_with("pairs and groups disagree"));
    assert!(says(&plan) && !says(&by_pairs), "{:?}", plan.reasons);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// In what it goes by; frames saved if the groups are known, else shared frames.
    #[test]
    fn sharing_is_never_below_paper(
        seed in any::<u64>(),
        n in 2usize..9,
        d in 1usize..5,
        has_groups in any::<bool>(),
    ) {
        let mut rng = Rng::new(seed);
        let vcpus: Vec<u32> = (0..n).map(|_| 1 + rng.below(4) as u32).collect();
        let cpus: Vec<u32> = (0..d).map(|_| 1 + rng.below(4) as u32).collect();
        let topology = host(&cpus);
        let groups = random_groups(&mut rng, n);
        let with_groups = of_groups(&vcpus, &groups);
        let matrix = if has_groups {
            with_groups
        } else {
            let shared: Vec<_> =
                with_groups.pairs().map(|(i, j)| (i, j, with_groups.shared_frames(i, j).unwrap() % 1000)).collect();
            vms(&vcpus, &shared)
        };
        let input = PlanInput::new(&matrix, &topology, &[]);
        let value = |policy: Policy| {
            let plan = policy.plan(&input);
            let expected = plan.expected.as_ref().unwrap();
            (if has_groups { expected.cache_bytes_saved } else { expected.frames_within }, plan)
        };
        let (paper, _) = value(Policy::Paper);
        let (exact, plan) = value(Policy::Exact);
        let (sharing, searched) = value(Policy::Sharing);
        prop_assert!(sharing >= paper, "{} {} {:?}", sharing, paper, searched.reasons);
        prop_assert!(exact >= sharing, "{} {} {:?}", exact, sharing, plan.reasons);
        for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::None) {
            let (value, _) = value(policy);
            let expected = plan.expected.as_ref().unwrap();
            let bound = if has_groups { expected.bound_bytes_saved } else { expected.bound_frames };
            prop_assert!(bound.is_none_or(|bound| value <= bound), "{} has {}: {:?}", policy, value, plan.reasons);
        }
    }
}
