//! KSM's figures over the rounds seen, with gaps where a round had none.

use std::collections::VecDeque;

use huddle_model::update::Round;

/// Most points kept: more than any screen is wide.
const KEPT: usize = 4096;

/// KSM at one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KsmPoint {
    pub(crate) at_unix_us: u64,
    pub(crate) pages_shared: u64,
    pub(crate) pages_sharing: u64,
    pub(crate) full_scans: u64,
}

/// One entry a round; `None` where KSM's figures were unavailable.
#[derive(Clone, Debug, Default)]
pub(crate) struct KsmHistory {
    points: VecDeque<Option<KsmPoint>>,
    /// Points pushed since the start, so that a paused picture knows where it ends.
    pushed: u64,
}

impl KsmHistory {
    pub(crate) fn push(&mut self, round: &Round) {
        if self.points.len() == KEPT {
            self.points.pop_front();
        }
        self.pushed += 1;
        self.points.push_back(round.ksm.value().map(|ksm| KsmPoint {
            at_unix_us: round.end_unix_us,
            pages_shared: ksm.pages_shared,
            pages_sharing: ksm.pages_sharing,
            full_scans: ksm.full_scans,
        }));
    }

    /// The current end of the history.
    pub(crate) fn end(&self) -> u64 {
        self.pushed
    }

    /// The last `count` points before `end`, oldest first.
    pub(crate) fn before(&self, end: u64, count: usize) -> impl Iterator<Item = Option<KsmPoint>> + '_ {
        let newer = usize::try_from(self.pushed.saturating_sub(end)).unwrap_or(usize::MAX);
        let len = self.points.len().saturating_sub(newer);
        self.points.range(len.saturating_sub(count)..len).copied()
    }
}
