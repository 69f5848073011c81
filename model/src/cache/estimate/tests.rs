//! The estimate beside the simulator, and what has to hold for any of its inputs.

use proptest::prelude::*;

use super::*;
use crate::cache::{Access, AccessKind, CacheDescription, CacheModel, DomainPlacement, Sampling, Simulator};
use crate::rng::Rng;

const LINE: u64 = 64;

fn lru(size_bytes: u64, ways: u32) -> CacheModel {
    CacheModel::try_from(CacheDescription {
        name: "lru".to_owned(),
        domains: 2,
        size_bytes,
        ways,
        line_bytes: 64,
        replacement: "lru".parse().unwrap(),
        inclusion: Default::default(),
        slice_masks: Vec::new(),
        private: None,
    })
    .unwrap()
}

/// What readers of one cache do: of each the rate and the pattern; of each part of the data its lines and its readers
/// with their shares of reads.
#[derive(Clone, Debug)]
struct Case {
    readers: Vec<(u32, ReadPattern)>,
    parts: Vec<(u64, Vec<(usize, f64)>)>,
}

impl Case {
    fn readers(&self) -> Vec<Reader> {
        let of = |(rate, pattern): &(u32, ReadPattern)| Reader { rate: f64::from(*rate), pattern: *pattern };
        self.readers.iter().map(of).collect()
    }

    fn data(&self) -> Vec<Data> {
        let of = |(lines, uses): &(u64, Vec<(usize, f64)>)| Data {
            bytes: (lines * LINE) as f64,
            uses: uses.iter().map(|(reader, share)| Use { reader: *reader, share: *share }).collect(),
        };
        self.parts.iter().map(of).collect()
    }

    fn estimated(&self, model: &CacheModel) -> Vec<f64> {
        let found = misses_per_thousand_reads(CacheShape::of(model), &self.readers(), &self.data()).unwrap();
        found.into_iter().map(|misses| misses.unwrap()).collect()
    }

    /// The same by simulation of lines that are drawn in blocks of `block` from all memory, after as many accesses of
    /// warm-up.
    fn simulated(&self, model: &CacheModel, block: u64, accesses: usize, seed: u64) -> Vec<f64> {
        let mut rng = Rng::new(seed);
        // Of far more than are drawn: neighbours would fall into sets too evenly.
        let mut drawn = std::collections::BTreeSet::new();
        let draw = || {
            loop {
                let first = rng.below(1 << 28) as u64 / block * block;
                if drawn.insert(first) {
                    return first;
                }
            }
        };
        let mut free = std::iter::repeat_with(draw).flat_map(|first| first..first + block);
        let parts: Vec<Vec<u64>> =
            self.parts.iter().map(|(lines, _)| free.by_ref().take(*lines as usize).collect()).collect();
        // A reader that goes round has an order and a place of its own.
        let rings = (0..self.readers.len()).map(|reader| {
            let mine = self.parts.iter().zip(&parts);
            let mine = mine.filter(|((_, uses), _)| uses.iter().any(|(of, _)| *of == reader));
            let mut ring: Vec<u64> = mine.flat_map(|(_, lines)| lines.iter().copied()).collect();
            rng.shuffle(&mut ring);
            (ring, 0usize)
        });
        let mut rings: Vec<(Vec<u64>, usize)> = rings.collect();
        let turns: Vec<usize> = (0..self.readers.len())
            .flat_map(|reader| std::iter::repeat_n(reader, self.readers[reader].0 as usize))
            .collect();
        let placement = DomainPlacement::new("together", vec![0; self.readers.len()]);
        let mut simulator = Simulator::new(model, &[placement], Sampling::ALL).unwrap();
        for is_warm in [false, true] {
            if is_warm {
                simulator.start_counting();
            }
            for _ in 0..accesses {
                let reader = turns[rng.below(turns.len())];
                let line = match self.readers[reader].1 {
                    ReadPattern::Cyclic => {
                        let (ring, at) = &mut rings[reader];
                        *at = (*at + 1) % ring.len();
                        ring[*at]
                    }
                    ReadPattern::Independent => {
                        let mut left = rng.below(1 << 30) as f64 / f64::from(1 << 30);
                        let mut mine = self.parts.iter().zip(&parts).filter_map(|((_, uses), lines)| {
                            Some((uses.iter().find(|(of, _)| *of == reader)?.1, lines))
                        });
                        let first = mine.next().unwrap();
                        let (_, lines) = std::iter::once(first)
                            .chain(mine)
                            .find(|(share, _)| {
                                left -= share;
                                left < 0.0
                            })
                            .unwrap_or(first);
                        lines[rng.below(lines.len())]
                    }
                };
                let access = Access::new(reader as u16, line * LINE, AccessKind::Read).unwrap();
                simulator.feed(&[access]).unwrap();
            }
        }
        simulator.by_vcpu(0).iter().map(|counts| counts.misses_per_thousand_reads().unwrap()).collect()
    }
}

