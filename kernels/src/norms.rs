//! Norms of vectors and of what an approximation of them misses, as bounds need them: at least as
//! large as they are.

use crate::host::widest_vectors;

/// Numbers up to this keep all products here finite; a row or latent with larger ones (or NaN) gets
/// no approximation.
pub(crate) const LARGEST: f32 = 1e15;

/// Below this a row counts as 0 in its approximation: its reciprocal might overflow.
pub(crate) const SMALLEST: f32 = 1e-30;

/// Sums of squares are taken in f32 lanes; this covers their rounding for up to 2¹⁷ numbers.
pub(crate) const SUMS: f32 = 1.002;

/// Norms of one row and its approximation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Norms {
    /// At least |v'|.
    pub approximate: f32,
    /// At least |v - v'|.
    pub error: f32,
}

impl Norms {
    /// From sums of squares, taken in f32 in units of `scale`.
    pub fn from_squares(scale: f32, approximate: f32, error: f32) -> Self {
        Self {
            approximate: scale * approximate.sqrt() * SUMS,
            error: scale * error.sqrt() * SUMS,
        }
    }

    /// At least |v|.
    pub fn whole(self) -> f32 {
        self.approximate + self.error
    }
}

/// `|score - s| ≤ rounding(d) · |x||w| + ROUNDING · |bias|` for the real-valued `s`, and the same
/// for a dot product summed in any other order: (d + 8) roundings of relative size 2⁻²⁴, doubled.
pub(crate) fn rounding(d: usize) -> f32 {
    (d + 8) as f32 * f32::EPSILON
}

/// See [`rounding`].
pub(crate) const ROUNDING: f32 = 4.0 * f32::EPSILON;

/// |v|, or None if there are numbers in it beyond any bound.
pub(crate) fn norms(v: &[f32]) -> Option<Norms> {
    let largest = largest(v);
    if largest.is_nan() || largest > LARGEST {
        return None;
    }
    // Scaled, so that no square over- or underflows.
    let scale = largest.max(SMALLEST);
    let mut norms = Norms::from_squares(scale, squares(v, 1.0 / scale), 0.0);
    norms.approximate += f32::MIN_POSITIVE; // a subnormal norm may have been rounded down
    Some(norms)
}

/// Lanes of a sum of squares.
const LANES: usize = 32;

widest_vectors! {
    fn squares(v: &[f32], factor: f32) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (blocks, rest) = v.as_chunks::<LANES>();
        for block in blocks {
            for (sum, v) in sums.iter_mut().zip(block) {
                let v = v * factor;
                *sum += v * v;
            }
        }
        sums.iter().sum::<f32>() + rest.iter().map(|v| (v * factor) * (v * factor)).sum::<f32>()
    }
}

widest_vectors! {
    /// The largest magnitude, NaN if there is one.
    pub(crate) fn largest(v: &[f32]) -> f32 {
        let mut largest = [0u32; LANES];
        let (blocks, rest) = v.as_chunks::<LANES>();
        // Magnitudes order as their bits do, and NaN comes above infinity.
        for block in blocks {
            for (largest, v) in largest.iter_mut().zip(block) {
                *largest = (*largest).max(v.abs().to_bits());
            }
        }
        let rest = rest.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0);
        f32::from_bits(largest.into_iter().max().unwrap_or(0).max(rest))
    }
}
