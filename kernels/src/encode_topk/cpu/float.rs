//! Approximate scores by a dense f32 product, on any processor: right up to the order of summation,
//! so that hardly more latents are scored than are wanted.

use super::Encoder;
use super::bounds::LatentBounds;
use super::exact::score;
use super::row::Row;
use crate::forward_pass::product::{Matrix, product};
use crate::host::widest_vectors;
use crate::norms::{Norms, norms};
use rayon::prelude::*;

/// Most rows and latents of a scratch tile: it stays in the second-level cache.
pub(super) const TILE_ROWS: usize = 256;
const TILE_LATENTS: usize = 512;

/// All latents and what bounds their scores.
pub(super) struct Latents<'a> {
    encoder: Encoder<'a>,
    bounds: LatentBounds,
}

impl<'a> Latents<'a> {
    pub fn new(encoder: Encoder<'a>) -> Self {
        let d = encoder.d;
        let norms: Vec<Option<Norms>> = encoder.w_enc.par_chunks_exact(d).map(norms).collect();
        let mut bounds = LatentBounds::default();
        for (latent, norms) in norms.into_iter().enumerate() {
            let (bias, over) = encoder.latents.of(latent);
            bounds.push(norms, bias, over, d);
        }
        Self { encoder, bounds }
    }

    /// Offers those of `latents` that are worth it to the rows of `x` `[rows, d]`.
    pub fn screen<R: Row>(&self, x: &[f32], latents: std::ops::Range<usize>, rows: &mut [R]) {
        let Encoder { w_enc, d, .. } = self.encoder;
        let norms: Vec<Option<Norms>> = x.chunks_exact(d).map(norms).collect();
        for (row, _) in rows.iter_mut().zip(&norms).filter(|(_, n)| n.is_none()) {
            row.give_up();
        }
        let n = rows.len();
        let tile = TILE_LATENTS.min(latents.len());
        let mut scores = vec![0.0f32; n * tile];
        for first in latents.clone().step_by(tile.max(1)) {
            let width = tile.min(latents.end - first);
            let w = &w_enc[first * d..][..width * d];
            let rows_of = |data| Matrix {
                data,
                row: d,
                column: 1,
            };
            let scores = &mut scores[..n * width];
            product(
                rows_of(x),
                rows_of(w).transposed(),
                [n, d, width],
                scores,
                width,
            );
            for (((scores, row), norms), x) in scores
                .chunks_exact(width)
                .zip(&mut *rows)
                .zip(&norms)
                .zip(x.chunks_exact(d))
            {
                if let Some(norms) = norms {
                    self.offer(x, norms.whole(), first, scores, row);
                }
            }
        }
    }

    /// Offers the latents from `first` on, whose approximate scores less bias are `scores`, to one
    /// row.
    fn offer<R: Row>(&self, x: &[f32], norm: f32, first: usize, scores: &[f32], row: &mut R) {
        let Encoder { w_enc, latents, d } = self.encoder;
        for (block, scores) in scores.chunks(BLOCK).enumerate() {
            let first = first + block * BLOCK;
            let here = first..first + scores.len();
            let block = Block {
                scores,
                bias: &self.bounds.bias[here.clone()],
                per_norm: &self.bounds.per_norm[here.clone()],
                slack: &self.bounds.slack[here],
            };
            let mut hits = not_below(&block, norm, row.floor());
            while hits != 0 {
                let latent = first + hits.trailing_zeros() as usize;
                let exact = score(x, &w_enc[latent * d..][..d], latents.bias[latent]);
                row.take(exact, latent as u32);
                hits &= hits - 1;
            }
        }
    }
}

/// Scores that are looked at together: a bit each in a u32.
const BLOCK: usize = 32;

struct Block<'a> {
    scores: &'a [f32],
    bias: &'a [f32],
    per_norm: &'a [f32],
    slack: &'a [f32],
}

widest_vectors! {
    #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN
    /// Which scores' upper bounds are not below `floor`, a bit each.
    fn not_below(block: &Block<'_>, norm: f32, floor: f32) -> u32 {
        let mut hits = 0u32;
        let known = block.scores.iter().zip(block.bias).zip(block.per_norm).zip(block.slack);
        for (lane, (((score, bias), per_norm), slack)) in known.enumerate() {
            let upper = score + bias + (norm * per_norm + slack);
            // NaN where nothing is known: that could be anything.
            hits |= u32::from(!(upper < floor)) << lane;
        }
        hits
    }
}
