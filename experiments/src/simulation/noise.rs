//! What disturbs the workloads of a simulated host, whatever their placement: one factor for the whole host, since what
//! disturbs one VM disturbs its neighbours.

use huddle_model::rng::Rng;

use super::chance::{normal, student_t, uniform};

/// Noise of the operations per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noise {
    /// Each second is independent of the others, with this relative deviation.
    Independent {
        /// Standard deviation (0.05: 5 %).
        deviation: f64,
    },
    /// Each second depends on the one before: an autoregressive process of order 1.
    Autoregressive {
        /// Correlation of successive seconds, 0 to 1.
        correlation: f64,
        /// Standard deviation.
        deviation: f64,
    },
    /// Student's t with 2 degrees of freedom, whose variance is infinite.
    HeavyTailed {
        /// Its scale.
        deviation: f64,
    },
    /// A neighbour that takes a part of the host in every other half of its period, from a random phase on; and 1 % of
    /// independent noise.
    Periodic {
        /// Period in seconds.
        period_s: f64,
        /// The part it takes.
        depth: f64,
    },
}

/// Noise with its state.
#[derive(Clone, Debug)]
pub(super) struct NoiseSource {
    noise: Noise,
    rng: Rng,
    /// The last value of an autoregressive process, in deviations; `None` at the begin and after a gap.
    last: Option<f64>,
    phase: f64,
}

impl NoiseSource {
    pub(super) fn new(noise: Noise, mut rng: Rng) -> Self {
        Self { noise, phase: uniform(&mut rng), rng, last: None }
    }

    /// The factor of the window that begins at `second` and lasts `seconds`.
    pub(super) fn factor(&mut self, second: u64, seconds: u64) -> f64 {
        let factor = match self.noise {
            Noise::Independent { deviation } => 1.0 + deviation * normal(&mut self.rng),
            Noise::Autoregressive { correlation, deviation } => {
                let new = normal(&mut self.rng);
                let value = match self.last {
                    Some(last) => correlation * last + (1.0 - correlation * correlation).sqrt() * new,
                    None => new,
                };
                // A longer window only passes the time: nothing is measured in it.
                self.last = (seconds == 1).then_some(value);
                1.0 + deviation * value
            }
            Noise::HeavyTailed { deviation } => 1.0 + deviation * student_t(&mut self.rng),
            Noise::Periodic { period_s, depth } => {
                // The part of the window in which the neighbour works, in steps of a hundredth.
                let is_busy = |step: u64| {
                    let at = second as f64 + step as f64 / 100.0;
                    (at / period_s + self.phase).fract() < 0.5
                };
                let busy = (0..100).filter(|step| is_busy(*step)).count() as f64 / 100.0;
                1.0 - depth * busy + 0.01 * normal(&mut self.rng)
            }
        };
        factor.clamp(0.01, 100.0)
    }
}
