//! Which features are drawn in a row: a Gaussian copula with low-rank factors, g = Fε + √δ ⊙ η with
//! δ = 1 − ΣF², where a feature is drawn if g > Φ⁻¹(1 − p) (Chanin, Garriga-Alonso 2026).

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::gaussian::{below, threshold};
use crate::synthetic::normal;

/// Least share δ of a feature's own noise; a row of F that leaves less is made smaller.
const LEAST_OWN: f64 = 0.01;

/// Factors and thresholds. Given ε, features are independent: one is drawn with the probability
/// Φ((F·ε − threshold) / √δ).
#[derive(Clone, Debug)]
pub(super) struct Copula {
    pub(super) rank: usize,
    /// `[n_features]`, divided by √δ.
    thresholds: Vec<f32>,
    /// F / √δ, for each block `[rank, features of the block]`.
    factors: Vec<f32>,
}

impl Copula {
    /// For features that are drawn with `probabilities`, in `blocks` that together are all of them.
    /// F is `scale` times normal numbers from `rng`.
    pub(super) fn new(
        probabilities: &[f64],
        blocks: &[Range<usize>],
        rank: usize,
        scale: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut copula = Self {
            rank,
            thresholds: Vec::with_capacity(probabilities.len()),
            factors: vec![0.0; probabilities.len() * rank],
        };
        for block in blocks {
            let factors = &mut copula.factors[block.start * rank..block.end * rank];
            for (at, p) in probabilities[block.clone()].iter().enumerate() {
                let mut row: Vec<f64> = (0..rank).map(|_| scale * normal(rng)).collect();
                let square: f64 = row.iter().map(|v| v * v).sum();
                if square > 1.0 - LEAST_OWN {
                    let shrink = ((1.0 - LEAST_OWN) / square).sqrt();
                    row.iter_mut().for_each(|v| *v *= shrink);
                }
                let own = (1.0 - square).max(LEAST_OWN).sqrt();
                copula.thresholds.push((threshold(*p) / own) as f32);
                for (k, v) in row.iter().enumerate() {
                    factors[k * block.len() + at] = (v / own) as f32;
                }
            }
        }
        copula
    }

    /// The z of each feature of a block, whose probability given `epsilon` is Φ(z).
    pub(super) fn scores(&self, block: Range<usize>, epsilon: &[f32], z: &mut Vec<f32>) {
        let factors = &self.factors[block.start * self.rank..block.end * self.rank];
        z.clear();
        z.extend(self.thresholds[block.clone()].iter().map(|t| -t));
        for (e, row) in epsilon.iter().zip(factors.chunks_exact(block.len())) {
            z.iter_mut().zip(row).for_each(|(z, f)| *z += e * f);
        }
    }

    /// Calls `hit` with each feature of a block that is drawn, ascending.
    ///
    /// Most features are drawn seldom. So each is first a candidate with the probability of the
    /// block's likeliest, which skips many at once, and then stays one with the rest of its own.
    pub(super) fn draw(
        &self,
        block: Range<usize>,
        epsilon: &[f32],
        z: &mut Vec<f32>,
        rng: &mut ChaCha8Rng,
        mut hit: impl FnMut(usize, &mut ChaCha8Rng),
    ) {
        self.scores(block.clone(), epsilon, z);
        let most = below(f64::from(z.iter().copied().fold(f32::MIN, f32::max)));
        let per_skip = 1.0 / (-most).ln_1p();
        let mut at = 0usize;
        loop {
            // Geometric: the number of features before the next candidate.
            let skip = (-rng.random::<f64>()).ln_1p() * per_skip;
            at = at.saturating_add(skip as usize);
            if at >= z.len() {
                return;
            }
            if rng.random::<f64>() * most < below(f64::from(z[at])) {
                hit(block.start + at, rng);
            }
            at += 1;
        }
    }

    /// A feature's row of F.
    #[cfg(test)]
    pub(super) fn factor(&self, block: &Range<usize>, feature: usize) -> Vec<f64> {
        let (rank, width) = (self.rank, block.len());
        let of = |k: usize| {
            f64::from(self.factors[block.start * rank + k * width + feature - block.start])
        };
        let square: f64 = (0..rank).map(|k| of(k) * of(k)).sum();
        (0..rank).map(|k| of(k) / (1.0 + square).sqrt()).collect()
    }
}
