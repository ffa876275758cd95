//! eˣ in f32, written so that loops of it become vector instructions.

/// eˣ within two units in the last place for x from −87 to 88, and that of the nearer end beyond.
/// NaN stays NaN.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; eʳ is its Taylor polynomial of degree 7, whose remainder is
/// below 6e-9; 2ⁿ is made of bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
    /// ln 2 in two parts: the first has few enough bits that its multiples are exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    #[allow(clippy::manual_clamp)] // clamp would not vectorize as plainly, and both keep NaN
    let x = if x < -87.0 {
        -87.0
    } else if x > 88.0 {
        88.0
    } else {
        x
    };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = (rounded.to_bits() << 23).wrapping_add(127 << 23);
    p * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            let error = (found - expected).abs() / expected;
            assert!(error < 2.4e-7, "exp({x}): {found}, expected {expected}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), exp(-87.0));
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
