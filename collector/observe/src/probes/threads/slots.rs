//! Allocation of slots.

use std::collections::VecDeque;
use std::time::Instant;

/// Never used slots first, then those unused for longest.
#[derive(Debug)]
pub(super) struct SlotTable {
    limit: u32,
    unused: u32,
    resting: VecDeque<(Instant, u32)>,
}

impl SlotTable {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, unused: 0, resting: VecDeque::new() }
    }

    /// A free slot; slots that must stay unused beyond `now` are not returned.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        if self.resting.front().is_some_and(|(until, _)| *until <= now) {
            return self.resting.pop_front().map(|(_, slot)| slot);
        }
        let slot = (self.unused < self.limit).then_some(self.unused)?;
        self.unused += 1;
        Some(slot)
    }

    /// Frees a slot, which stays unused until `until`; `until` must not decrease from call to call.
    pub(super) fn give_back(&mut self, slot: u32, until: Instant) {
        self.resting.push_back((until, slot));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn freed_slots_wait_before_reuse_and_slots_run_out() {
        let (mut table, now) = (SlotTable::new(2), Instant::now());
        let later = now + Duration::from_secs(1);
        assert_eq!((table.take(now), table.take(now), table.take(now)), (Some(0), Some(1), None));
        table.give_back(1, later);
        assert_eq!(table.take(now), None);
        assert_eq!(table.take(later), Some(1));
        assert_eq!(table.take(later), None);
    }
}
