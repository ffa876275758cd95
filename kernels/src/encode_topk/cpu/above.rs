//! All latents above their own thresholds: the same approximations and bounds as TopK's, with the
//! threshold taken from the bias, so that a latent is scored where its upper bound is not below 0.

use rayon::prelude::*;

use super::row::Above;
use super::{Encoder, LatentsOf, Scored, screen};
use crate::host::Level;

/// Of each row the latents whose score exceeds their threshold, best first. A threshold that is NaN
/// is never exceeded.
pub(crate) fn above_thresholds(
    x: &[f32],         // [n, d]
    w_enc: &[f32],     // [F, d]
    b_enc: &[f32],     // [F]
    threshold: &[f32], // [F]
    d: usize,
) -> Vec<Vec<Scored>> {
    above_at(Level::here(), x, w_enc, b_enc, threshold, d)
}

pub(super) fn above_at(
    level: Level,
    x: &[f32],
    w_enc: &[f32],
    b_enc: &[f32],
    threshold: &[f32],
    d: usize,
) -> Vec<Vec<Scored>> {
    let n = x.len().checked_div(d).unwrap_or(0);
    let encoder = Encoder {
        w_enc,
        latents: LatentsOf {
            bias: b_enc,
            threshold: Some(threshold),
        },
        d,
    };
    let mut rows = Vec::new();
    rows.resize_with(n, || Above::new(threshold));
    screen(level, x, encoder, &mut rows);
    rows.into_par_iter()
        .zip(x.par_chunks_exact(d.max(1)))
        .map(|(row, x)| row.finish(x, encoder))
        .collect()
}
