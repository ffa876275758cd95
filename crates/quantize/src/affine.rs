//! One scale with its zero point: numbers to integers and back.

use crate::scheme::{Scheme, Symmetry};

/// A scale with its zero point and the range of its integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    /// A whole number from `low` to `high`.
    pub(crate) zero: f32,
    /// 1 / `scale`, not finite if that is 2⁻¹²⁸ or less; 0 where that is 0.
    inverse: f32,
    low: f32,
    high: f32,
}

impl Affine {
    /// The map with a known scale and zero point.
    pub(crate) fn new(scale: f32, zero: i8, scheme: Scheme) -> Self {
        let (low, high) = scheme.limits();
        Self {
            scale,
            zero: f32::from(zero),
            inverse: if scale > 0.0 { scale.recip() } else { 0.0 },
            low: f32::from(low),
            high: f32::from(high),
        }
    }

    /// That of the numbers from `least` to `largest`, which are finite.
    pub(crate) fn of_range(least: f32, largest: f32, scheme: Scheme) -> Self {
        let (low, high) = scheme.limits();
        match scheme.symmetry {
            Symmetry::Symmetric => {
                Self::new(least.abs().max(largest.abs()) / f32::from(high), 0, scheme)
            }
            Symmetry::Asymmetric => {
                // In f64: the difference of two f32 may be infinite.
                let (alpha, beta) = (f64::from(least.min(0.0)), f64::from(largest.max(0.0)));
                let steps = f64::from(high) - f64::from(low);
                let scale = ((beta - alpha) / steps) as f32;
                let zero = match scale > 0.0 {
                    true => (f64::from(low) - alpha / f64::from(scale)).round_ties_even(),
                    false => 0.0,
                };
                // The cast saturates, where a scale that is nearly 0 was rounded.
                Self::new(scale, (zero as i8).clamp(low, high), scheme)
            }
        }
    }

    /// The integer of a number.
    #[inline]
    pub(crate) fn code(self, x: f32) -> i8 {
        let quotient = match self.inverse.is_finite() {
            true => x * self.inverse,
            false => x / self.scale,
        };
        (quotient.round_ties_even() + self.zero).clamp(self.low, self.high) as i8
    }

    /// The number of an integer.
    #[inline]
    pub(crate) fn value(self, code: i8) -> f32 {
        (f32::from(code) - self.zero) * self.scale
    }

    /// Whether every integer has a finite number.
    pub(crate) fn is_finite(self) -> bool {
        let ends = [self.low, self.high].map(|end| (end - self.zero) * self.scale);
        ends.iter().all(|end| end.is_finite())
    }
}
