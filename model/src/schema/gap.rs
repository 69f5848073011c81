//! Times in which nothing was recorded.

use serde::{Deserialize, Serialize};

use crate::text::{counted, utc_text};

/// Gaps that a manifest keeps one by one; of more than that, the last ones before the latest are told as one.
const MAX_GAPS: usize = 200;

/// A time in which a recording could not be written (a full disk, say), and went on later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingGap {
    /// From when on rows may be missing, in microseconds since the Unix epoch: the begin of the oldest segment that
    /// was given up, or the failure itself.
    pub begin_us: i64,
    /// When recording went on; `None` while it does not, and for ever when it never did.
    pub end_us: Option<i64>,
    /// What failed first, one sentence.
    pub reason: String,
    /// Steps of the loop that came meanwhile.
    pub steps_lost: u64,
    /// Windows of observation that were lost, those of the segments that were given up included.
    pub windows_lost: u64,
    /// Rows of all tables that were lost, likewise; they are among the `rows_lost` of their tables.
    pub rows_lost: u64,
    /// How many gaps this stands for, where there were more than a manifest keeps: its times are from the begin of
    /// the first to the end of the last.
    pub interruptions: u64,
}

impl RecordingGap {
    /// A gap that begins, and has lost nothing yet.
    pub fn begin(begin_us: i64, reason: String) -> Self {
        Self {
            begin_us,
            end_us: None,
            reason,
            steps_lost: 0,
            windows_lost: 0,
            rows_lost: 0,
            interruptions: 1,
        }
    }

    /// Puts it behind the `gaps` that came before it, which stay a list that a manifest can hold.
    pub fn follow(self, gaps: &mut Vec<Self>) {
        while gaps.len() >= MAX_GAPS
            && let Some(last) = gaps.pop()
            && let Some(before) = gaps.last_mut()
        {
            before.absorb(last);
        }
        gaps.push(self);
    }

    /// Takes another one in that comes after this.
    fn absorb(&mut self, later: Self) {
        self.begin_us = self.begin_us.min(later.begin_us);
        self.end_us = later.end_us;
        self.reason = later.reason;
        self.steps_lost += later.steps_lost;
        self.windows_lost += later.windows_lost;
        self.rows_lost += later.rows_lost;
        self.interruptions += later.interruptions;
    }

    /// What a reader has to know of it, one sentence.
    pub fn sentence(&self) -> String {
        let from = utc_text(self.begin_us);
        let time = match self.end_us {
            Some(end) => format!("from {from} to {}", utc_text(end)),
            None => format!("from {from} on"),
        };
        let often = match self.interruptions {
            0 | 1 => String::new(),
            times => format!(" ({times} interruptions)"),
        };
        format!(
            "the recording was interrupted {time}{often}: {} of the loop, {} and {} are missing: {}",
            counted(self.steps_lost, "step"),
            counted(self.windows_lost, "window"),
            counted(self.rows_lost, "row"),
            self.reason,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_says_what_is_missing_and_why() {
        let mut gap = RecordingGap {
            steps_lost: 3,
            windows_lost: 2,
            rows_lost: 40,
            ..RecordingGap::begin(1_700_000_000_000_000, "no space".into())
        };
        assert_eq!(
            gap.sentence(),
            "the recording was interrupted from 2023-11-14T22:13:20Z on: 3 steps of the loop, 2 windows and 40 rows \
             are missing: no space"
        );
        let later = RecordingGap {
            end_us: Some(1_700_000_060_000_000),
            rows_lost: 2,
            ..RecordingGap::begin(1_700_000_050_000_000, "gone".into())
        };
        gap.absorb(later);
        assert_eq!((gap.begin_us, gap.rows_lost, gap.interruptions), (1_700_000_000_000_000, 42, 2));
        let said = gap.sentence();
        assert!(said.contains("to 2023-11-14T22:14:20Z (2 interruptions): 3 steps"), "{said}");
        assert!(said.ends_with(": gone"), "{said}");
    }

    #[test]
    fn a_flapping_disk_makes_no_endless_list() {
        let mut gaps = Vec::new();
        let times = MAX_GAPS as i64 + 50;
        for at in 0..times {
            let gap = RecordingGap { rows_lost: 2, ..RecordingGap::begin(10 * at, at.to_string()) };
            RecordingGap { end_us: Some(10 * at + 5), ..gap }.follow(&mut gaps);
        }
        assert_eq!(gaps.len(), MAX_GAPS);
        assert_eq!(gaps.iter().map(|gap| gap.interruptions).sum::<u64>(), times as u64);
        assert_eq!(gaps.iter().map(|gap| gap.rows_lost).sum::<u64>(), 2 * times as u64);
        assert!(gaps.is_sorted_by_key(|gap| gap.begin_us) && gaps.is_sorted_by_key(|gap| gap.end_us));
        let latest = gaps.last().unwrap();
        assert_eq!((latest.interruptions, latest.begin_us), (1, 10 * (times - 1)));
    }
}
