//! Formatting of a series of values for benchmarks.

/// `median [least to most]` over the values.
pub fn spread(values: &[f64], digits: usize) -> String {
    let all = sorted(values);
    format!("{:.digits$} [{:.digits$} to {:.digits$}]", median(values), all[0], all[all.len() - 1])
}

/// The median; of an even number of values the upper of the middle two.
pub fn median(values: &[f64]) -> f64 {
    sorted(values)[values.len() / 2]
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}
