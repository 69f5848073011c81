//! Error control per host and day: the probability that anything is kept by chance, over all trials of any 24 hours.
//!
//! Each trial may err with a part of `alpha_per_day`: the k-th of the last 24 hours, itself included, with
//! `alpha / (k (k + 1))`. The parts of all trials together, however many, are at most `alpha` (Bonferroni's
//! inequality with unequal parts; such sequences are called alpha spending in Foster and Stine, "Alpha-investing",
//! J. R. Statist. Soc. B 70, 2008). Within a trial, evidence of `1 / part` keeps its error at that part
//! ([`crate::stats::evidence_above`]).
//!
//! A trial that ended before its first block did has seen nothing and costs nothing.

use std::collections::VecDeque;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The trials of the last 24 hours, on a monotonic clock.
#[derive(Clone, Debug)]
pub struct ErrorBudget {
    alpha_per_day: f64,
    /// When trials began.
    begins: VecDeque<Duration>,
}

impl ErrorBudget {
    /// Something is kept by chance on at most a part `alpha_per_day` of all days without any effect.
    pub fn new(alpha_per_day: f64) -> Self {
        Self { alpha_per_day, begins: VecDeque::new() }
    }

    /// Counts a trial, and returns the evidence that it needs.
    pub fn begin(&mut self, now: Duration) -> f64 {
        while self.begins.front().is_some_and(|began| now.saturating_sub(*began) >= DAY) {
            self.begins.pop_front();
        }
        self.begins.push_back(now);
        let k = self.begins.len() as f64;
        k * (k + 1.0) / self.alpha_per_day
    }

    /// The trial that began last has seen nothing.
    pub fn give_back(&mut self) {
        self.begins.pop_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_trials_of_any_day_share_the_budget() {
        let mut budget = ErrorBudget::new(0.05);
        // Trials in three days, more and more of them.
        let times: Vec<Duration> =
            (0..3000_u64).map(|i| Duration::from_secs(3 * 86400 * i * i / 9_000_000)).collect();
        let parts: Vec<f64> = times.iter().map(|now| 1.0 / budget.begin(*now)).collect();
        assert!((parts[0] - 0.025).abs() < 1e-12);
        for (first, began) in times.iter().enumerate() {
            let of_day = times[first..].iter().zip(&parts[first..]).take_while(|(at, _)| **at - *began < DAY);
            let total: f64 = of_day.map(|(_, part)| part).sum();
            assert!(total <= 0.05 + 1e-12, "{total} from {began:?}");
        }
    }

    #[test]
    fn a_day_later_all_is_there_again_and_what_saw_nothing_costs_nothing() {
        let mut budget = ErrorBudget::new(0.05);
        let first = budget.begin(Duration::ZERO);
        assert!(budget.begin(DAY / 2) > first);
        budget.give_back();
        assert!((budget.begin(DAY) - first).abs() < 1e-9);
    }
}
