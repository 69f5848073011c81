//! The simulator beside one naive machine for each placement.

use proptest::prelude::*;

use super::reference::Machine;
use crate::cache::policy::tests::NAMES;
use crate::cache::{
    Access, AccessKind, CacheDescription, CacheModel, DomainPlacement, Inclusion, Pattern, PrivateLevel,
    Sampling, Simulator, StreamError, Synthetic,
};

/// A small model with a policy, on lines of 64 bytes.
fn model(
    (sets, ways): (u64, u32),
    policy: &str,
    inclusion: Inclusion,
    private: Option<(u64, u32, &str)>,
    slice_masks: &[u64],
) -> CacheModel {
    let private = private.map(|(sets, ways, policy)| PrivateLevel {
        size_bytes: sets * u64::from(ways) * 64,
        ways,
        replacement: policy.parse().unwrap(),
    });
    CacheModel::try_from(CacheDescription {
        name: "small".to_owned(),
        domains: 3,
        size_bytes: sets * u64::from(ways) * 64,
        ways,
        line_bytes: 64,
        replacement: policy.parse().unwrap(),
        inclusion,
        slice_masks: slice_masks.to_vec(),
        private,
    })
    .unwrap()
}

fn any_model() -> impl Strategy<Value = CacheModel> {
    // More lines in the shared cache than in a private one.
    let shapes = prop::sample::select(&[(2, 4), (4, 4), (12, 2), (8, 8), (1, 16), (6, 4)][..]);
    let privates = prop::sample::select(&[(1, 1), (1, 2), (2, 2), (1, 4)][..]);
    let names = || prop::sample::select(&NAMES[..]);
    (shapes, names(), 0..4usize, privates, names(), any::<bool>()).prop_map(
        |((sets, ways), policy, inclusion, (private_sets, private_ways), private, is_hashed)| {
            let masks: &[u64] =
                if is_hashed && sets % 4 == 0 && sets != 12 { &[0x1240, 0x2480] } else { &[] };
            let inclusions = [Inclusion::NonInclusive, Inclusion::Inclusive, Inclusion::Victim];
            let level = inclusions.get(inclusion).map(|_| (private_sets, private_ways, private));
            let inclusion = inclusions.get(inclusion).copied().unwrap_or_default();
            model((sets, ways), policy, inclusion, level, masks)
        },
    )
}

fn any_placements() -> impl Strategy<Value = Vec<DomainPlacement>> {
    prop::collection::vec(prop::collection::vec(0..3u32, 4), 1..6).prop_map(|all| {
        all.into_iter()
            .zip(0..)
            .map(|(of, number): (_, u32)| DomainPlacement::new(number.to_string(), of))
            .collect()
    })
}

/// Accesses of four vCPUs to few lines, some of which are common.
fn any_stream() -> impl Strategy<Value = Vec<Access>> {
    let one = (0..4u16, 0..60u64, 0..3usize).prop_map(|(vcpu, line, kind)| {
        let line = if line < 30 { line } else { line + 64 * u64::from(vcpu) };
        let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][kind];
        Access::new(vcpu, line * 64, kind).unwrap()
    });
    prop::collection::vec(one, 0..1200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Together, alone, and by lists: the same counts for each placement and vCPU.
    #[test]
    fn placements_together_are_as_each_alone(
        model in any_model(),
        placements in any_placements(),
        stream in any_stream(),
        chunk in 1..200usize,
    ) {
        let mut together = Simulator::new(&model, &placements, Sampling::ALL).unwrap();
        stream.chunks(chunk).for_each(|chunk| together.feed(chunk).unwrap());
        for (number, placement) in placements.iter().enumerate() {
            let mut naive = Machine::new(&model, &placement.domain_of);
            stream.iter().for_each(|access| naive.access(*access));
            prop_assert_eq!(&together.by_vcpu(number), &naive.counts, "{:?}", placement);
            let mut alone = Simulator::new(&model, std::slice::from_ref(placement), Sampling::ALL).unwrap();
            alone.feed(&stream).unwrap();
            prop_assert_eq!(together.by_vcpu(number), alone.by_vcpu(0));
        }
    }

    /// Not only sums: each access is a hit or a miss as in the lists.
    #[test]
    fn each_access_is_as_by_lists(model in any_model(), placements in any_placements(), stream in any_stream()) {
        let mut together = Simulator::new(&model, &placements, Sampling::ALL).unwrap();
        let mut naive: Vec<_> = placements.iter().map(|of| Machine::new(&model, &of.domain_of)).collect();
        for access in stream.into_iter().take(300) {
            together.feed(&[access]).unwrap();
            for (number, naive) in naive.iter_mut().enumerate() {
                naive.access(access);
                let vcpu = usize::from(access.vcpu());
                prop_assert_eq!(together.by_vcpu(number)[vcpu], naive.counts[vcpu]);
            }
        }
    }
}

fn read(vcpu: u16, line: u64) -> Access {
    Access::new(vcpu, line * 64, AccessKind::Read).unwrap()
}

fn misses(simulator: &Simulator, placement: usize) -> Vec<u64> {
    simulator.by_vcpu(placement).iter().map(|counts| counts.misses.all()).collect()
}

