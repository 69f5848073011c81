//! Simulations with fixed seeds: how often a difference is found, and how often the interval holds it.

use super::*;

/// Normal values (Box and Muller).
fn normal(rng: &mut Rng) -> f64 {
    let mut uniform = || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let (radius, turn) = (1.0 - uniform(), uniform());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
}

/// A series around 100 with 5 % of noise, of which each value keeps `rho` of the one before; with `heavy`, one of ten steps
/// is five times as great.
fn autoregressive(n: usize, rho: f64, heavy: bool, rng: &mut Rng) -> Vec<f64> {
    let mut at = normal(rng);
    let mut next = || {
        let noise = normal(rng) * if heavy && rng.below(10) == 0 { 5.0 } else { 1.0 };
        at = rho * at + (1.0 - rho * rho).sqrt() * noise;
        at
    };
    (0..100).for_each(|_| _ = next());
    (0..n).map(|_| 100.0 * (0.05 * next()).exp()).collect()
}

/// What was found in many pairs of series.
#[derive(Debug)]
struct Found {
    /// Parts of all pairs: a p value below 0.05; an interval.
    significant: f64,
    decided: f64,
    /// Part of the intervals that hold the truth.
    covered: f64,
}

fn simulate(n: usize, rho: f64, heavy: bool, effect: f64, pairs: usize) -> Found {
    let mut rng = Rng::of_part(7, n as u64 * 1000 + (rho * 100.0) as u64 + u64::from(heavy));
    let (mut significant, mut decided, mut covered) = (0, 0, 0);
    for seed in 0..pairs {
        let before = autoregressive(n, rho, heavy, &mut rng);
        let after: Vec<f64> =
            autoregressive(n, rho, heavy, &mut rng).into_iter().map(|value| value * (1.0 - effect)).collect();
        let found = compare_series(&before, &after, false, seed as u64).unwrap();
        assert_eq!(found.p_value.is_some(), found.change.ci95.is_some());
        if let (Some(p), Some([low, high])) = (found.p_value, found.change.ci95) {
            // The interval and the test agree.
            assert_eq!(p < 0.05, low > 0.0 || high < 0.0, "{found:?}");
            significant += usize::from(p < 0.05);
            decided += 1;
            covered += usize::from(low <= effect && effect <= high);
        }
    }
    let part = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    Found {
        significant: part(significant, pairs),
        decided: part(decided, pairs),
        covered: part(covered, decided),
    }
}

/// Three standard errors of a share of 5 %.
fn error(pairs: usize) -> f64 {
    3.0 * (0.05_f64 * 0.95 / pairs as f64).sqrt()
}

#[test]
fn series_without_a_difference_are_seldom_told_apart() {
    let pairs = 400;
    for n in [60, 200] {
        for (rho, heavy) in
            [(0.0, false), (0.3, false), (0.5, false), (0.7, false), (0.9, false), (0.5, true)]
        {
            let found = simulate(n, rho, heavy, 0.0, pairs);
            assert!(found.significant <= 0.05 + error(pairs), "n {n}, rho {rho}: {found:?}");
        }
    }
}

#[test]
fn a_difference_is_found_and_the_interval_holds_it() {
    let pairs = 300;
    for (rho, least) in [(0.0, 0.95), (0.3, 0.95), (0.5, 0.9)] {
        let found = simulate(200, rho, false, 0.04, pairs);
        assert!(found.significant >= least, "rho {rho}: {found:?}");
        assert!(found.covered >= 0.95 - error(pairs), "rho {rho}: {found:?}");
    }
}

/// With strong dependence most recordings of 200 spans hold too few stretches, and nothing is claimed.
#[test]
fn too_few_stretches_give_neither_interval_nor_p() {
    assert!(simulate(200, 0.95, false, 0.0, 100).decided < 0.1);
    let few = compare_series(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0], false, 1).unwrap();
    assert_eq!((few.p_value, few.change.ci95, few.change.median), (None, None, 0.0));
    // A ramp is one stretch.
    let ramp: Vec<f64> = (1..=200).map(f64::from).collect();
    let same = compare_series(&ramp, &ramp, false, 1).unwrap();
    assert_eq!((same.p_value, same.effect_size), (None, 0.0));
    assert!(same.stretches() < LEAST_STRETCHES, "{same:?}");
    let steady = compare_series(&[5.0; 50], &[6.0; 50], true, 1).unwrap();
    assert_eq!((steady.p_value, steady.effect_size), (None, 1.0));
    assert!((steady.change.median - 0.2).abs() < 1e-12);
}

#[test]
fn values_without_a_ratio_are_left_out_and_counted() {
    let found = compare_series(&[1.0, 0.0, f64::NAN, 3.0], &[2.0, -1.0], false, 1).unwrap();
    assert_eq!((found.before.n, found.after.n, found.left_out), (2, 1, 3));
    assert_eq!(compare_series(&[0.0], &[1.0], false, 1), None);
    assert_eq!(compare_series(&[1.0], &[], false, 1), None);
}

#[test]
fn the_length_of_stretches_grows_with_dependence() {
    let mut rng = Rng::new(3);
    let mut lengths = |rho: f64| {
        let of_one = |_| block_length(&autoregressive(500, rho, false, &mut rng));
        let all: Vec<f64> = (0..50).map(of_one).collect();
        median(&all).unwrap()
    };
    let found = [0.0, 0.5, 0.9].map(&mut lengths);
    assert!(found[0] < 4.0 && found[1] > 5.0 && found[1] < 20.0 && found[2] > 20.0, "{found:?}");
    assert_eq!(block_length(&[1.0; 100]), 1.0);
}

/// As a transcription of Politis and White (2004) into NumPy has them for the same series.
#[test]
fn lengths_are_those_of_another_implementation() {
    for (rho, n, expected) in [
        (0.0, 200, 0.6156852552217167_f64),
        (0.5, 200, 4.179402533118921),
        (0.7, 300, 13.89996770587364),
        (0.9, 500, 22.317472909840866),
    ] {
        let (mut state, mut at) = (12_345_u64, 0.0);
        let mut next = || {
            state = (1_103_515_245 * state + 12_345) % (1 << 31);
            at = rho * at + state as f64 / (1_u64 << 31) as f64;
            at
        };
        let values: Vec<f64> = (0..n).map(|_| next()).collect();
        let found = block_length(&values);
        // A stretch has at least one value.
        let expected = expected.max(1.0);
        assert!((found - expected).abs() < 1e-9 * expected, "rho {rho}: {found} {expected}");
    }
}
