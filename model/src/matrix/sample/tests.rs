//! The interval by exact probabilities, and the whole estimate on layouts whose contents repeat.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rng::Rng;

/// Probabilities of 0 to `n` successes; those below 1e-13 are 0.
fn binomial(n: u64, p: f64) -> Vec<f64> {
    let log_factorial = |n: u64| libm::lgamma(n as f64 + 1.0);
    let of = |k: u64| {
        let ways = log_factorial(n) - log_factorial(k) - log_factorial(n - k);
        (ways + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
    };
    (0..=n).map(of).map(|share| if share < 1e-13 { 0.0 } else { share }).collect()
}

/// The probability that the interval has the true rate, where `shared` of `all` contents are shared.
fn coverage(shared: u64, all: u64, p: f64) -> f64 {
    let (truth, others) = (shared as f64 / all as f64, binomial(all - shared, p));
    let mut covered = 0.0;
    for (both, first) in (0..).zip(binomial(shared, p)) {
        for (other, second) in (0..).zip(&others) {
            if first * second > 0.0 {
                let [lower, upper] = SampledRate::of(both, both + other, p).ci95;
                covered += if lower <= truth && truth <= upper { first * second } else { 0.0 };
            }
        }
    }
    covered
}

#[test]
fn the_interval_covers_95_percent_by_exact_probabilities() {
    for p in [0.05, 0.1, 0.25, 0.5, 0.9] {
        for all in [1, 2, 3, 5, 10, 20, 50, 100, 300, 800] {
            for shared in [0, 1, 2, 3, all / 10, all / 4, all / 2, 3 * all / 4, all - 1, all] {
                if shared <= all {
                    let covered = coverage(shared, all, p);
                    assert!(covered >= 0.95, "{shared} of {all}, sampled by {p}: {covered}");
                }
            }
        }
    }
}

#[test]
fn known_rates_and_what_was_not_seen() {
    // The interval of Newcombe's table I, 81 of 263, method 4, for an infinite population: 0.2535 to 0.3682.
    let rate = SampledRate::of(81, 263, 1e-12);
    assert!((rate.ci95[0] - 0.2535).abs() < 5e-5 && (rate.ci95[1] - 0.3682).abs() < 5e-5, "{rate:?}");
    assert!((rate.error - (81.0 * 182.0 / 263f64.powi(3)).sqrt()).abs() < 1e-4, "{rate:?}");
    // Nothing seen, and nothing seen in both: neither says that there is nothing.
    let nothing = SampledRate::of(0, 0, 0.1);
    assert_eq!((nothing.rate, nothing.ci95), (0.0, [0.0, 1.0]));
    let none = SampledRate::of(0, 20, 0.1);
    assert!(none.rate == 0.0 && none.error > 0.0 && none.ci95[0] == 0.0 && none.ci95[1] > 0.1, "{none:?}");
    let all = SampledRate::of(20, 20, 0.1);
    assert!(all.rate == 1.0 && all.error > 0.0 && all.ci95[0] < 0.9 && all.ci95[1] == 1.0, "{all:?}");
    // Everything seen: no error of sampling, and half a content of rounding.
    let whole = SampledRate::of(30, 70, 1.0);
    assert_eq!(whole.error, 0.0);
    assert!((whole.ci95[0] - 29.5 / 70.0).abs() < 1e-12 && (whole.ci95[1] - 30.5 / 70.0).abs() < 1e-12);
}

/// VMs as lists of pages, each page a content.
struct Layout {
    name: &'static str,
    vms: Vec<Vec<u64>>,
}

/// `count` contents from `first` on, each on `times` pages.
fn contents(first: u64, count: u64, times: usize) -> impl Iterator<Item = u64> {
    (first..first + count).flat_map(move |content| std::iter::repeat_n(content, times))
}

fn layouts() -> Vec<Layout> {
    // 300 contents in common, 400 only in the first, 100 only in the second: 300 of 700 are 42.86 %.
    let repeated = |name, of_first: usize, of_second: usize| Layout {
        name,
        vms: vec![
            contents(0, 300, of_first).chain(contents(1000, 400, of_first)).collect(),
            contents(0, 300, of_second).chain(contents(2000, 100, of_second)).collect(),
        ],
    };
    let mixed = |first: u64, own: u64| {
        let shared = contents(0, 100, 1).chain(contents(100, 100, 2)).chain(contents(200, 100, 3));
        shared.chain(contents(first, own, 1)).chain(contents(first + 5000, own, 3)).collect()
    };
    vec![
        repeated("once", 1, 1),
        repeated("twice", 2, 2),
        repeated("three times", 3, 3),
        repeated("three times in one VM only", 3, 1),
        // What is in common is on one page, what is not on three: the worst for a sample of pages.
        Layout {
            name: "only what is not in common repeats",
            vms: vec![
                contents(0, 300, 1).chain(contents(1000, 400, 3)).collect(),
                contents(0, 300, 1).chain(contents(2000, 100, 2)).collect(),
            ],
        },
        Layout { name: "mixed", vms: vec![mixed(10_000, 200), mixed(20_000, 50), mixed(30_000, 100)] },
        Layout {
            name: "one content on very many pages",
            vms: vec![
                contents(0, 200, 1).chain(contents(7, 1, 5000)).chain(contents(900, 300, 2)).collect(),
                contents(0, 200, 2).chain(contents(7, 1, 300)).chain(contents(3000, 90, 1)).collect(),
            ],
        },
        Layout {
            name: "little in common",
            vms: vec![
                contents(0, 5, 3).chain(contents(1000, 900, 2)).collect(),
                contents(0, 5, 1).chain(contents(3000, 400, 3)).collect(),
            ],
        },
    ]
}

/// The distinct contents of each VM among those that are taken.
fn taken(layout: &Layout, takes: impl Fn(u64) -> bool) -> Vec<BTreeSet<u64>> {
    let of = |pages: &Vec<u64>| pages.iter().copied().filter(|content| takes(*content)).collect();
    layout.vms.iter().map(of).collect()
}

/// Contents, and those that are shared: of VM i with VM j for each pair, and last of all VMs with any other.
fn counts(vms: &[BTreeSet<u64>]) -> Vec<(u64, u64)> {
    let n = vms.len();
    let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j);
    let pair = |(i, j): (usize, usize)| (vms[i].len() as u64, vms[i].intersection(&vms[j]).count() as u64);
    let mut held = BTreeMap::<u64, usize>::new();
    vms.iter().flatten().for_each(|content| *held.entry(*content).or_default() += 1);
    let in_several = held.values().filter(|vms| **vms > 1).count();
    pairs.map(pair).chain(std::iter::once((held.len() as u64, in_several as u64))).collect()
}

