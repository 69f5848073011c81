mod golden;

use super::*;

#[test]
fn medians_of_known_values() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
    assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    assert_eq!(median(&[1.0, f64::NAN]), None);
}

#[test]
fn quantiles_of_known_values() {
    let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
    assert_eq!(quantile(&sorted, 0.025), 2.5);
    assert_eq!(quantile(&sorted, 0.975), 97.5);
    assert_eq!(quantile(&[7.0], 0.975), 7.0);
}

#[test]
fn the_interval_has_the_ranks_of_the_tables() {
    // Ranks as in the tables of the sign test's interval.
    for (n, low, high) in [(6, 1, 6), (8, 1, 8), (9, 2, 8), (15, 4, 12), (30, 10, 21), (5000, 2431, 2570)] {
        // Unsorted.
        let values: Vec<f64> = (0..n).map(|i| f64::from((i * 7 + 3) % n + 1)).collect();
        assert_eq!(interval(&values), Some([f64::from(low), f64::from(high)]), "{n}");
    }
}

#[test]
fn ratios_are_taken_within_blocks() {
    // A drift of both arms of a block does not change the ratio.
    let pairs: Vec<(f64, f64)> = (1..=9).map(|block| (2.0 * f64::from(block), f64::from(block))).collect();
    let ratio = Estimate::of_paired_ratio(&pairs).unwrap();
    assert_eq!((ratio.n, ratio.median, ratio.ci95), (9, 2.0, Some([2.0, 2.0])));
    assert_eq!(Estimate::of_paired_ratio(&[(1.0, 0.0)]), None);
    assert_eq!(Estimate::of_paired_ratio(&[]), None);
}

#[test]
fn few_values_have_no_interval() {
    let five = Estimate::of_median(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    assert_eq!((five.median, five.ci95), (3.0, None));
    assert!(Estimate::of_median(&[1.0; 6]).unwrap().ci95.is_some());
}

#[test]
fn the_interval_covers_the_true_median_at_least_as_often_as_stated() {
    let mut rng = crate::rng::Rng::new(2);
    for n in [7, 16, 30] {
        let runs = 4000;
        let covered = (0..runs)
            .filter(|_| {
                // Uniform over 0 to 1, so the true median is 0.5.
                let values: Vec<f64> = (0..n).map(|_| rng.next_u64() as f64 / u64::MAX as f64).collect();
                let [low, high] = interval(&values).unwrap();
                low <= 0.5 && 0.5 <= high
            })
            .count();
        // 95 % minus three standard errors.
        assert!(covered * 100 >= runs * 94, "{covered} of {runs} intervals of {n} held the true median");
    }
}
