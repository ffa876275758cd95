//! How far an approximate score can be from the exact one.
//!
//! With x' and w' in place of x and w, |⟨x, w⟩ - ⟨x', w'⟩| ≤ |x||w - w'| + |x - x'||w'|
//! (Cauchy-Schwarz). The norms of w' and w - w' are one number a latent each, those of x and x - x'
//! one a row; the bound costs two multiplications a score. To it comes what f32 arithmetic itself
//! may round, of the exact score and of this one, so that the exact score, as
//! [`super::exact::score`] computes it, surely lies within the bound.

use crate::norms::{LARGEST, Norms, ROUNDING, SUMS, rounding};

/// What is known of the latents, padded to whole vectors: what a row's score exceeds the latent's
/// threshold by (the score itself where there are none) is between
/// `approximate + bias ± (|x| · per_norm + |x - x'| · per_error + slack)`.
#[derive(Debug, Default)]
pub(super) struct LatentBounds {
    /// The bias less the threshold, 0 where that is not finite.
    pub bias: Vec<f32>,
    /// Bound a unit of |x|.
    pub per_norm: Vec<f32>,
    /// Bound a unit of |x - x'|.
    pub per_error: Vec<f32>,
    /// Bound whatever the row; infinite where nothing is known.
    pub slack: Vec<f32>,
}

impl LatentBounds {
    /// Takes in one latent of width `d`: the norms of its weights, if they have any bound, its bias
    /// and its threshold.
    pub fn push(&mut self, norms: Option<Norms>, bias: f32, threshold: f32, d: usize) {
        let known = norms.filter(|_| bias.abs() <= LARGEST && threshold.abs() <= LARGEST);
        let n = known.unwrap_or_default();
        let round = rounding(d) * n.whole();
        self.per_norm.push((n.error + round) * SUMS);
        self.per_error.push((n.approximate + round) * SUMS);
        self.bias.push(if known.is_some() {
            bias - threshold
        } else {
            0.0
        });
        self.slack.push(match known {
            // Products of denormal numbers may vanish: each by less than the smallest normal one.
            Some(_) => (bias.abs() + threshold.abs()) * ROUNDING + d as f32 * f32::MIN_POSITIVE,
            None => f32::INFINITY,
        });
    }

    /// A place that is no latent, in vectors of integers: no bound of it compares with anything.
    #[cfg(target_arch = "x86_64")]
    pub fn push_padding(&mut self) {
        self.per_norm.push(0.0);
        self.per_error.push(0.0);
        self.bias.push(f32::NAN);
        self.slack.push(0.0);
    }

    /// Takes in the latents that come after these.
    #[cfg(target_arch = "x86_64")]
    pub fn append(&mut self, other: Self) {
        self.bias.extend(other.bias);
        self.per_norm.extend(other.per_norm);
        self.per_error.extend(other.per_error);
        self.slack.extend(other.slack);
    }
}
