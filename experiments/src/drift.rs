//! Whether a figure drifted over a run: the slope of Theil and Sen, the median of the slopes of all
//! pairs of blocks (Sen 1968), which single disturbed blocks do not move.

use huddle_model::stats::median;

/// How far `values`, one a block in their order, moved from the first block to the last, as a part of
/// their median: 0.05 means that they rose by 5 %. `None` below three values or when one is not finite.
pub fn relative_drift(values: &[f64]) -> Option<f64> {
    if values.len() < 3 {
        return None;
    }
    let mut slopes = Vec::new();
    for (i, early) in values.iter().enumerate() {
        slopes.extend(values.iter().enumerate().skip(i + 1).map(|(j, late)| (late - early) / (j - i) as f64));
    }
    let level = median(values).filter(|level| *level != 0.0)?;
    Some(median(&slopes)? * (values.len() - 1) as f64 / level)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_line_drifts_by_its_rise_and_an_outlier_does_not() {
        let line: Vec<f64> = (0..11).map(|n| 95.0 + f64::from(n)).collect();
        assert!((relative_drift(&line).unwrap() - 0.1).abs() < 1e-12);
        let mut flat = vec![100.0; 11];
        flat[7] = 300.0;
        assert_eq!(relative_drift(&flat), Some(0.0));
        assert_eq!(relative_drift(&[1.0, 2.0]), None);
        assert_eq!(relative_drift(&[1.0, f64::NAN, 2.0]), None);
    }
}
