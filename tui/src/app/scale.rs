//! Mapping of rates to ten levels of colour or glyph.

/// How rates are distributed over the levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps of rate, up to the highest one.
    Highest,
    /// Equal steps of rate, up to 100 %: the same colours for any two matrices.
    Whole,
    /// Equal ratios of rate, over three decades below the highest one.
    Logarithmic,
}

impl Scale {
    /// Its name in the legend.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Highest => "to the highest",
            Self::Whole => "to 100 %",
            Self::Logarithmic => "log",
        }
    }

    /// The one that its key switches to.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Highest => Self::Whole,
            Self::Whole => Self::Logarithmic,
            Self::Logarithmic => Self::Highest,
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
    /// A scale of rates up to `highest`; up to 1 where there are none.
    pub(crate) fn new(scale: Scale, highest: f64) -> Self {
        let is_known = highest > 0.0 && highest <= 1.0;
        Self { scale, top: if is_known && scale != Scale::Whole { highest } else { 1.0 } }
    }

    /// 0 to [`TOP_LEVEL`].
    pub(crate) fn level(&self, rate: f64) -> u8 {
        if rate.is_nan() || rate <= 0.0 {
            return 0;
        }
        let top = f64::from(TOP_LEVEL);
        let level = match self.scale {
            Scale::Highest | Scale::Whole => (rate / self.top * top).ceil(),
            Scale::Logarithmic => (top * (rate / self.top * LOG_SPAN).ln() / LOG_SPAN.ln()).ceil(),
        };
        level.clamp(1.0, top) as u8
    }

    /// The highest rate of a level.
    pub(crate) fn upper(&self, level: u8) -> f64 {
        let part = f64::from(level) / f64::from(TOP_LEVEL);
        match (level, self.scale) {
            (0, _) => 0.0,
            (_, Scale::Highest | Scale::Whole) => self.top * part,
            (_, Scale::Logarithmic) => self.top / LOG_SPAN * LOG_SPAN.powf(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zero_alone_is_level_zero_and_the_highest_rate_has_the_top() {
        for scale in [Scale::Highest, Scale::Logarithmic] {
            let ramp = Ramp::new(scale, 0.42);
            assert_eq!(ramp.top, 0.42);
            assert_eq!(ramp.level(0.0), 0);
            assert_eq!(ramp.level(1e-12), 1);
            assert_eq!(ramp.level(0.42), TOP_LEVEL);
        }
        assert_eq!(Ramp::new(Scale::Whole, 0.42).level(0.42), 4);
        for highest in [0.0, f64::NAN, 7.0] {
            assert_eq!(Ramp::new(Scale::Highest, highest).top, 1.0);
        }
    }

    /// Groups that share 30 to 65 % are told apart from one another, and from the 5 % between them.
    #[test]
    fn groups_have_levels_of_their_own() {
        let ramp = Ramp::new(Scale::Highest, 0.65);
        assert_eq!([0.05, 0.3, 0.45, 0.55, 0.65].map(|rate| ramp.level(rate)), [1, 5, 7, 8, 9]);
    }

    proptest! {
        #[test]
        fn levels_rank_rates(a in 0.0f64..1.0, b in 0.0f64..1.0, highest in 0.0f64..1.0, log: bool) {
            let ramp = Ramp::new(if log { Scale::Logarithmic } else { Scale::Highest }, highest);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(ramp.level(low) <= ramp.level(high));
            prop_assert!(ramp.level(high) <= TOP_LEVEL);
        }

        #[test]
        fn a_level_holds_rates_up_to_its_upper_end(rate in 0.001f64..1.0, log: bool) {
            let ramp = Ramp::new(if log { Scale::Logarithmic } else { Scale::Whole }, 1.0);
            let level = ramp.level(rate);
            prop_assert!(rate <= ramp.upper(level) * (1.0 + 1e-9));
            prop_assert!(rate >= ramp.upper(level - 1) * (1.0 - 1e-9) || level == 1);
        }
    }
}
