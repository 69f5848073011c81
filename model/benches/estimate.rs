//! The estimate of misses beside the simulator: four VMs in two pairs, recommended (pairs together) and opposed, on two
//! caches of 20 MiB.
//!
//! `cargo bench -p huddle-model --bench estimate`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark: failures panic, results are printed"
)]

use std::collections::BTreeSet;
use std::time::Instant;

use huddle_model::cache::estimate::{CacheShape, Data, ReadPattern, Reader, Use, misses_per_thousand_reads};
use huddle_model::cache::{Access, AccessKind, CacheModel, DomainPlacement, Sampler, Sampling, Simulator};
use huddle_model::matrix::{
    MAX_GROUPS, MatrixVm, MemoryUse, Method, SharedGroup, SharedGroups, SharingMatrix,
};
use huddle_model::plan::{PlanInput, PlanLimits, PlanVm, Policy};
use huddle_model::rng::Rng;
use huddle_model::topology::{DomainId, Topology};

/// Simulated is one of so many sets.
const FOLD: u32 = 16;

/// Accesses to simulated sets, after as many of warm-up.
const ACCESSES: usize = 1_500_000;

const LINE: u64 = 64;

/// Working sets of a VM in percent of a cache.
const SIZES: [u64; 7] = [50, 75, 90, 100, 125, 150, 200];

/// Of which so many percent are common to the pair.
const COMMON: [u64; 3] = [25, 50, 100];

/// Of skewed reads, four of five are of a fifth of the data.
const HOT: f64 = 0.2;

/// How VMs read, and where their memory is.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    name: &'static str,
    pattern: ReadPattern,
    is_skewed: bool,
    /// Bytes that follow each other in memory.
    block: u64,
}

/// The data of the pairs and of the VMs, one after the other: the numbers of VMs, the bytes.
fn parts(percent: u64, common: u64, cache: u64) -> Vec<(Vec<usize>, u64)> {
    let set = cache * percent / 100;
    let shared = set * common / 100;
    let pairs = [0, 2].map(|first| (vec![first, first + 1], shared));
    let own = (0..4).map(|vm| (vec![vm], set - shared));
    pairs.into_iter().chain(own).filter(|(_, bytes)| *bytes > 0).collect()
}

/// Misses for a thousand reads of all four under a placement.
fn estimated(kind: Kind, shape: CacheShape, parts: &[(Vec<usize>, u64)], domain_of: [u32; 4]) -> f64 {
    let set: u64 = parts.iter().filter(|(vms, _)| vms.contains(&0)).map(|(_, bytes)| bytes).sum();
    let mut sum = 0.0;
    for domain in 0..2 {
        let here: Vec<usize> = (0..4).filter(|vm| domain_of[*vm] == domain).collect();
        let readers = vec![Reader { rate: 1.0, pattern: kind.pattern }; here.len()];
        let mut data = Vec::new();
        for (vms, bytes) in parts {
            let share = *bytes as f64 / set as f64;
            let levels = if kind.is_skewed { vec![(HOT, 0.8), (1.0 - HOT, 0.2)] } else { vec![(1.0, 1.0)] };
            for (of_bytes, of_reads) in levels {
                let there = here.iter().enumerate().filter(|(_, vm)| vms.contains(*vm));
                let uses: Vec<Use> =
                    there.map(|(reader, _)| Use { reader, share: share * of_reads }).collect();
                if !uses.is_empty() {
                    data.push(Data { bytes: *bytes as f64 * of_bytes, uses });
                }
            }
        }
        let found = misses_per_thousand_reads(shape, &readers, &data).unwrap();
        sum += found.into_iter().map(|misses| misses.unwrap()).sum::<f64>();
    }
    sum / 4.0
}

