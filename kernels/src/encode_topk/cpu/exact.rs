//! The score itself: one definition, whatever instructions ruled the others out.

use crate::host::dot;

/// A row's score for a latent, as f32 arithmetic gives it: the dot product, then the bias.
pub(super) fn score(x: &[f32], w: &[f32], bias: f32) -> f32 {
    dot(x, w) + bias
}

/// `|score - s| ≤ rounding(d) · |x||w| + ROUNDING · |bias|` for the real-valued `s`, and the same for a dot product summed in any
/// other order: (d + 8) roundings of relative size 2⁻²⁴, doubled.
pub(super) fn rounding(d: usize) -> f32 {
    (d + 8) as f32 * f32::EPSILON
}

/// See [`rounding`].
pub(super) const ROUNDING: f32 = 4.0 * f32::EPSILON;
