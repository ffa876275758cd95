//! The score itself: one definition, whatever instructions found the candidates.

use crate::host::widest_vectors;

/// Lanes in which a dot product is summed; the order of summation is fixed, so every processor gives the same bits.
const LANES: usize = 64;

widest_vectors! {
    /// `⟨x, w⟩`: 64 interleaved sums, each multiplication and addition rounded, then the sums in pairs, then the rest.
    fn dot(x: &[f32], w: &[f32]) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (x_blocks, x_rest) = x.as_chunks::<LANES>();
        let (w_blocks, w_rest) = w.as_chunks::<LANES>();
        for (x, w) in x_blocks.iter().zip(w_blocks) {
            for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                *sum += x * w;
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                sums[lane] += sums[lane + half];
            }
            half /= 2;
        }
        let rest: f32 = x_rest.iter().zip(w_rest).map(|(x, w)| x * w).sum();
        sums[0] + rest
    }
}

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
