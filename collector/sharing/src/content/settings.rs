//! Limits of a content scan, and how much of it is a sample.

use std::str::FromStr;

use serde::Deserialize;

/// A fraction: more than 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

/// A number that is not a [`Share`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a share: expected a number above 0 and up to 1, as 0.25")]
pub struct NotAShare(String);

impl Share {
    /// The whole.
    pub const ALL: Self = Self(1.0);
    /// One half.
    pub const HALF: Self = Self(0.5);
    /// One fiftieth.
    pub const FIFTIETH: Self = Self(0.02);
    /// One twentieth.
    pub const TWENTIETH: Self = Self(0.05);

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = NotAShare;

    fn try_from(share: f64) -> Result<Self, NotAShare> {
        if share > 0.0 && share <= 1.0 { Ok(Self(share)) } else { Err(NotAShare(share.to_string())) }
    }
}

impl FromStr for Share {
    type Err = NotAShare;

    fn from_str(text: &str) -> Result<Self, NotAShare> {
        let share = text.trim().parse::<f64>().map_err(|_| NotAShare(text.to_owned()))?;
        Self::try_from(share).map_err(|_| NotAShare(text.to_owned()))
    }
}

/// Limits of a content scan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentSettings {
    /// Limit of CPU time, as a share of one CPU.
    pub cpu_share: Share,
    /// Limit of memory for records of pages, in MiB. If that is not enough for all pages, the guests are read
    /// several times.
    pub memory_mib: u32,
    /// Share of the contents that are recorded and compared, drawn by their hashes; `None` for all. All pages are read
    /// anyway.
    pub sample: Option<Share>,
    /// Seed of the sample.
    pub seed: u64,
}

impl Default for ContentSettings {
    fn default() -> Self {
        Self { cpu_share: Share::HALF, memory_mib: 256, sample: None, seed: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_above_0_and_up_to_1() {
        assert_eq!(" 0.25".parse(), Ok(Share(0.25)));
        assert_eq!("1".parse(), Ok(Share::ALL));
        for text in ["0", "-0.5", "1.01", "nan", "inf", "", "half", "5%"] {
            let error = text.parse::<Share>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("up to 1"), "{error}");
        }
    }
}
