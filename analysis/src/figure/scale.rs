//! Mapping of values to positions on an axis, with round ticks.

use crate::text::figure;

/// A linear axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    /// Positions of `low` and `high`.
    from: f64,
    to: f64,
    step: f64,
}

impl Scale {
    /// An axis over all finite `values`, widened to round ends; including 0 with `from_zero`.
    pub(super) fn over(values: impl IntoIterator<Item = f64>, from_zero: bool, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if from_zero {
            low = low.min(0.0);
            high = high.max(0.0);
        }
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            let around = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            (low, high) =
                if from_zero && low == 0.0 { (0.0, high + around) } else { (low - around, high + around) };
        }
        let step = round_step((high - low) / 5.0);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, from, to, step }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value - self.low) / (self.high - self.low)
    }

    /// Values of the ticks with their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count)
            .map(|number| self.low + self.step * number as f64)
            // Values that differ from 0 only by rounding.
            .map(|value| if value.abs() < self.step * 1e-9 { 0.0 } else { value })
            .map(|value| (value, label(value)))
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, not below `rough`.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= rough * 0.999);
    times.unwrap_or(10.0) * power
}

fn label(value: f64) -> String {
    let text = figure(value);
    if let Some((digits, power)) = text.split_once('e') {
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_all_values() {
        let scale = Scale::over([1.3, 9.1], true, 0.0, 100.0);
        let labels: Vec<String> = scale.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0", "2", "4", "6", "8", "10"]);
        assert_eq!((scale.at(0.0), scale.at(5.0), scale.at(10.0)), (0.0, 50.0, 100.0));
    }

    #[test]
    fn labels_have_no_trailing_zeros() {
        for (value, text) in [(2e7, "2e7"), (-1.5e-4, "-1.5e-4"), (0.5, "0.5"), (100.0, "100"), (1e8, "1e8")]
        {
            assert_eq!(label(value), text);
        }
    }

    #[test]
    fn no_values_and_equal_values_have_an_axis() {
        for values in [vec![], vec![f64::NAN], vec![0.0], vec![5.0, 5.0], vec![-1e-12], vec![1e300]] {
            for from_zero in [true, false] {
                let scale = Scale::over(values.clone(), from_zero, 0.0, 100.0);
                let ticks = scale.ticks();
                assert!((2..=12).contains(&ticks.len()), "{values:?}: {ticks:?}");
                assert!(ticks.iter().all(|(value, _)| scale.at(*value).is_finite()));
            }
        }
    }
}
