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

/// Student's t with 2 degrees of freedom: a normal over the root of half a chi-squared with 2.
pub(super) fn student_t(rng: &mut Rng) -> f64 {
    // Half a chi-squared with 2 degrees of freedom is exponential with mean 1.
    normal(rng) / (-uniform(rng).ln()).sqrt().max(1e-9)
}
