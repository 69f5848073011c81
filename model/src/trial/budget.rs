//! Budget of moves of vCPUs per hour.

use std::collections::VecDeque;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Moves in a sliding hour, on a monotonic clock.
#[derive(Clone, Debug)]
pub struct MoveBudget {
    per_hour: u32,
    spent: VecDeque<(Duration, u32)>,
}

impl MoveBudget {
    /// At most `per_hour` moves in any hour.
    pub fn new(per_hour: u32) -> Self {
        Self { per_hour, spent: VecDeque::new() }
    }

    /// Moves that may still be made at `now`.
    pub fn left(&mut self, now: Duration) -> u32 {
        while self.spent.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= HOUR) {
            self.spent.pop_front();
        }
        let spent: u32 = self.spent.iter().map(|(_, moves)| moves).sum();
        self.per_hour.saturating_sub(spent)
    }

    /// Records moves.
    pub fn spend(&mut self, now: Duration, moves: u32) {
        if moves > 0 {
            self.spent.push_back((now, moves));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hour_slides() {
        let at = Duration::from_secs;
        let mut budget = MoveBudget::new(10);
        budget.spend(at(0), 4);
        budget.spend(at(1800), 5);
        assert_eq!(budget.left(at(3599)), 1);
        assert_eq!(budget.left(at(3600)), 5);
        assert_eq!(budget.left(at(5400)), 10);
    }
}
