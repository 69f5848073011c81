//! Which slots are free.

use std::collections::VecDeque;
use std::time::Instant;

/// Slots that were never used first, then those that have rested longest.
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

    /// A slot that nobody uses; slots that have to rest beyond `now` are not given out.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        if self.resting.front().is_some_and(|(until, _)| *until <= now) {
            return self.resting.pop_front().map(|(_, slot)| slot);
        }
        let slot = (self.unused < self.limit).then_some(self.unused)?;
        self.unused += 1;
        Some(slot)
    }

    /// Takes a slot back; it rests until `until`, which never goes down from call to call.
    pub(super) fn give_back(&mut self, slot: u32, until: Instant) {
        self.resting.push_back((until, slot));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn slots_rest_before_they_are_used_again_and_run_out() {
        let (mut table, now) = (SlotTable::new(2), Instant::now());
        let later = now + Duration::from_secs(1);
        assert_eq!((table.take(now), table.take(now), table.take(now)), (Some(0), Some(1), None));
        table.give_back(1, later);
        assert_eq!(table.take(now), None);
        assert_eq!(table.take(later), Some(1));
        assert_eq!(table.take(later), None);
    }
}
