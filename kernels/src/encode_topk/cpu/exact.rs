//! The score itself: one definition, whatever instructions ruled the others out.

use crate::host::dot;

/// A row's score for a latent, as f32 arithmetic gives it: the dot product, then the bias.
pub(super) fn score(x: &[f32], w: &[f32], bias: f32) -> f32 {
    dot(x, w) + bias
}
