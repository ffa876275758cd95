//! Approximate scores by a dense f32 product, on any processor: right up to the order of summation, so that hardly more
//! candidates remain than are wanted.

use gemm::Parallelism;

use super::bounds::{LARGEST, LatentBounds, Norms, SMALLEST};
use super::candidates::{Candidate, Candidates};
use crate::host::widest_vectors;

/// Most rows and latents of a scratch tile: it stays in the second-level cache.
pub(super) const TILE_ROWS: usize = 256;
const TILE_LATENTS: usize = 512;

/// |v|, or None if there are numbers in it beyond any bound.
pub(super) fn norms(v: &[f32]) -> Option<Norms> {
    let largest = largest(v);
    if largest.is_nan() || largest > LARGEST {
        return None;
    }
    // Scaled, so that no square over- or underflows.
    let scale = largest.max(SMALLEST);
    Some(Norms::from_squares(scale, squares(v, 1.0 / scale), 0.0))
}

/// Offers `latents` to the candidates of each row of `x` `[rows, d]`.
pub(super) fn screen(
    x: &[f32],
    w_enc: &[f32], // [F, d]
    d: usize,
    latents: std::ops::Range<usize>,
    bounds: &LatentBounds,
    norms: &[Option<Norms>], // [rows]
    candidates: &mut [Candidates],
) {
    let rows = candidates.len();
    let tile = TILE_LATENTS.min(latents.len());
    let mut scores = vec![0.0f32; rows * tile];
    for first in latents.clone().step_by(tile.max(1)) {
        let width = tile.min(latents.end - first);
        let w = &w_enc[first * d..][..width * d];
        product(x, w, [rows, width, d], &mut scores[..rows * width]);
        for ((scores, candidates), norms) in
            scores.chunks_exact(width).zip(&mut *candidates).zip(norms)
        {
            let Some(norms) = norms.filter(|_| !candidates.hopeless()) else {
                continue;
            };
            let norm = norms.whole();
            let mut at = 0;
            while at < width {
                let end = width.min(at + BLOCK);
                let here = first + at..first + end;
                let block = Block {
                    scores: &scores[at..end],
                    bias: &bounds.bias[here.clone()],
                    per_norm: &bounds.per_norm[here.clone()],
                    slack: &bounds.slack[here],
                };
                let mut hits = not_below(&block, norm, candidates.floor());
                while hits != 0 {
                    let lane = hits.trailing_zeros() as usize;
                    let latent = first + at + lane;
                    let approximate = scores[at + lane] + bounds.bias[latent];
                    let half = bounds.half_width(latent, norm, 0.0);
                    candidates.offer(Candidate::around(latent as u32, approximate, half));
                    hits &= hits - 1;
                }
                at = end;
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
    pub(super) fn largest(v: &[f32]) -> f32 {
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

/// `out = x · wᵀ` for `x` `[rows, d]` and `w` `[width, d]`.
fn product(x: &[f32], w: &[f32], [rows, width, d]: [usize; 3], out: &mut [f32]) {
    assert!(x.len() == rows * d && w.len() == width * d && out.len() == rows * width);
    // SAFETY: as asserted, x, w and out hold [rows, d], [width, d] and [rows, width] row-major floats, which is what the
    // strides say; out is exclusively ours and is only written.
    unsafe {
        gemm::gemm(
            rows,
            width,
            d,
            out.as_mut_ptr(),
            1,
            width as isize,
            false,
            x.as_ptr(),
            1,
            d as isize,
            w.as_ptr(),
            d as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
