//! Mapping of rates to ten levels of colour or glyph.

/// How rates are distributed over the levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps of rate.
    Linear,
    /// Equal ratios of rate, over three decades.
    Logarithmic,
}

impl Scale {
    /// Its name in the legend.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Logarithmic => "log",
        }
    }
}

/// The highest level.
pub(crate) const TOP_LEVEL: u8 = 9;

/// Ratio of the top of a logarithmic ramp to its bottom.
const LOG_SPAN: f64 = 1000.0;

/// A scale with its upper end. Level 0 is a rate of exactly 0, and no other rate has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    pub(crate) scale: Scale,
    /// Rate (0 to 1) at the upper end of the highest level.
    pub(crate) top: f64,
}

impl Ramp {
    /// A scale that reaches to the next round number above `highest`, so that colours keep their meaning
    /// while rates fluctuate.
    pub(crate) fn new(scale: Scale, highest: f64) -> Self {
        Self { scale, top: round_up(highest) }
    }

    /// 0 to [`TOP_LEVEL`].
    pub(crate) fn level(&self, rate: f64) -> u8 {
        if rate.is_nan() || rate <= 0.0 {
            return 0;
        }
        let top = f64::from(TOP_LEVEL);
        let level = match self.scale {
            Scale::Linear => (rate / self.top * top).ceil(),
            Scale::Logarithmic => (top * (rate / self.top * LOG_SPAN).ln() / LOG_SPAN.ln()).ceil(),
        };
        level.clamp(1.0, top) as u8
    }

    /// The highest rate of a level.
    pub(crate) fn upper(&self, level: u8) -> f64 {
        let part = f64::from(level) / f64::from(TOP_LEVEL);
        match (level, self.scale) {
            (0, _) => 0.0,
            (_, Scale::Linear) => self.top * part,
            (_, Scale::Logarithmic) => self.top / LOG_SPAN * LOG_SPAN.powf(part),
        }
    }
}

/// The next of 1, 2, 5, 10, ... per cent (or their tenths and so on), at most 1.
fn round_up(rate: f64) -> f64 {
    if rate.is_nan() || rate <= 0.0 {
        return 1.0;
    }
    let decade = 10f64.powf(rate.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| rate <= step * decade * (1.0 + 1e-9));
    (step.unwrap_or(10.0) * decade).min(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_alone_is_level_zero() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let ramp = Ramp::new(scale, 0.42);
            assert_eq!(ramp.top, 0.5);
            assert_eq!(ramp.level(0.0), 0);
            assert_eq!(ramp.level(1e-12), 1);
            assert_eq!(ramp.level(0.5), TOP_LEVEL);
        }
    }

    #[test]
    fn the_top_is_round() {
        let top = |highest| Ramp::new(Scale::Linear, highest).top;
        for (highest, expected) in
            [(0.0, 1.0), (0.004, 0.005), (0.1, 0.1), (0.11, 0.2), (0.9, 1.0), (1.0, 1.0)]
        {
            assert!((top(highest) - expected).abs() < 1e-12, "{highest}");
        }
    }

    proptest! {
        #[test]
        fn levels_rank_rates(a in 0.0f64..1.0, b in 0.0f64..1.0, highest in 0.0f64..1.0, log: bool) {
            let ramp = Ramp::new(if log { Scale::Logarithmic } else { Scale::Linear }, highest);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(ramp.level(low) <= ramp.level(high));
            prop_assert!(ramp.level(high) <= TOP_LEVEL);
        }

        #[test]
        fn a_level_holds_rates_up_to_its_upper_end(rate in 0.001f64..1.0, log: bool) {
            let ramp = Ramp::new(if log { Scale::Logarithmic } else { Scale::Linear }, 1.0);
            let level = ramp.level(rate);
            prop_assert!(rate <= ramp.upper(level) * (1.0 + 1e-9));
            prop_assert!(rate >= ramp.upper(level - 1) * (1.0 - 1e-9) || level == 1);
        }
    }
}
