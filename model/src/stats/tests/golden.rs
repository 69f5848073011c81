//! The statistics against SciPy's figures for the same data.

use serde::Deserialize;

use super::super::*;

#[derive(Deserialize)]
struct Golden {
    quantiles_at: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    before: Vec<f64>,
    after: Vec<f64>,
    median_change: f64,
    ci95_change: Option<[f64; 2]>,
    quantiles: Vec<f64>,
    signed_rank: Option<Test>,
    mann_whitney: Option<Test>,
    trend_before: Option<Trend>,
    outliers_before: Vec<usize>,
}

#[derive(Deserialize)]
struct Test {
    n: Option<usize>,
    statistic: f64,
    p_value: f64,
    effect_size: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden.json")).unwrap()
}

fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1e-3), "{what}: {found}, not {expected}");
}

fn assert_test(found: Option<RankTest>, expected: &Test, what: &str) {
    let found = found.unwrap();
    assert_near(found.statistic, expected.statistic, &format!("{what}, statistic"));
    assert_near(found.p_value, expected.p_value, &format!("{what}, p"));
    assert_near(found.effect_size, expected.effect_size, &format!("{what}, effect size"));
    assert!(expected.n.is_none_or(|n| n == found.n), "{what}: {} values", found.n);
}

#[test]
fn rank_tests_are_as_scipy_computes_them() {
    let cases = golden().cases;
    assert!(cases.iter().any(|case| case.before.len() > EXACT_UP_TO));
    for Case { name, before, after, signed_rank: paired, mann_whitney: samples, .. } in &cases {
        let pairs: Vec<(f64, f64)> = before.iter().copied().zip(after.iter().copied()).collect();
        assert_test(signed_rank(&pairs), paired.as_ref().unwrap(), name);
        if let Some(samples) = samples {
            assert_test(mann_whitney(before, after), samples, &format!("{name}, two samples"));
        }
    }
    assert!(cases.iter().filter(|case| case.mann_whitney.is_some()).count() >= 8);
}

#[test]
fn quantiles_trends_and_outliers_are_as_scipy_computes_them() {
    let golden = golden();
    for case in &golden.cases {
        let found = quantiles(&case.before, &golden.quantiles_at).unwrap();
        for (found, expected) in found.iter().zip(&case.quantiles) {
            assert_near(*found, *expected, &case.name);
        }
        match (trend(&case.before), case.trend_before) {
            (None, None) => {}
            (Some(found), Some(expected)) => {
                assert_near(found.tau, expected.tau, &case.name);
                assert_near(found.p_value, expected.p_value, &case.name);
            }
            other => panic!("{}: {other:?}", case.name),
        }
        assert_eq!(outliers(&case.before), case.outliers_before, "{}", case.name);
    }
    assert!(golden.cases.iter().any(|case| !case.outliers_before.is_empty()));
}

#[test]
fn paired_changes_and_their_intervals_are_as_scipy_computes_them() {
    for case in golden().cases {
        let pairs: Vec<(f64, f64)> = case.before.iter().copied().zip(case.after.iter().copied()).collect();
        let found = compare_blocks(&pairs, false).unwrap();
        assert_near(found.change.median, case.median_change, &case.name);
        assert_eq!(found.change.ci95.is_some(), case.ci95_change.is_some(), "{}", case.name);
        for (found, expected) in found.change.ci95.iter().flatten().zip(case.ci95_change.iter().flatten()) {
            assert_near(*found, *expected, &case.name);
        }
        assert_eq!(
            found.warnings.iter().any(|w| matches!(w, Warning::FewValues { .. })),
            case.before.len() < 6
        );
    }
}

#[test]
fn signs_show_what_is_better() {
    let pairs: Vec<(f64, f64)> = (1..=8).map(|n| (f64::from(n) * 2.0, f64::from(n))).collect();
    let (less, more) = (compare_blocks(&pairs, false).unwrap(), compare_blocks(&pairs, true).unwrap());
    assert_eq!((less.change.median, more.change.median), (0.5, -0.5));
    assert_eq!((less.change.ci95, more.change.ci95), (Some([0.5, 0.5]), Some([-0.5, -0.5])));
    assert_eq!((less.effect_size(false), less.effect_size(true)), (Some(1.0), Some(-1.0)));
    assert_eq!(less.test.unwrap().p_value, 2.0 / 256.0);
    // Both sides rise with the block, which the change within blocks does not see.
    assert_eq!(less.warnings.iter().filter(|w| matches!(w, Warning::Drift { .. })).count(), 2);
}

#[test]
fn incomparable_data_is_an_error_and_nothing_is_dropped_silently() {
    assert_eq!(compare_blocks(&[], true), Err(CannotCompare::NoPair { left_out: 0 }));
    assert_eq!(
        compare_blocks(&[(0.0, 1.0), (f64::NAN, 1.0)], true),
        Err(CannotCompare::NoPair { left_out: 2 })
    );
    let one = compare_blocks(&[(2.0, 2.0), (1.0, f64::INFINITY)], true).unwrap();
    assert_eq!((one.change.n, one.change.median, one.change.ci95, one.test), (1, 0.0, None, None));
    assert_eq!(one.warnings, [Warning::FewValues { n: 1 }, Warning::LeftOut { n: 1 }]);
    assert!(one.warnings[0].to_string().contains("run longer"));
}
