//! All latents above their own thresholds: the same approximations and bounds as TopK's, with the threshold taken from the bias, so
//! that candidates are those whose upper bound is not below 0.

use rayon::prelude::*;

use super::candidates::Candidates;
use super::exact::score;
use super::{
    Encoder, LatentsOf, MOST_ROWS, Pair, Scored, empty_lists, rows_a_task, score_pairs, screen,
};
use crate::host::Level;

/// Of each row the latents whose score exceeds their threshold, best first. A threshold that is NaN is never exceeded.
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
    let mut active = vec![Vec::new(); n];
    if n == 0 {
        return active;
    }
    let about = LatentsOf {
        bias: b_enc,
        threshold: Some(threshold),
    };
    let mut lists = empty_lists(n, || Candidates::above_zero(b_enc.len()));
    screen(level, x, w_enc, &about, d, &mut lists);
    let encoder = Encoder {
        w_enc,
        b_enc,
        d,
        k: 0,
    };
    let rows = rows_a_task(n, MOST_ROWS);
    active
        .par_chunks_mut(rows)
        .zip(x.par_chunks(rows * d))
        .zip(lists.par_chunks_mut(rows))
        .for_each(|((active, x), lists)| {
            let mut pairs = Vec::new();
            for (row, list) in (0u32..).zip(&mut *lists) {
                pairs.extend(list.finish().iter().map(|c| Pair::new(c.latent, row)));
            }
            score_pairs(x, encoder, &mut pairs, active);
            for ((active, list), x) in active.iter_mut().zip(lists).zip(x.chunks_exact(d)) {
                if list.hopeless() {
                    *active = all_scores(x, encoder);
                }
                active.retain(|s| s.value() > threshold[s.latent() as usize]);
                active.sort_unstable_by(|a, b| b.cmp(a));
            }
        });
    active
}

/// The exact score of every latent.
pub(super) fn all_scores(x: &[f32], encoder: Encoder<'_>) -> Vec<Scored> {
    let weights = encoder.w_enc.chunks_exact(encoder.d);
    (0u32..)
        .zip(weights.zip(encoder.b_enc))
        .map(|(latent, (w, bias))| Scored::new(score(x, w, *bias), latent))
        .collect()
}
