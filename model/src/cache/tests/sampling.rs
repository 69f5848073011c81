//! What is kept of a stream, and what it says about the whole.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::cache::{
    Access, AccessKind, CacheError, CacheModel, DomainPlacement, KeptSets, PRESETS, Sampler, Sampling,
    Simulator,
};
use crate::rng::Rng;

fn placements() -> [DomainPlacement; 2] {
    [DomainPlacement::new("recommended", [0, 0, 1, 1]), DomainPlacement::new("opposed", [0, 1, 0, 1])]
}

/// Random reads: each vCPU of lines that it shares with its partner and of lines of its own.
fn stream(accesses: usize, seed: u64) -> Vec<Access> {
    let mut rng = Rng::new(seed);
    let one = |_| {
        let vcpu = rng.below(4) as u64;
        let (base, lines) =
            if rng.below(4) > 0 { (vcpu / 2 * 17, 15 << 14) } else { (50 + vcpu * 9, 3 << 14) };
        let line = rng.below(lines) as u64 + (base << 20);
        Access::new(vcpu as u16, line * 64, AccessKind::Read).unwrap()
    };
    (0..accesses).map(one).collect()
}

proptest! {
    /// A set is kept with all its lines in both levels, and one of `fold` is.
    #[test]
    fn whole_sets_are_kept(preset in prop::sample::select(&PRESETS[..]), shift in 0..8u32, seed: u64, start in 0..1u64 << 40) {
        let model = CacheModel::preset(preset).unwrap();
        let sampler = Sampler::new(&model, Sampling::by_seed(1 << shift, seed)).unwrap();
        let full = Sampler::new(&model, Sampling::ALL).unwrap();
        let private_sets = model.private_sets().unwrap();
        let (mut kept, mut left_out, mut numbers) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let (mut kept_private, mut left_out_private) = (BTreeSet::new(), BTreeSet::new());
        let sets = model.sets();
        for line in start..start + sets {
            prop_assert_eq!(sampler.is_kept(line * 64 + 63), sampler.keeps(line));
            let (set, private) = (full.set(line), full.private_set(line, private_sets));
            if sampler.keeps(line) {
                kept.insert(set);
                kept_private.insert(private);
                prop_assert!(sampler.set(line) < (sets >> shift) as usize);
                prop_assert!(sampler.private_set(line, private_sets) < (private_sets >> shift) as usize);
                // One number for one set.
                prop_assert_eq!(*numbers.entry(sampler.set(line)).or_insert(set), set);
            } else {
                left_out.insert(set);
                left_out_private.insert(private);
            }
        }
        prop_assert!(kept.is_disjoint(&left_out) && kept_private.is_disjoint(&left_out_private));
        prop_assert_eq!(kept_private.len(), (private_sets >> shift) as usize);
        // As many consecutive lines as sets reach all sets, unless slices are hashed.
        prop_assert!(preset == "paper" || kept.len() == (sets >> shift) as usize);
    }

    /// What is kept is told by the place in a page alone, and sets are whole all the same.
    #[test]
    fn one_place_in_all_pages(preset in prop::sample::select(&PRESETS[..]), kept in 0..64u32, frame in 0..1u64 << 40) {
        let model = CacheModel::preset(preset).unwrap();
        let sampling = |line| Sampling { fold: 64, kept: KeptSets::SameLine(line) };
        let sampler = Sampler::new(&model, sampling(kept)).unwrap();
        prop_assert_eq!(sampler.offset_in_frame(frame), Some(u64::from(kept) * 64));
        let lines = (0..64).filter(|line| sampler.is_kept(frame * 4096 + line * 64)).collect::<Vec<u64>>();
        prop_assert_eq!(lines, [u64::from(kept)]);
        let full = Sampler::new(&model, Sampling::ALL).unwrap();
        let set = |frame: u64, line: u64| full.set(frame * 64 + line);
        let others = (0..64).filter(|line| *line != u64::from(kept)).map(|line| set(frame ^ 0x155, line));
        prop_assert!(others.into_iter().all(|other| other != set(frame, u64::from(kept))));
        prop_assert!(Sampler::new(&model, sampling(64)).is_err());
    }

    /// A reader that knows frames leaves out what the simulator would.
    #[test]
    fn one_line_of_a_frame_is_kept(preset in prop::sample::select(&PRESETS[..]), seed: u64, frame in 0..1u64 << 40) {
        let model = CacheModel::preset(preset).unwrap();
        let sampler = Sampler::new(&model, Sampling::by_seed(64, seed)).unwrap();
        let kept: Vec<u64> = (0..64).map(|line| line * 64).filter(|at| sampler.is_kept(frame * 4096 + at)).collect();
        prop_assert_eq!(kept, [sampler.offset_in_frame(frame).unwrap()]);
        prop_assert_eq!(Sampler::new(&model, Sampling::by_seed(32, seed)).unwrap().offset_in_frame(frame), None);
    }
}

