//! Limits of recordings: `[record]`.

use std::path::PathBuf;
use std::time::Duration;

use huddle_record::{KeepLimits, RecorderLimits};
use serde::Deserialize;

/// Limits of recordings. A recording that exceeds its total loses its oldest closed segments, and the manifest counts
/// them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecordSettings {
    /// Record each run of `huddle run` into a new directory in this one, which exists. The oldest are removed when
    /// another one begins, as long as all of them are larger than `total_max_mib`. `--record` wins. [default: none]
    pub(crate) directory: Option<PathBuf>,
    /// Close a segment at this size, in MiB. [default: 8]
    pub(crate) segment_max_mib: Option<u64>,
    /// Close a segment at this age, in seconds. A crash loses at most the open segments. [default: 60]
    pub(crate) segment_max_age_s: Option<u64>,
    /// Most size of all segments of a recording, in MiB. [default: 4096]
    pub(crate) total_max_mib: Option<u64>,
    /// Remove segments that were closed longer ago than this, in seconds. [default: no limit]
    pub(crate) max_age_s: Option<u64>,
    /// Keep the last minutes in memory, such as `"10m"`, from 1 second to 1 day. They are written as a recording of their own
    /// on SIGUSR1, by `K` in the terminal, and when a trial is aborted. [default: nothing is kept]
    pub(crate) keep: Option<KeepTime>,
    /// Most memory for them, in MiB, from 1 to 4096; beyond it the oldest fall out early, which is said when they are
    /// written. [default: 64]
    pub(crate) keep_max_mib: Option<u32>,
    /// Directory for these recordings, each in one of its own, which is named by its time. [default: beside the directory
    /// of `--record`]
    pub(crate) keep_dir: Option<PathBuf>,
    /// How many aborted trials have such a recording in one run. [default: 8]
    pub(crate) keep_aborted_trials: Option<u32>,
}

/// A time such as `10m`, from 1 second to 1 day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct KeepTime(Duration);

impl TryFrom<String> for KeepTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time = humantime::parse_duration(&text).ok();
        let time = time.filter(|time| (1..=86_400).contains(&time.as_secs()));
        time.map(Self).ok_or_else(|| {
            format!(
                "{text:?} is no time to keep; give one from 1 second to 1 day, such as \"10m\" or \"90s\""
            )
        })
    }
}

impl RecordSettings {
    /// The limits of each recording; `max_total_bytes` is that of all in `directory` together, too.
    pub(crate) fn limits(&self) -> RecorderLimits {
        let mut limits = RecorderLimits::default();
        if let Some(mib) = self.segment_max_mib {
            limits.segment.max_bytes = mib << 20;
        }
        if let Some(s) = self.segment_max_age_s {
            limits.segment.max_age = Duration::from_secs(s);
        }
        if let Some(mib) = self.total_max_mib {
            limits.recording.max_total_bytes = Some(mib << 20);
        }
        limits.recording.max_age = self.max_age_s.map(Duration::from_secs);
        limits
    }

    /// How much of the last minutes is kept; `None` if nothing is.
    pub(crate) fn keep_limits(&self) -> Option<KeepLimits> {
        let max_bytes = u64::from(self.keep_max_mib.unwrap_or(64)) << 20;
        self.keep.map(|time| KeepLimits { age: time.0, max_bytes })
    }

    pub(super) fn check_keep(&self) -> anyhow::Result<()> {
        if let Some(mib) = self.keep_max_mib {
            anyhow::ensure!((1..=4096).contains(&mib), "[record] keep_max_mib is {mib}, expected 1 to 4096");
        }
        Ok(())
    }
}
