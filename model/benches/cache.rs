//! The cache simulator: four placements at once beside each alone, sampled sets beside all, accesses a second, memory.
//!
//! `cargo bench -p huddle-model --bench cache`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark: failures panic, results are printed"
)]

use std::collections::BTreeMap;

use huddle_model::cache::{
    Access, CacheModel, DomainPlacement, Pattern, Sampler, Sampling, Simulator, Synthetic,
};

const FOLD: u32 = 64;

/// Accesses to kept sets.
const ACCESSES: usize = 500_000;

/// Samples of sets.
const SAMPLES: u64 = 8;

/// Repetitions, taken in turn.
const TURNS: usize = 5;

/// All even placements of two pairs, and an uneven one: no two caches have the same vCPUs.
fn placements() -> Vec<DomainPlacement> {
    vec![
        DomainPlacement::new("recommended", [0, 0, 1, 1]),
        DomainPlacement::new("opposed", [0, 1, 0, 1]),
        DomainPlacement::new("crossed", [0, 1, 1, 0]),
        DomainPlacement::new("uneven", [0, 0, 0, 1]),
    ]
}

/// Time that this thread was on a CPU (Documentation/scheduler/sched-stats.rst, Linux 6.18), which other work on the
/// machine disturbs less than the time that passed.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// The machine of the paper as other simulators know it, as it is documented, and a chiplet.
fn models() -> Vec<(&'static str, CacheModel)> {
    let paper = CacheModel::preset("paper").unwrap();
    let alone = paper.without_private();
    vec![
        ("paper, level 3 alone, LRU", alone.with_replacement("lru".parse().unwrap()).unwrap()),
        ("paper, level 3 alone, MRU_N", alone),
        ("paper as documented", paper),
        ("epyc-32", CacheModel::preset("epyc-32").unwrap()),
    ]
}

/// Accesses that are measured at least: the kernel counts in ticks of up to 10 ms.
const MEASURED: usize = 2_000_000;

/// Seconds for an access, the first half of the stream being the warm-up.
fn seconds(model: &CacheModel, placements: &[DomainPlacement], sampling: Sampling, stream: &[Access]) -> f64 {
    let mut simulator = Simulator::new(model, placements, sampling).unwrap();
    let (warm_up, rest) = stream.split_at(stream.len() / 2);
    simulator.feed(warm_up).unwrap();
    let passes = MEASURED.div_ceil(rest.len());
    let began = cpu_seconds();
    for _ in 0..passes {
        rest.chunks(4096).for_each(|chunk| simulator.feed(chunk).unwrap());
    }
    (cpu_seconds() - began) / (passes * rest.len()) as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The three even placements and a mirror image, which two domains allow four VMs.
fn even() -> Vec<DomainPlacement> {
    let mut even = placements();
    even[3] = DomainPlacement::new("mirror", [1, 1, 0, 0]);
    even
}

/// Four at once and the mean of each alone, in turn.
fn four_beside_one(name: &str, model: &CacheModel, pattern: Pattern, stream: &[Access], sampling: Sampling) {
    let placements = placements();
    let (mut ratios, mut even_ratios, mut one, mut four) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let together = seconds(model, &placements, sampling, stream);
        let even = seconds(model, &even(), sampling, stream);
        let alone = placements
            .iter()
            .map(|placement| seconds(model, std::slice::from_ref(placement), sampling, stream));
        let alone = alone.sum::<f64>() / placements.len() as f64;
        ratios.push(together / alone);
        even_ratios.push(even / alone);
        one.push(1e-6 / alone);
        four.push(1e-6 / together);
    }
    let range = |ratios: &mut Vec<f64>| {
        let middle = median(ratios);
        format!("{middle:.2} ({:.2} to {:.2})", ratios[0], ratios[ratios.len() - 1])
    };
    println!(
        "  {:<8} {name:<28} one {:5.1}, four {:5.1} million accesses a second; four cost {} of one, with a mirror image {}",
        pattern.name(),
        median(&mut one),
        median(&mut four),
        range(&mut ratios),
        range(&mut even_ratios),
    );
}

/// Only accesses to kept sets, as a reader of guests would send them.
fn kept(model: &CacheModel, pattern: Pattern) -> Vec<Access> {
    let sampler = Sampler::new(model, Sampling::one_of(FOLD)).unwrap();
    Synthetic::new(pattern, 4, 1).filter(|access| sampler.is_kept(access.address())).take(ACCESSES).collect()
}

