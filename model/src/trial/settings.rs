//! Limits of trials and their required confidence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A trial of more blocks is no comparison of the same VMs any more.
const MAX_BLOCKS: u32 = 1000;

/// Limits of trials. The defaults suit windows of one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrialSettings {
    /// Minimum relative change of the objective for which a placement is kept (0.03: 3 % better).
    pub least_effect: f64,
    /// Number of blocks of one trial, 8 to 1000. It ends earlier where the result is clear.
    pub blocks: u32,
    /// Maximum number of blocks of a trial that is undecided after `blocks`: its median is at least `least_effect`, and
    /// the evidence is not there yet.
    pub max_blocks: u32,
    /// Probability that anything is kept by chance, over all trials of any 24 hours of this loop (0.05: 5 %). Each
    /// further trial within 24 hours needs more evidence.
    pub alpha_per_day: f64,
    /// Counted windows in each placement's part of a block.
    pub windows: u32,
    /// Uncounted windows after a switch, in which caches fill again.
    pub warm_up_windows: u32,
    /// Relative change for the worse at which a trial is aborted at once (0.3: 30 % worse).
    pub worse_limit: f64,
    /// Runnable tasks per CPU above which a trial is aborted, and none is started.
    pub load_limit: f64,
    /// Minimum share of all shared frames that a proposal must bring together within domains to be tried: the
    /// hysteresis that keeps noise in the matrix from moving VMs.
    pub least_gain: f64,
    /// Relative change of the matrix between two passes above which sharing counts as still changing.
    pub moving_limit: f64,
    /// How long a reverted proposal is not tried again, in seconds. It is doubled each time.
    pub cool_down_s: u64,
    /// How long there are no trials after a placement was kept, in seconds.
    pub hold_s: u64,
    /// Maximum number of vCPUs moved between domains in any hour, including trials.
    pub moves_per_hour: u32,
    /// How long a VM must have been there to be placed by trials, in seconds: VMs that come and go do not disturb
    /// them. VMs that are there when the loop starts, and those that `apart` names, do not wait.
    pub settle_s: f64,
    /// How long merged pages have to last to be worth a move, in seconds. The weight of a VM is the share of
    /// its merged pages that is expected to last that long.
    pub lasting_s: f64,
    /// Maximum time between two rounds while nothing changes, in seconds.
    pub longest_interval_s: u64,
    /// Seed of the random numbers for intervals and for the order of blocks.
    pub seed: u64,
}

impl Default for TrialSettings {
    fn default() -> Self {
        Self {
            least_effect: 0.03,
            blocks: 20,
            max_blocks: 40,
            alpha_per_day: 0.05,
            windows: 1,
            warm_up_windows: 1,
            worse_limit: 0.3,
            load_limit: 8.0,
            least_gain: 0.1,
            moving_limit: 0.1,
            cool_down_s: 600,
            hold_s: 30,
            moves_per_hour: 1000,
            settle_s: 10.0,
            lasting_s: 10.0,
            longest_interval_s: 30,
            seed: 1,
        }
    }
}

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}, expected {expected}")]
pub struct BadSetting {
    setting: &'static str,
    value: String,
    expected: &'static str,
}

impl TrialSettings {
    /// Checks all settings.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn check(&self) -> Result<(), BadSetting> {
        let part = |setting, value: f64| match value {
            value if (0.0..1.0).contains(&value) => Ok(()),
            _ => Err(BadSetting { setting, value: value.to_string(), expected: "0 or more and less than 1" }),
        };
        part("least_effect", self.least_effect)?;
        part("least_gain", self.least_gain)?;
        part("moving_limit", self.moving_limit)?;
        part("worse_limit", self.worse_limit)?;
        if !(8..=MAX_BLOCKS).contains(&self.blocks) {
            let value = self.blocks.to_string();
            return Err(BadSetting { setting: "blocks", value, expected: "8 to 1000" });
        }
        if !(self.blocks..=MAX_BLOCKS).contains(&self.max_blocks) {
            let value = self.max_blocks.to_string();
            return Err(BadSetting { setting: "max_blocks", value, expected: "`blocks` to 1000" });
        }
        if !(self.alpha_per_day > 0.0 && self.alpha_per_day < 1.0) {
            let value = self.alpha_per_day.to_string();
            return Err(BadSetting {
                setting: "alpha_per_day",
                value,
                expected: "more than 0 and less than 1",
            });
        }
        if self.windows == 0 {
            return Err(BadSetting { setting: "windows", value: "0".into(), expected: "1 or more" });
        }
        for (setting, value) in [("load_limit", self.load_limit), ("lasting_s", self.lasting_s)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(BadSetting { setting, value: value.to_string(), expected: "more than 0" });
            }
        }
        if !(self.settle_s.is_finite() && (0.0..=1e6).contains(&self.settle_s)) {
            let value = self.settle_s.to_string();
            return Err(BadSetting { setting: "settle_s", value, expected: "0 to 1000000" });
        }
        Ok(())
    }

    /// How long a VM must have been there to be placed by trials.
    pub fn settle(&self) -> Duration {
        Duration::from_secs_f64(self.settle_s)
    }

    pub(super) fn cool_down(&self, times: u32) -> Duration {
        // Doubled at most ten times: a week for the default of ten minutes.
        Duration::from_secs(self.cool_down_s.saturating_mul(1 << times.saturating_sub(1).min(10)))
    }

    pub(super) fn hold(&self) -> Duration {
        Duration::from_secs(self.hold_s)
    }
}
