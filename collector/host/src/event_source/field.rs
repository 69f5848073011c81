//! A field of an event, and where its bits belong
//! (Documentation/ABI/testing/sysfs-bus-event_source-devices-format, Linux 6.18).

use std::ops::RangeInclusive;

/// A word of `perf_event_attr` (include/uapi/linux/perf_event.h, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigWord {
    /// `config`.
    Config,
    /// `config1`.
    Config1,
    /// `config2`.
    Config2,
}

impl ConfigWord {
    /// Its name, as files of `format` have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Config1 => "config1",
            Self::Config2 => "config2",
        }
    }

    /// The word of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Config, Self::Config1, Self::Config2].into_iter().find(|word| word.name() == name)
    }
}

/// The bits of a field, from its lowest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFormat {
    /// The word that they are in.
    pub word: ConfigWord,
    bits: Vec<RangeInclusive<u32>>,
}

impl FieldFormat {
    /// Reads `config:0-7,32-35`: a word, and its bits or ranges of bits, each at most once.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, bits) = text.trim().split_once(':')?;
        let bits = bits.split(',').map(|range| {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let (low, high) = (low.parse::<u32>().ok()?, high.parse::<u32>().ok()?);
            (low <= high && high < u64::BITS).then_some(low..=high)
        });
        let format = Self { word: ConfigWord::of(word)?, bits: bits.collect::<Option<_>>()? };
        (format.mask().count_ones() == format.width()).then_some(format)
    }

    fn positions(&self) -> impl Iterator<Item = u32> {
        self.bits.iter().cloned().flatten()
    }

    fn width(&self) -> u32 {
        u32::try_from(self.positions().count()).unwrap_or(u32::MAX)
    }

    /// The largest value that fits.
    pub fn largest(&self) -> u64 {
        u64::MAX.checked_shr(u64::BITS.saturating_sub(self.width())).unwrap_or(0)
    }

    /// All of its bits in the word.
    pub fn mask(&self) -> u64 {
        self.positions().fold(0, |mask, bit| mask | 1 << bit)
    }

    /// A value at its place in the word; `None` if it does not fit.
    pub fn place(&self, value: u64) -> Option<u64> {
        let bits = || self.positions().enumerate().filter(|(from, _)| value >> from & 1 == 1);
        (value <= self.largest()).then(|| bits().fold(0, |word, (_, to)| word | 1 << to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(format: &str, value: u64) -> Option<u64> {
        FieldFormat::parse(format).unwrap().place(value)
    }

    #[test]
    fn bits_go_where_the_kernel_says() {
        // AMD's event, Intel's and ARM's.
        assert_eq!(place("config:0-7,32-35\n", 0x1c7), Some(0x1_0000_00c7));
        assert_eq!((place("config:0-7", 0x2e), place("config:8-15", 0x41)), (Some(0x2e), Some(0x4100)));
        assert_eq!((place("config:0-15", 0x108), place("config:0-7", 0x108)), (Some(0x108), None));
        assert_eq!((place("config1:0", 1), place("config1:0", 2)), (Some(1), None));
        assert_eq!(place("config2:0-63", u64::MAX), Some(u64::MAX));
        assert_eq!(FieldFormat::parse("config1:0-15").unwrap().word, ConfigWord::Config1);
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for text in
            ["", "config", "config:", "config3:0-7", "config:7-0", "config:0-64", "config:a", "config:0-3,3"]
        {
            assert_eq!(FieldFormat::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_value_keeps_its_bits_within_the_field(
            low in 0u32..30, width in 1u32..20, gap in 1u32..5, value in any::<u64>(),
        ) {
            let (middle, high) = (low + width / 2, low + width + gap);
            let format = FieldFormat::parse(&format!("config:{low}-{middle},{}-{high}", middle + gap)).unwrap();
            let value = value & format.largest();
            let placed = format.place(value).unwrap();
            prop_assert_eq!(placed.count_ones(), value.count_ones());
            prop_assert_eq!(placed & !format.mask(), 0);
            prop_assert_eq!(format.place(format.largest()), Some(format.mask()));
        }
    }
}
