//! How large and how old segments and recordings may become.

use std::time::Duration;

use huddle_model::schema::Table;

use super::RecordError;

/// The least total size a recording can be limited to.
pub(super) const MIN_TOTAL_BYTES: u64 = 1 << 20;

/// When a segment is closed. A kill -9 loses the open segments, so these limits bound the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Closed when it has about this many encoded bytes.
    pub max_bytes: u64,
    /// Closed when it was opened this long ago.
    pub max_age: Duration,
}

/// How much of a recording is kept. Beyond that the oldest closed segments are removed, and the manifest counts
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingLimits {
    /// Bytes of all segments, the open ones included; `None` for no limit.
    pub max_total_bytes: Option<u64>,
    /// Time since a segment was closed; `None` for no limit.
    pub max_age: Option<Duration>,
}

/// All limits of a recorder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecorderLimits {
    /// When a segment is closed.
    pub segment: SegmentLimits,
    /// What is kept.
    pub recording: RecordingLimits,
    /// How many steps of the loop may wait for the writer.
    pub queue: QueueLimit,
    /// When writing is retried after a failure.
    pub retry: RetryLimits,
}

/// The delay before writing is retried: twice as long each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

/// How many steps of the loop (at least 1) may wait for the writer before further ones are counted as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit(pub usize);

impl Default for SegmentLimits {
    fn default() -> Self {
        Self { max_bytes: 8 << 20, max_age: Duration::from_secs(60) }
    }
}

impl Default for RecordingLimits {
    fn default() -> Self {
        Self { max_total_bytes: Some(4 << 30), max_age: None }
    }
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

impl Default for QueueLimit {
    fn default() -> Self {
        Self(64)
    }
}

impl RecorderLimits {
    /// The limits as they are applied: segments are small enough that one closed and one open segment of each table
    /// fit in the total.
    pub(super) fn checked(mut self) -> Result<Self, RecordError> {
        if let Some(total) = self.recording.max_total_bytes {
            if total < MIN_TOTAL_BYTES {
                return Err(RecordError::TotalTooSmall(total));
            }
            self.segment.max_bytes = self.segment.max_bytes.min(total / (2 * Table::ALL.len() as u64));
        }
        Ok(self)
    }
}