/// The most that an estimate is from what is simulated, in misses for a thousand reads.
fn furthest(estimated: &[f64], simulated: &[f64]) -> f64 {
    estimated.iter().zip(simulated).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

const CACHE: u64 = 2 << 20;

/// Lines that are as large as so many percent of the cache.
fn lines(percent: u64) -> u64 {
    CACHE / LINE * percent / 100
}

use ReadPattern::{Cyclic, Independent};

/// Two readers of data of their own, of common data, and of both; of equal and of other rates; skewed.
fn independent(percent: u64) -> Vec<(&'static str, Case)> {
    let n = lines(percent);
    let two = vec![(1, Independent), (1, Independent)];
    vec![
        ("alone", Case { readers: vec![(1, Independent)], parts: vec![(n, vec![(0, 1.0)])] }),
        (
            "distinct",
            Case { readers: two.clone(), parts: vec![(n / 2, vec![(0, 1.0)]), (n / 2, vec![(1, 1.0)])] },
        ),
        ("shared", Case { readers: two.clone(), parts: vec![(n, vec![(0, 1.0), (1, 1.0)])] }),
        (
            "partly",
            Case {
                readers: two.clone(),
                parts: vec![
                    (n / 3, vec![(0, 0.5)]),
                    (n / 3, vec![(0, 0.5), (1, 0.5)]),
                    (n / 3, vec![(1, 0.5)]),
                ],
            },
        ),
        (
            "uneven",
            Case {
                readers: vec![(1, Independent), (5, Independent)],
                parts: vec![(n / 2, vec![(0, 1.0)]), (n / 2, vec![(1, 1.0)])],
            },
        ),
        (
            "skewed",
            Case {
                readers: two,
                parts: vec![
                    (n / 20, vec![(0, 0.5), (1, 0.5)]),
                    (n / 4, vec![(0, 0.3), (1, 0.2)]),
                    (n / 2, vec![(0, 0.2)]),
                    (n / 5, vec![(1, 0.3)]),
                ],
            },
        ),
    ]
}

const SIZES: [u64; 4] = [50, 100, 120, 200];

/// Lines anywhere: what is left is the approximation and the noise of the stream.
#[test]
fn independent_reads_are_as_simulated() {
    for (ways, sizes) in [(1, &SIZES[1..2]), (16, &SIZES[..])] {
        let model = lru(CACHE, ways);
        for percent in sizes.iter().copied() {
            for (name, case) in independent(percent) {
                let (estimated, simulated) =
                    (case.estimated(&model), case.simulated(&model, 1, 600_000, percent));
                let off = furthest(&estimated, &simulated);
                assert!(off < 10.0, "{name}, {ways} ways, {percent} %: {estimated:?}, not {simulated:?}");
            }
        }
    }
}

/// Rings: each with its own order, so that they meet anywhere.
#[test]
fn rings_are_as_simulated() {
    let model = lru(CACHE, 16);
    for percent in SIZES {
        let n = lines(percent);
        let two = vec![(1, Cyclic), (1, Cyclic)];
        for (name, case) in [
            ("alone", Case { readers: vec![(1, Cyclic)], parts: vec![(n, vec![(0, 1.0)])] }),
            ("shared", Case { readers: two.clone(), parts: vec![(n, vec![(0, 1.0), (1, 1.0)])] }),
            (
                "distinct",
                Case { readers: two, parts: vec![(n / 2, vec![(0, 1.0)]), (n / 2, vec![(1, 1.0)])] },
            ),
            (
                "mixed",
                Case {
                    readers: vec![(2, Cyclic), (1, Independent)],
                    parts: vec![(n / 2, vec![(0, 1.0)]), (n / 2, vec![(1, 1.0)])],
                },
            ),
        ] {
            let (estimated, simulated) =
                (case.estimated(&model), case.simulated(&model, 1, 600_000, percent));
            let off = furthest(&estimated, &simulated);
            assert!(off < 30.0, "{name}, {percent} %: {estimated:?}, not {simulated:?}");
        }
    }
}

/// Frames are of 64 lines in neighbouring sets: the mean is the same, and a host of few frames is further from it.
#[test]
fn frames_are_as_simulated() {
    let model = lru(8 << 20, 16);
    let percent = 120;
    for (name, mut case) in independent(percent) {
        case.parts.iter_mut().for_each(|(lines, _)| *lines = *lines * 4 / 64 * 64);
        let (estimated, simulated) = (case.estimated(&model), case.simulated(&model, 64, 2_500_000, percent));
        let off = furthest(&estimated, &simulated);
        assert!(off < 30.0, "{name}: {estimated:?}, not {simulated:?}");
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let pattern = prop::sample::select(&[Independent, Cyclic][..]);
    let readers = prop::collection::vec((1..6u32, pattern), 1..4);
    let parts = prop::collection::vec((1..60_000u64, prop::collection::vec(any::<bool>(), 4)), 1..5);
    (readers, parts).prop_map(|(readers, parts)| {
        let uses = |flags: Vec<bool>| {
            let of = (0..readers.len()).filter(|reader| flags[*reader] || *reader == 0);
            of.map(|reader| (reader, 0.25)).collect::<Vec<_>>()
        };
        let parts = parts.into_iter().map(|(lines, flags)| (lines, uses(flags))).collect();
        Case { readers, parts }
    })
}

fn any_model() -> impl Strategy<Value = CacheModel> {
    prop::sample::select(&[(1 << 20, 16), (2 << 20, 1), (2 << 20, 8), (5 << 16, 20), (3 << 15, 24)][..])
        .prop_map(|(size, ways)| lru(size, ways))
}

fn some(case: &Case, model: &CacheModel) -> Vec<Option<f64>> {
    misses_per_thousand_reads(CacheShape::of(model), &case.readers(), &case.data()).unwrap()
}

/// Errors of the sum over points of time.
const ROUGH: f64 = 0.5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Between none and all, the same in any order of the parts, and more for whoever reads anything when any part grows.
    #[test]
    fn more_data_is_never_fewer_misses(case in any_case(), model in any_model(), which in 0..4usize, more in 1..50_000u64) {
        let before = some(&case, &model);
        prop_assert!(before.iter().flatten().all(|misses| (0.0..=1000.0).contains(misses)), "{:?}", before);
        prop_assert_eq!(before[0].is_some(), true);
        let mut turned = case.clone();
        turned.parts.reverse();
        for (a, b) in before.iter().zip(some(&turned, &model)) {
            prop_assert!((a.unwrap_or(-1.0) - b.unwrap_or(-1.0)).abs() < 1e-6, "{:?} {:?}", a, b);
        }
        let mut grown = case.clone();
        let at = which % grown.parts.len();
        grown.parts[at].0 += more;
        for (a, b) in before.iter().zip(some(&grown, &model)) {
            prop_assert!(a.unwrap_or(0.0) <= b.unwrap_or(0.0) + ROUGH, "{:?}, then {:?}", before, b);
        }
    }

    /// Two readers alike have misses alike.
    #[test]
    fn readers_alike_miss_alike(n in 1..80_000u64, common in 0..60_000u64, rate in 1..5u32, is_cyclic: bool, model in any_model()) {
        let pattern = if is_cyclic { Cyclic } else { Independent };
        let case = Case {
            readers: vec![(rate, pattern), (rate, pattern)],
            parts: vec![(n, vec![(0, 0.5)]), (common, vec![(1, 0.5), (0, 0.5)]), (n, vec![(1, 0.5)])],
        };
        let found = some(&case, &model);
        prop_assert!((found[0].unwrap() - found[1].unwrap()).abs() < 1e-6, "{:?}", found);
    }

    /// A part that readers have in common instead of a copy each.
    #[test]
    fn sharing_is_never_more_misses(case in any_case(), model in any_model(), n in 1..60_000u64) {
        let (mut apart, mut together) = (case.clone(), case.clone());
        let all = (0..case.readers.len()).map(|reader| (reader, 0.5));
        together.parts.push((n, all.clone().collect()));
        all.for_each(|of| apart.parts.push((n, vec![of])));
        for (a, b) in some(&together, &model).iter().zip(some(&apart, &model)) {
            prop_assert!(a.unwrap() <= b.unwrap() + ROUGH, "{:?} shared, {:?} apart", a, b);
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let shape = |size, ways, line| CacheShape::new(size, ways, line);
    assert_eq!(shape(0, 16, 64), Err(EstimateError::Size(0)));
    assert_eq!(shape(1 << 35, 16, 64), Err(EstimateError::Size(1 << 35)));
    assert_eq!(shape(1 << 20, 0, 64), Err(EstimateError::Ways(0)));
    assert_eq!(shape(1 << 20, 513, 64), Err(EstimateError::Ways(513)));
    assert_eq!(shape(1 << 20, 16, 48), Err(EstimateError::Line(48)));
    let no_set = EstimateError::NoSet { size_bytes: 512, ways: 16, line_bytes: 64 };
    assert_eq!(shape(512, 16, 64), Err(no_set));
    let shape = shape(1 << 20, 16, 64).unwrap();
    let of = |rate, bytes, reader, share| {
        let readers = [Reader { rate, pattern: Independent }];
        misses_per_thousand_reads(shape, &readers, &[Data { bytes, uses: vec![Use { reader, share }] }])
    };
    assert_eq!(of(0.0, 1.0, 0, 1.0), Err(EstimateError::Rate { reader: 0, rate: 0.0 }));
    assert!(matches!(of(f64::NAN, 1.0, 0, 1.0), Err(EstimateError::Rate { .. })));
    assert_eq!(of(1.0, -1.0, 0, 1.0), Err(EstimateError::Bytes(-1.0)));
    assert_eq!(of(1.0, 1.0, 1, 1.0), Err(EstimateError::Reader { found: 1, readers: 1 }));
    assert_eq!(of(1.0, 1.0, 0, 1.5), Err(EstimateError::Share { reader: 0, share: 1.5 }));
    assert_eq!(of(1.0, 0.0, 0, 1.0), Ok(vec![None]));
    let many = vec![Data { bytes: 64.0, uses: vec![Use { reader: 0, share: 0.0 }] }; 1_000_000];
    let readers = [Reader { rate: 1.0, pattern: Independent }];
    let found = misses_per_thousand_reads(shape, &readers, &many);
    assert_eq!(found, Err(EstimateError::TooMuch { parts: 1_000_000, uses: 1_000_000 }));
}

#[test]
fn a_miss_costs_six_hits() {
    assert_eq!(ReadCost::PAPER.read_time(0.0), 1.0);
    assert_eq!(ReadCost::PAPER.read_time(1000.0), 6.0);
    assert_eq!(ReadCost { miss_over_hit: 3.0 }.read_time(500.0), 2.0);
}
