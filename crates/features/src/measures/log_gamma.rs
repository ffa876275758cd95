//! Logarithms of the gamma function and of binomial coefficients, also for real arguments.

/// ln Γ(x) for x > 0, to about 1e-15 of its size.
pub(super) fn ln_gamma(x: f64) -> f64 {
    // The series is exact enough from 16 on: Γ(x) = Γ(x + m) / (x (x + 1) … (x + m − 1)).
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < 16.0 {
        product *= shifted;
        shifted += 1.0;
    }
    // Stirling's series with the Bernoulli numbers B2 to B12.
    let inverse = 1.0 / (shifted * shifted);
    let series = [
        691.0 / -360_360.0,
        1.0 / 1188.0,
        -1.0 / 1680.0,
        1.0 / 1260.0,
        -1.0 / 360.0,
        1.0 / 12.0,
    ]
    .into_iter()
    .fold(0.0, |sum, term| sum * inverse + term)
        / shifted;
    let half_ln_two_pi = 0.918_938_533_204_672_8;
    (shifted - 0.5) * shifted.ln() - shifted + half_ln_two_pi + series - product.ln()
}

/// ln C(n, r) for a real n; minus infinity where r > n (for a real n: where r ≥ n + 1).
pub(super) fn ln_choose(n: f64, r: u64) -> f64 {
    let r = r as f64;
    if n - r <= -1.0 || n < 0.0 {
        return f64::NEG_INFINITY;
    }
    if r == 0.0 {
        return 0.0;
    }
    ln_gamma(n + 1.0) - ln_gamma(r + 1.0) - ln_gamma(n - r + 1.0)
}

/// ln Σ exp(term); minus infinity for no term.
pub(super) fn ln_sum(terms: &[f64]) -> f64 {
    let max = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + terms
        .iter()
        .map(|term| (term - max).exp())
        .sum::<f64>()
        .ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_matches_factorials_and_the_square_root_of_pi() {
        let mut factorial = 1.0f64;
        for n in 1..30 {
            assert!(
                (ln_gamma(f64::from(n)) - factorial.ln()).abs() < 1e-14 * (1.0 + factorial.ln())
            );
            factorial *= f64::from(n);
        }
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-15);
    }

    #[test]
    fn binomial_coefficients_match_products() {
        // C(600, 40) as a product, C(60, 30) as an integer.
        let product: f64 = (0..40)
            .map(|i| f64::from(600 - i).ln() - f64::from(i + 1).ln())
            .sum();
        assert!((ln_choose(600.0, 40) - product).abs() < 1e-11);
        assert!((ln_choose(60.0, 30).exp() / 118_264_581_564_861_424.0 - 1.0).abs() < 1e-12);
        // C(4.5, 2) = 4.5 · 3.5 / 2
        assert!((ln_choose(4.5, 2).exp() - 7.875).abs() < 1e-12);
        assert_eq!(ln_choose(3.0, 4), f64::NEG_INFINITY);
        assert_eq!(ln_choose(2.5, 5), f64::NEG_INFINITY);
        assert_eq!(ln_choose(0.0, 0), 0.0);
    }
}