/// What the kept sets count is what they count beside all others.
#[test]
fn kept_sets_count_as_in_the_whole() {
    for (preset, fold) in PRESETS.iter().zip([16, 64, 4]) {
        let model = CacheModel::preset(preset).unwrap();
        let sampling = Sampling::by_seed(fold, 3);
        let sampler = Sampler::new(&model, sampling).unwrap();
        let stream = stream(200_000, 5);
        let kept: Vec<Access> =
            stream.iter().copied().filter(|access| sampler.is_kept(access.address())).collect();
        assert!(kept.len() * fold as usize > stream.len() / 2);
        let mut sampled = Simulator::new(&model, &placements(), sampling).unwrap();
        let mut whole = Simulator::new(&model, &placements(), Sampling::ALL).unwrap();
        sampled.feed(&stream).unwrap();
        whole.feed(&kept).unwrap();
        for placement in 0..2 {
            assert_eq!(sampled.by_vcpu(placement), whole.by_vcpu(placement), "{preset}");
        }
        assert!(sampled.bytes() * 2 < whole.bytes());
    }
}

/// The estimates of many samples spread around the true number, which is within their standard error.
#[test]
fn samples_are_unbiased() {
    let model = CacheModel::preset("paper").unwrap().without_private();
    let stream = stream(600_000, 11);
    let misses = |sampling: Sampling| {
        let mut simulator = Simulator::new(&model, &placements(), sampling).unwrap();
        simulator.feed(&stream[..300_000]).unwrap();
        simulator.start_counting();
        simulator.feed(&stream[300_000..]).unwrap();
        [0, 1].map(|placement| simulator.total(placement).misses.all() * u64::from(sampling.fold))
    };
    let truth = misses(Sampling::ALL);
    let estimates: Vec<[u64; 2]> = (0..64).map(|seed| misses(Sampling::by_seed(64, seed))).collect();
    assert!(estimates.iter().collect::<BTreeSet<_>>().len() > 8, "seeds choose different sets");
    for placement in 0..2 {
        let values: Vec<f64> =
            estimates.iter().map(|of| of[placement] as f64 / truth[placement] as f64).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        let standard_error = (variance / values.len() as f64).sqrt();
        assert!((mean - 1.0).abs() < 4.0 * standard_error + 1e-4, "{mean} +- {standard_error}");
        assert!(variance.sqrt() < 0.05, "{}", variance.sqrt());
    }
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let model = CacheModel::preset("paper").unwrap();
    for fold in [0, 3, 1024] {
        let error = Sampler::new(&model, Sampling::one_of(fold)).unwrap_err();
        // The private level has 512 sets.
        assert_eq!(error, CacheError::Fold { fold, most: 512 });
    }
    assert!(Sampler::new(&model.without_private(), Sampling::one_of(1024)).is_ok());
}
