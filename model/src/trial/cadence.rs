//! The interval of measurements: long while nothing changes, short when something does.

use std::time::Duration;

/// Smaller changes of the matrix count as no change.
const QUIET: f64 = 0.02;

/// Limits of the time between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CadenceLimits {
    /// Shortest time.
    pub min: Duration,
    /// Longest time.
    pub max: Duration,
}

/// The time between two rounds: halved after a pass in which sharing changed, half as long again after one
/// without change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    limits: CadenceLimits,
    interval: Duration,
}

impl Cadence {
    /// Starts with the shortest time.
    pub fn new(limits: CadenceLimits) -> Self {
        Self { limits, interval: limits.min }
    }

    /// Time from the start of the last round to that of the next.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Adds the change of the matrix in one pass; from `moving` on, sharing counts as changing.
    pub fn pass(&mut self, change: f64, moving: f64) {
        let wanted = if change >= moving {
            self.interval / 2
        } else if change < QUIET {
            self.interval + self.interval / 2
        } else {
            self.interval
        };
        self.interval = wanted.max(self.limits.min).min(self.limits.max.max(self.limits.min));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_passes_lengthen_the_interval_within_limits() {
        let limits = CadenceLimits { min: Duration::from_secs(1), max: Duration::from_secs(10) };
        let mut cadence = Cadence::new(limits);
        for _ in 0..20 {
            cadence.pass(0.0, 0.1);
        }
        assert_eq!(cadence.interval(), limits.max);
        cadence.pass(0.05, 0.1);
        assert_eq!(cadence.interval(), limits.max);
        cadence.pass(0.5, 0.1);
        assert_eq!(cadence.interval(), limits.max / 2);
        for _ in 0..20 {
            cadence.pass(0.5, 0.1);
        }
        assert_eq!(cadence.interval(), limits.min);
    }
}
