//! The standard normal distribution function and its inverse.

/// P(g < z) for a standard normal g, to a relative error of 1.2e-7 (Press et al. 1992, §6.2).
pub(super) fn below(z: f64) -> f64 {
    const SERIES: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let sum = SERIES.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let tail = 0.5 * t * (sum - x * x).exp();
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// The t with P(g > t) = `p`, by bisection; −40 for p = 1.
pub(super) fn threshold(p: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if below(-middle) < p {
            high = middle;
        } else {
            low = middle;
        }
    }
    if p < 1.0 { low } else { -40.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_function_has_its_tabulated_values() {
        for (z, p) in [
            (0.0, 0.5),
            (-1.0, 0.158_655_253_931_457_05),
            (1.0, 0.841_344_746_068_542_9),
            (-1.959_963_984_540_054, 0.025),
            (-3.290_526_731_491_926_5, 5e-4),
            (-5.997_807_015_007_687, 1e-9),
        ] {
            assert!((below(z) / p - 1.0).abs() < 2e-7, "{z}: {}", below(z));
            assert!((threshold(p) + z).abs() < 1e-6, "{p}: {}", threshold(p));
        }
        assert_eq!(below(-threshold(1.0)), 1.0);
    }
}
