//! Mapping of values to positions on an axis, with round ticks.

use crate::text::figure;

/// Values beyond are drawn at the end: their differences would not be finite.
const FARTHEST: f64 = 1e300;

/// Values that differ by less, relative to their size, are drawn as equal.
const EQUAL: f64 = 1e-12;

/// An axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// Ends; their logarithms (base 10) on a logarithmic axis.
    low: f64,
    high: f64,
    /// Positions of `low` and `high`.
    from: f64,
    to: f64,
    /// From a tick to the next; whole decades on a logarithmic axis.
    step: f64,
    is_logarithmic: bool,
}

impl Scale {
    /// A linear axis over all finite `values`, widened to round ends; including 0 with `from_zero`.
    pub(super) fn over(values: impl IntoIterator<Item = f64>, from_zero: bool, from: f64, to: f64) -> Self {
        let found = values.into_iter().filter(|value| value.is_finite());
        let (mut low, mut high) = ends(found.map(|value| value.clamp(-FARTHEST, FARTHEST)));
        if from_zero {
            low = low.min(0.0);
            high = high.max(0.0);
        }
        let size = high.abs().max(low.abs());
        if size < 1.0 / FARTHEST {
            (low, high) = if from_zero { (0.0, 1.0) } else { (-1.0, 1.0) };
        } else if high - low <= EQUAL * size {
            let around = size * 0.1;
            (low, high) =
                if from_zero && low == 0.0 { (0.0, high + around) } else { (low - around, high + around) };
        }
        let step = round_step((high - low) / 5.0);
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Self { low, high, from, to, step, is_logarithmic: false }
    }

    /// A logarithmic axis over all `values` above 0, which lie within it.
    pub(super) fn logarithmic(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let found = values.into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = ends(found.map(f64::log10));
        let (low, high) = if high - low < 0.1 { (low - 0.1, high + 0.1) } else { (low, high) };
        // Some room, so that what is at the end can be seen.
        let room = (high - low) * 0.04;
        let step = ((high - low) / 6.0).ceil().max(1.0);
        Self { low: low - room, high: high + room, from, to, step, is_logarithmic: true }
    }

    /// The position of a value; of one beyond the axis, or of none, its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if self.is_logarithmic { value.max(1.0 / FARTHEST).log10() } else { value };
        // Not a number is at the low end: positions are always finite.
        let value = if value >= self.low { value.min(self.high) } else { self.low };
        self.from + (self.to - self.from) * (value - self.low) / (self.high - self.low)
    }

    /// Values of the ticks with their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let values = if self.is_logarithmic { self.decades() } else { self.steps() };
        values.into_iter().map(|value| (value, label(value))).collect()
    }

    fn steps(&self) -> Vec<f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count)
            .map(|number| self.low + self.step * number as f64)
            // Values that differ from 0 only by rounding.
            .map(|value| if value.abs() < self.step * 1e-9 { 0.0 } else { value })
            .collect()
    }

    /// 1, 2 and 5 times the powers of ten that lie on the axis; where those are many, powers only.
    fn decades(&self) -> Vec<f64> {
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let times: &[f64] = match last - first {
            ..=3 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let powers = (first..=last).step_by(self.step as usize);
        let all = powers.flat_map(|power| times.iter().map(move |times| times * 10f64.powi(power)));
        all.filter(|value| (self.low..=self.high).contains(&value.log10())).collect()
    }
}

/// The least and the greatest value; 0 and 1 without a value.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        low = low.min(value);
        high = high.max(value);
    }
    if low > high { (0.0, 1.0) } else { (low, high) }
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
    fn a_logarithmic_axis_has_round_ticks_and_equal_factors_are_equal_distances() {
        let scale = Scale::logarithmic([0.5, 20.0], 0.0, 100.0);
        let labels: Vec<String> = scale.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0.5", "1", "2", "5", "10", "20"]);
        let factor = |one: f64, other: f64| scale.at(other) - scale.at(one);
        assert!((factor(1.0, 2.0) - factor(5.0, 10.0)).abs() < 1e-9);
        for values in [vec![], vec![-1.0, f64::NAN], vec![3.0], vec![1e-300, 1e300], vec![5e-324, f64::MAX]] {
            let scale = Scale::logarithmic(values.clone(), 0.0, 100.0);
            assert!(scale.ticks().len() <= 16, "{values:?}: {:?}", scale.ticks());
            for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1.0, 1e-320] {
                assert!((0.0..=100.0).contains(&scale.at(value)), "{values:?} {value}");
            }
        }
    }

    #[test]
    fn no_values_and_equal_values_have_an_axis() {
        for values in [
            vec![],
            vec![f64::NAN],
            vec![0.0],
            vec![5.0, 5.0],
            vec![-1e-12],
            vec![1e300],
            vec![-f64::MAX, f64::MAX],
            vec![5e-324, 1e-310],
        ] {
            for from_zero in [true, false] {
                let scale = Scale::over(values.clone(), from_zero, 0.0, 100.0);
                let ticks = scale.ticks();
                assert!((2..=12).contains(&ticks.len()), "{values:?}: {ticks:?}");
                assert!(ticks.iter().all(|(value, _)| scale.at(*value).is_finite()));
            }
        }
    }
}
