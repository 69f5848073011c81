//! Student's t distribution, for degrees of freedom that need not be whole.
//!
//! By the regularised incomplete beta function, from its continued fraction (Abramowitz and Stegun 26.7.1, 26.5.8;
//! evaluated as in Lentz 1976).

/// Probability of a value at least as far from 0 as `t`.
pub(super) fn two_sided_t(t: f64, degrees: f64) -> f64 {
    if !t.is_finite() {
        return 0.0;
    }
    beta_part(degrees / 2.0, 0.5, degrees / (degrees + t * t)).clamp(0.0, 1.0)
}

/// The value beyond which, or below whose negative, 5 of 100 values are.
pub(super) fn t_quantile_975(degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1000.0);
    // By bisection: the probability falls with the value.
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if two_sided_t(middle, degrees) > 0.05 { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The regularised incomplete beta function of `x` (0 to 1).
fn beta_part(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_part(b, a, 1.0 - x);
    }
    let ln_beta = libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
    let front = (a * x.ln() + b * (1.0 - x).ln() - ln_beta).exp() / a;
    let tiny = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < tiny { tiny } else { value };
    let (mut above, mut below) = (1.0, 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = below;
    for step in 1..=300 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        below = 1.0 / away_from_zero(1.0 + even * below);
        above = away_from_zero(1.0 + even / above);
        fraction *= above * below;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        below = 1.0 / away_from_zero(1.0 + odd * below);
        above = away_from_zero(1.0 + odd / above);
        fraction *= above * below;
        if (above * below - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SciPy 1.17: `stats.t.sf(t, df) * 2` and `stats.t.ppf(0.975, df)`.
    #[test]
    fn tails_and_quantiles_are_those_of_scipy() {
        for (t, degrees, expected) in T_TAILS {
            let found = two_sided_t(t, degrees);
            assert!((found - expected).abs() < 1e-12 + 1e-9 * expected, "{t} {degrees}: {found} {expected}");
            assert_eq!(two_sided_t(-t, degrees), found);
        }
        for (degrees, expected) in T_QUANTILES {
            let found = t_quantile_975(degrees);
            assert!((found - expected).abs() < 1e-9 * expected, "{degrees}: {found} {expected}");
        }
        assert_eq!(two_sided_t(f64::INFINITY, 3.0), 0.0);
    }

    const T_TAILS: [(f64, f64, f64); 8] = [
        (0.0, 4.0, 1.0),
        (0.5, 1.0, 0.7048327646991335),
        (1.3, 2.5, 0.3004867892707083),
        (2.0, 4.0, 0.11611652351681556),
        (2.776, 4.0, 0.05002277831997642),
        (3.1, 17.3, 0.00640217064994822),
        (1.96, 200.0, 0.051384840845813295),
        (9.0, 7.0, 4.265700921124329e-05),
    ];
    const T_QUANTILES: [(f64, f64); 6] = [
        (1.0, 12.706204736174694),
        (2.5, 3.5746548420036817),
        (4.0, 2.7764451051977934),
        (8.7, 2.274103985478323),
        (30.0, 2.0422724563012378),
        (391.5, 1.9660418833378606),
    ];
}
