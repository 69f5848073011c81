//! The table `[sketch]`.

use std::path::PathBuf;
use std::time::Duration;

use huddle_model::fleet::Scale;
use huddle_sharing::content::Share;
use serde::Deserialize;

/// Sketches of what the VMs hold, by which they are compared with VMs of other hosts (`huddle sketch`, and recordings of
/// `run` and `top` if `every` is given).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SketchingSettings {
    /// File with the secret seed of the fleet, which only its owner may read. `huddle sketch --make-seed FILE` makes one.
    /// [default: none]
    pub(crate) seed: Option<PathBuf>,
    /// Keep about one content in so many, the same on all hosts of the fleet, from 2. [default: 1024]
    one_in: Option<OneIn>,
    /// How often a loop makes sketches for the recording that runs, such as `"1h"`, from 1 minute to 30 days. [default:
    /// never]
    pub(crate) every: Option<SketchTime>,
    /// Most processor time for that, as a share of one CPU. All memory of all VMs is read once. [default: 0.02]
    cpu_share: Option<Share>,
}

impl SketchingSettings {
    /// Which contents are kept.
    pub(crate) fn scale(&self) -> Scale {
        self.one_in.map_or(Scale::DEFAULT, |one_in| one_in.0)
    }

    /// Most processor time of a loop for sketches.
    pub(crate) fn cpu_share(&self) -> Share {
        self.cpu_share.unwrap_or(Share::FIFTIETH)
    }
}

/// A scale that leaves out half of all contents, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
struct OneIn(Scale);

impl TryFrom<u64> for OneIn {
    type Error = String;

    fn try_from(one_in: u64) -> Result<Self, String> {
        let scale = Scale::new(one_in).ok().filter(|_| (2..=1 << 32).contains(&one_in));
        scale.map(Self).ok_or_else(|| format!("{one_in} is no scale of sketches, expected 2 to 4294967296"))
    }
}

/// A time such as `1h`, from 1 minute to 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct SketchTime(pub(crate) Duration);

impl TryFrom<String> for SketchTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        const DAY_S: u64 = 86_400;
        let time = humantime::parse_duration(&text).ok();
        let time = time.filter(|time| (60..=30 * DAY_S).contains(&time.as_secs()));
        time.map(Self).ok_or_else(|| {
            format!(
                "{text:?} is no time between sketches; give one from 1 minute to 30 days, such as \"1h\" or \"90m\""
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_errors() {
        let read = |text: &str| toml::from_str::<SketchingSettings>(text);
        let settings = read("seed = \"/a\"\none_in = 256\nevery = \"90m\"\ncpu_share = 0.1").unwrap();
        assert_eq!((settings.scale().one_in(), settings.cpu_share().get()), (256, 0.1));
        assert_eq!(settings.every, Some(SketchTime(Duration::from_secs(5400))));
        let default = SketchingSettings::default();
        assert_eq!((default.scale(), default.cpu_share().get()), (Scale::DEFAULT, 0.02));
        for (text, why) in [
            ("every = \"59s\"", "from 1 minute to 30 days"),
            ("every = \"31d\"", "from 1 minute to 30 days"),
            ("one_in = 1", "expected 2 to 4294967296"),
            ("cpu_share = 0", "is not a share"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
