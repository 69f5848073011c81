//! How often to measure: seldom while nothing changes, soon again when it does.

use std::time::Duration;

/// Below this change of the matrix a pass brought nothing new.
const QUIET: f64 = 0.02;

/// Bounds of the time between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CadenceLimits {
    /// Shortest time.
    pub least: Duration,
    /// Longest time.
    pub most: Duration,
}

/// The time between two rounds: half as long after a pass in which sharing moved, half as long again after
/// one that brought nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    limits: CadenceLimits,
    interval: Duration,
}

impl Cadence {
    /// Begins with the shortest time.
    pub fn new(limits: CadenceLimits) -> Self {
        Self { limits, interval: limits.least }
    }

    /// Time from the begin of the last round to that of the next.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Takes the change of the matrix in one pass, of which `moving` and more is sharing that moves.
    pub fn pass(&mut self, change: f64, moving: f64) {
        let wanted = if change >= moving {
            self.interval / 2
        } else if change < QUIET {
            self.interval + self.interval / 2
        } else {
            self.interval
        };
        self.interval = wanted.max(self.limits.least).min(self.limits.most.max(self.limits.least));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_passes_are_looked_at_less_often_within_limits() {
        let limits = CadenceLimits { least: Duration::from_secs(1), most: Duration::from_secs(10) };
        let mut cadence = Cadence::new(limits);
        for _ in 0..20 {
            cadence.pass(0.0, 0.1);
        }
        assert_eq!(cadence.interval(), limits.most);
        cadence.pass(0.05, 0.1);
        assert_eq!(cadence.interval(), limits.most);
        cadence.pass(0.5, 0.1);
        assert_eq!(cadence.interval(), limits.most / 2);
        for _ in 0..20 {
            cadence.pass(0.5, 0.1);
        }
        assert_eq!(cadence.interval(), limits.least);
    }
}