fn speed() {
    println!("one of {FOLD} sets, accesses to these sets only:");
    for pattern in Pattern::ALL {
        // What is kept depends on the sets of the levels, not on policies.
        let mut streams: BTreeMap<u64, Vec<Access>> = BTreeMap::new();
        for (name, model) in models() {
            let sets = model.private_sets().unwrap_or(model.sets());
            let stream = streams.entry(sets).or_insert_with(|| kept(&model, pattern));
            four_beside_one(name, &model, pattern, stream, Sampling::one_of(FOLD));
        }
    }
    println!("all sets:");
    for pattern in [Pattern::Shared, Pattern::Mixed] {
        let stream: Vec<Access> = Synthetic::new(pattern, 4, 1).take(8 * ACCESSES).collect();
        for (name, model) in models() {
            four_beside_one(name, &model, pattern, &stream, Sampling::ALL);
        }
    }
}

/// Misses by one of 64 sets, by the part of accesses that missed and by the factor alone, beside all sets.
fn sampled_beside_all() {
    println!(
        "misses of one of {FOLD} sets beside those of all, 10 million accesses after 10 million of warm-up, 8 samples:"
    );
    for pattern in Pattern::ALL {
        let stream: Vec<Access> = Synthetic::new(pattern, 4, 1).take(20_000_000).collect();
        for (name, model) in models() {
            let counts = |sampling| {
                let mut simulator = Simulator::new(&model, &placements(), sampling).unwrap();
                let (warm_up, rest) = stream.split_at(stream.len() / 2);
                simulator.feed(warm_up).unwrap();
                simulator.start_counting();
                simulator.feed(rest).unwrap();
                [0, 1].map(|placement| {
                    let total = simulator.total(placement);
                    (total.misses.all() as f64, total.accesses.all() as f64)
                })
            };
            let all = counts(Sampling::ALL);
            let samples: Vec<_> = (0..SAMPLES).map(|seed| counts(Sampling::by_seed(FOLD, seed))).collect();
            for (placement, (all_misses, all_accesses)) in all.into_iter().enumerate() {
                // A few kept sets say nothing about so few.
                if all_misses < 10_000.0 {
                    let (pattern, placement) = (pattern.name(), &placements()[placement].name);
                    println!(
                        "  {pattern:<8} {name:<28} {placement:<12} {all_misses:>9} misses, too few to compare"
                    );
                    continue;
                }
                let of_samples = || samples.iter().map(|sample| sample[placement]);
                let mut by_factor: Vec<f64> = of_samples()
                    .map(|(misses, _)| (misses * f64::from(FOLD) / all_misses - 1.0).abs() * 100.0)
                    .collect();
                let mut by_part: Vec<f64> = of_samples()
                    .map(|(misses, accesses)| {
                        (misses / accesses / (all_misses / all_accesses) - 1.0).abs() * 100.0
                    })
                    .collect();
                let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
                println!(
                    "  {:<8} {name:<28} {:<12} {all_misses:>9} misses; by part median {:.2} %, most {:.2} %; by factor median \
                     {:.2} %, most {:.2} %",
                    pattern.name(),
                    placements()[placement].name,
                    median(&mut by_part),
                    most(&by_part),
                    median(&mut by_factor),
                    most(&by_factor),
                );
            }
        }
    }
}

/// Resident memory of this process, in bytes (Documentation/filesystems/proc.rst, Linux 6.18).
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

fn memory() {
    println!("memory of four placements, from the first access on in chunks of 65,536 (0.5 MiB):");
    for (name, model) in models() {
        for sampling in [Sampling::one_of(FOLD), Sampling::ALL] {
            let before = resident();
            let mut simulator = Simulator::new(&model, &placements(), sampling).unwrap();
            let mut stream = Synthetic::new(Pattern::Skewed, 4, 1);
            for _ in 0..100 {
                let chunk: Vec<Access> = stream.by_ref().take(1 << 16).collect();
                simulator.feed(&chunk).unwrap();
            }
            println!(
                "  {name:<28} one of {:<3} sets: {:6.1} MiB at most, {:6.1} MiB resident more than before",
                sampling.fold,
                simulator.bytes() as f64 / f64::from(1 << 20),
                (resident() - before) / f64::from(1 << 20)
            );
        }
    }
}

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let runs = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if runs("memory") {
        memory();
    }
    if runs("speed") {
        speed();
    }
    if runs("sampling") {
        sampled_beside_all();
    }
}