/// Each rate, and the share of all contents that several VMs have, over samples with fixed seeds.
#[test]
fn rates_have_no_bias_and_intervals_cover_whatever_repeats() {
    const SAMPLES: u32 = 2000;
    for (layout, p) in layouts().iter().flat_map(|layout| [(layout, 0.1), (layout, 0.3)]) {
        let truths = counts(&taken(layout, |_| true));
        let draws: Vec<Vec<SampledRate>> = (0..SAMPLES)
            .map(|seed| {
                let takes = |content: u64| {
                    let drawn = Rng::of_part(u64::from(seed), content).next_u64();
                    (drawn as f64) < p * 2f64.powi(64)
                };
                let seen = counts(&taken(layout, takes));
                seen.into_iter().map(|(all, shared)| SampledRate::of(shared, all, p)).collect()
            })
            .collect();
        for (position, (all, shared)) in truths.into_iter().enumerate() {
            let truth = shared as f64 / all as f64;
            let mean = |of: &dyn Fn(&SampledRate) -> f64| {
                draws.iter().map(|draw| of(&draw[position])).sum::<f64>() / f64::from(SAMPLES)
            };
            let covered = mean(&|rate| f64::from(u8::from(rate.ci95[0] <= truth && truth <= rate.ci95[1])));
            let average = mean(&|rate| rate.rate);
            let spread = mean(&|rate| (rate.rate - average).powi(2)).sqrt();
            let stated = mean(&|rate| rate.error);
            let what = format!("{}, {p}, {position}", layout.name);
            assert!(covered >= 0.94, "{what}: {covered}");
            // Within four standard errors of the mean.
            let off = (average - truth).abs();
            assert!(off < 4.0 * spread / f64::from(SAMPLES).sqrt(), "{what}: {average} {truth}");
            // Where few of those that are shared are seen, the error is stated too large rather than too small.
            let most = if shared as f64 * p < 10.0 { 3.0 } else { 1.1 };
            assert!((0.95..most).contains(&(stated / spread)), "{what}: {stated} {spread}");
        }
    }
}
