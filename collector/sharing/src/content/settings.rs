//! What a content scan may use of the host, and how much of the memory it looks at.

use std::str::FromStr;

use serde::Deserialize;

/// A part of a whole: more than 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

/// A number that is no [`Share`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a share: expected a number above 0 and up to 1, as 0.25")]
pub struct NotAShare(String);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1.0);
    /// Half of it.
    pub const HALF: Self = Self(0.5);

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
    /// Most processor time, as a share of one CPU.
    pub cpu_share: Share,
    /// Most memory for what is remembered of the pages, in MiB. Where that is not enough for all pages, the
    /// guests are read several times.
    pub memory_mib: u32,
    /// Share of the pages that are drawn and looked at; all where `None`.
    pub sample: Option<Share>,
    /// What decides which pages are drawn.
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
