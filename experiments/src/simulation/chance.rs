//! Noise from the project's random generator.

use huddle_model::rng::Rng;

/// Uniform over 0 (excluded) to 1.
pub(super) fn uniform(rng: &mut Rng) -> f64 {
    ((rng.next_u64() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}

/// Normal with mean 0 and deviation 1 (Box and Muller 1958).
pub(super) fn normal(rng: &mut Rng) -> f64 {
    let (radius, angle) = (uniform(rng), uniform(rng));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}