/// The same by simulation, recommended and opposed.
fn simulated(kind: Kind, model: &CacheModel, parts: &[(Vec<usize>, u64)], seed: u64) -> [f64; 2] {
    let sampling = Sampling::by_seed(FOLD, 1);
    let sampler = Sampler::new(model, sampling).unwrap();
    let placements =
        [DomainPlacement::new("recommended", RECOMMENDED), DomainPlacement::new("opposed", OPPOSED)];
    let mut simulator = Simulator::new(model, &placements, sampling).unwrap();
    let mut rng = Rng::new(seed);
    let mut taken = BTreeSet::new();
    // The kept lines of each part, in a place that nobody else has.
    let mut place = |bytes: u64| -> Vec<u64> {
        let mut lines = Vec::new();
        for at in (0..bytes).step_by(kind.block as usize) {
            let block = loop {
                let block = rng.below((1usize << 38) / kind.block as usize) as u64;
                if taken.insert(block) {
                    break block;
                }
            };
            let end = kind.block.min(bytes - at);
            let addresses = (0..end).step_by(LINE as usize).map(|byte| block * kind.block + byte);
            lines.extend(addresses.filter(|address| sampler.is_kept(*address)));
        }
        lines
    };
    let lines: Vec<Vec<u64>> = parts.iter().map(|(_, bytes)| place(*bytes)).collect();
    let mut rings: Vec<(Vec<u64>, usize)> = (0..4)
        .map(|vm| {
            let mine = parts.iter().zip(&lines).filter(|((vms, _), _)| vms.contains(&vm));
            let mut ring: Vec<u64> = mine.flat_map(|(_, lines)| lines.iter().copied()).collect();
            if kind.pattern == ReadPattern::Cyclic {
                rng.shuffle(&mut ring);
            }
            (ring, 0)
        })
        .collect();
    let hot: Vec<BTreeSet<u64>> = if kind.is_skewed {
        let of = |lines: &Vec<u64>| lines[..(lines.len() as f64 * HOT) as usize].iter().copied().collect();
        lines.iter().map(of).collect()
    } else {
        Vec::new()
    };
    let halves: Vec<[Vec<u64>; 2]> = (0..4)
        .map(|vm| {
            let is_hot = |line: &u64| hot.iter().any(|hot| hot.contains(line));
            let (hot, cold) = rings[vm].0.iter().partition(|line| is_hot(line));
            [hot, cold]
        })
        .collect();
    for is_counted in [false, true] {
        if is_counted {
            simulator.start_counting();
        }
        let mut chunk = Vec::with_capacity(4096);
        for number in 0..ACCESSES {
            let vm = rng.below(4);
            let line = match kind.pattern {
                ReadPattern::Cyclic => {
                    let (ring, at) = &mut rings[vm];
                    *at = (*at + 1) % ring.len();
                    ring[*at]
                }
                ReadPattern::Independent if kind.is_skewed => {
                    let half = &halves[vm][usize::from(rng.below(5) == 0)];
                    half[rng.below(half.len())]
                }
                ReadPattern::Independent => rings[vm].0[rng.below(rings[vm].0.len())],
            };
            chunk.push(Access::new(vm as u16, line, AccessKind::Read).unwrap());
            if chunk.len() == 4096 || number + 1 == ACCESSES {
                simulator.feed(&chunk).unwrap();
                chunk.clear();
            }
        }
    }
    [0, 1].map(|placement| simulator.total(placement).misses_per_thousand_reads().unwrap())
}

const RECOMMENDED: [u32; 4] = [0, 0, 1, 1];
const OPPOSED: [u32; 4] = [0, 1, 0, 1];

/// Positions in ascending order; equal values have the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: &f64| values.iter().filter(|other| *other < value).count() as f64;
    let equal = |value: &f64| values.iter().filter(|other| *other == value).count() as f64;
    values.iter().map(|value| below(value) + (equal(value) - 1.0) / 2.0).collect()
}

/// Spearman's rank correlation.
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

/// Of a thousand reads so many miss at least: below that a ratio is of nothing.
const LEAST: f64 = 1.0;

fn compare(title: &str, kind: Kind, known: Kind, model: &CacheModel) {
    println!("\n{title}: {}", kind.name);
    println!(
        "  set  common   recommended: estimated simulated   opposed: estimated simulated   ratio: estimated simulated"
    );
    let shape = CacheShape::of(model);
    let (mut off, mut ratios) = (Vec::new(), [Vec::new(), Vec::new()]);
    for percent in SIZES {
        for common in COMMON {
            let parts = parts(percent, common, shape.size_bytes());
            let [recommended, opposed] =
                [RECOMMENDED, OPPOSED].map(|placement| estimated(known, shape, &parts, placement));
            let [seen_recommended, seen_opposed] = simulated(kind, model, &parts, percent * 1000 + common);
            off.extend([recommended - seen_recommended, opposed - seen_opposed].map(f64::abs));
            let of = |opposed: f64, recommended: f64| opposed.max(LEAST) / recommended.max(LEAST);
            let both = [of(opposed, recommended), of(seen_opposed, seen_recommended)];
            both.iter().zip(&mut ratios).for_each(|(ratio, all)| all.push(*ratio));
            println!(
                "{percent:4} % {common:4} %   {recommended:22.1} {seen_recommended:9.1}   {opposed:18.1} {seen_opposed:9.1}   {:16.2} {:9.2}",
                both[0], both[1]
            );
        }
    }
    off.sort_by(f64::total_cmp);
    let mean = off.iter().sum::<f64>() / off.len() as f64;
    println!(
        "  off by {mean:.1} of a thousand reads on average, {:.1} at most; rank correlation of the ratio {:.3}",
        off[off.len() - 1],
        rank_correlation(&ratios[0], &ratios[1])
    );
}