#[test]
fn a_shared_line_is_loaded_once_where_both_are_in_one_domain() {
    let model = model((4, 4), "lru", Inclusion::NonInclusive, None, &[]);
    let placements = [DomainPlacement::new("together", [0, 0]), DomainPlacement::new("apart", [0, 1])];
    let mut simulator = Simulator::new(&model, &placements, Sampling::ALL).unwrap();
    simulator.feed(&[read(0, 5), read(1, 5), read(1, 5)]).unwrap();
    assert_eq!((misses(&simulator, 0), misses(&simulator, 1)), (vec![1, 0], vec![1, 1]));
    let domains = simulator.by_domain(1);
    assert_eq!(domains.iter().map(|counts| counts.misses.reads).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(simulator.total(1).accesses.reads, 3);
    assert_eq!(simulator.total(1).misses_per_thousand_reads(), Some(2000.0 / 3.0));
    simulator.start_counting();
    assert_eq!(simulator.total(1).misses_per_thousand_reads(), None);
    simulator.feed(&[read(0, 5), read(1, 5)]).unwrap();
    assert_eq!((misses(&simulator, 1), simulator.total(1).accesses.reads), (vec![0, 0], 2));
}

/// Line 0 stays in the private cache of vCPU 0, which the shared cache does not see, and becomes its oldest line.
#[test]
fn an_inclusive_cache_takes_back_what_it_evicts() {
    let stream: Vec<Access> =
        [0, 0, 0].map(|line| read(0, line)).into_iter().chain((1..5).map(|line| read(1, line))).collect();
    let placements = [DomainPlacement::new("together", [0, 0]), DomainPlacement::new("apart", [0, 1])];
    for (inclusion, expected) in [(Inclusion::Inclusive, 2), (Inclusion::NonInclusive, 1)] {
        let model = model((1, 4), "lru", inclusion, Some((1, 2, "lru")), &[]);
        let mut simulator = Simulator::new(&model, &placements, Sampling::ALL).unwrap();
        simulator.feed(&stream).unwrap();
        assert_eq!(simulator.gone(), usize::from(inclusion == Inclusion::Inclusive));
        simulator.feed(&[read(0, 0)]).unwrap();
        assert_eq!((misses(&simulator, 0)[0], misses(&simulator, 1)[0]), (expected, 1), "{inclusion:?}");
        let references = |placement: usize| simulator.by_vcpu(placement)[0].references.all();
        assert_eq!((references(0), references(1)), (expected, 1));
        assert_eq!(simulator.gone(), 0);
    }
}

/// A private cache fills the place of a copy that was taken back first; here it waits until it is replaced. With sizes that
/// relate as in the machine of the paper that makes next to no difference.
#[test]
fn a_copy_that_keeps_its_place_changes_little() {
    let model = model((512, 20), "mru_n", Inclusion::Inclusive, Some((16, 8, "tree_plru")), &[]);
    for pattern in [Pattern::Skewed, Pattern::Mixed] {
        let stream: Vec<Access> = Synthetic::new(pattern, 4, 3).take(200_000).collect();
        let misses = |leaves_at_once| {
            let mut machine = Machine::new(&model, &[0, 0, 1, 1]);
            machine.leaves_at_once = leaves_at_once;
            stream.iter().for_each(|access| machine.access(*access));
            machine.counts.iter().map(|counts| counts.misses.all()).sum::<u64>() as f64
        };
        let (keeps, leaves) = (misses(false), misses(true));
        assert!((keeps / leaves - 1.0).abs() < 0.001, "{pattern:?}: {keeps} and {leaves}");
    }
}

/// A victim cache and the private ones together hold more than either.
#[test]
fn a_victim_cache_adds_to_the_private_one() {
    let model = model((1, 4), "lru", Inclusion::Victim, Some((1, 2, "lru")), &[]);
    let mut simulator =
        Simulator::new(&model, &[DomainPlacement::new("one", [0, 0])], Sampling::ALL).unwrap();
    let round: Vec<Access> = (0..6).map(|line| read(0, line)).collect();
    (0..3).for_each(|_| simulator.feed(&round).unwrap());
    // Six lines in 4 + 2 places.
    assert_eq!(misses(&simulator, 0), [6, 0]);
    // In the private cache of the other one: no miss.
    simulator.feed(&[read(1, 5)]).unwrap();
    assert_eq!(misses(&simulator, 0), [6, 0]);
}

#[test]
fn an_unknown_vcpu_ends_a_chunk_with_its_position() {
    let model = CacheModel::preset("paper").unwrap();
    let mut simulator = Simulator::new(&model, &[DomainPlacement::new("one", [0])], Sampling::ALL).unwrap();
    let error = simulator.feed(&[read(0, 1), read(1, 1), read(0, 2)]).unwrap_err();
    assert_eq!(error, StreamError { at: 1, vcpu: 1, vcpus: 1 });
    assert_eq!(simulator.total(0).accesses.reads, 1);
    assert!(error.to_string().contains("vCPU 1"));
    assert_eq!((simulator.by_vcpu(7).len(), simulator.total(7)), (0, Default::default()));
}