/// Time of a plan with an estimate, in times of the same without: VMs on sixteen domains, and as many groups as are listed.
fn cost(vms: usize) {
    let vm = |at: usize| MatrixVm {
        memory: Some(MemoryUse { frames_used: 1 << 18, ..MemoryUse::default() }),
        ..MatrixVm::named(format!("vm{at}"))
    };
    let mut rng = Rng::new(1);
    let mut shared = vec![vec![0; vms]; vms];
    let groups: Vec<SharedGroup> = (0..MAX_GROUPS)
        .map(|_| {
            let of: BTreeSet<u32> = (0..16).map(|_| rng.below(vms) as u32).collect();
            let of: Vec<u32> = of.into_iter().collect();
            for (at, i) in of.iter().enumerate() {
                of[at + 1..].iter().for_each(|j| shared[*i as usize][*j as usize] += 100);
            }
            SharedGroup { vms: of, frames: 100 }
        })
        .collect();
    let matrix = SharingMatrix::measured(Method::Merged, (0..vms).map(vm).collect(), &shared, 0.0, 1.0)
        .with_groups(SharedGroups::of(groups, 0));
    let domains = (0..16).map(|id| {
        serde_json::json!({"id": id, "cpus": (id * 128..id * 128 + 128).collect::<Vec<u32>>(), "size_bytes": 32 << 20})
    });
    let domains: Vec<_> = domains.collect();
    let topology = Topology::from_json(&serde_json::json!({"domains": domains}).to_string()).unwrap();
    let place = |at: usize| PlanVm { current: vec![Some(DomainId(at as u32 % 16))], ..PlanVm::default() };
    let places: Vec<PlanVm> = (0..vms).map(place).collect();
    let working_set_kib = (0..vms).map(|at| (format!("vm{at}"), 2048 + at as u64)).collect();
    let limits = PlanLimits { working_set_kib, ..PlanLimits::default() };
    let without = PlanInput::new(&matrix, &topology, &places);
    let time = |input: &PlanInput<'_>| {
        let began = Instant::now();
        let plan = Policy::Paper.plan(input);
        (began.elapsed().as_secs_f64(), plan.expected.unwrap().misses.is_some())
    };
    let with = without.limits(&limits);
    let mut ratios: Vec<f64> = (0..5)
        .map(|_| {
            let (with, without) = (time(&with), time(&without));
            assert!(with.1 && !without.1);
            with.0 / without.0
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "{vms} VMs: a plan with an estimate takes {:.2} times one without ({:.2} to {:.2}; {:.0} ms)",
        ratios[2],
        ratios[0],
        ratios[4],
        time(&with).0 * 1000.0
    );
}

fn main() {
    [100, 1000].into_iter().for_each(cost);
    let paper = CacheModel::preset("paper").unwrap();
    let alone = paper.without_private();
    let lru = alone.with_replacement("lru".parse().unwrap()).unwrap();
    let frames =
        Kind { name: "frames anywhere", pattern: ReadPattern::Independent, is_skewed: false, block: 4096 };
    let huge = Kind { name: "huge pages", block: 2 << 20, ..frames };
    let ring = Kind { name: "rings", pattern: ReadPattern::Cyclic, ..frames };
    let skewed = Kind { name: "skewed, as known", is_skewed: true, ..frames };
    compare("LRU", frames, frames, &lru);
    compare("LRU", huge, frames, &lru);
    compare("LRU", ring, ring, &lru);
    compare("LRU", skewed, skewed, &lru);
    compare("LRU", Kind { name: "skewed, taken for even", ..skewed }, frames, &lru);
    compare("MRU_N, level 3 alone", frames, frames, &alone);
    compare("paper as documented, with level 2", frames, frames, &paper);
}
