//! TopK on the CPU: each task multiplies a block of rows with a few hundred latents at a time into a scratch tile that stays
//! in cache, and keeps every row's best so far; the threshold they set lets nearly all later scores pass unexamined.

use burn::backend::Flex;
use burn_flex::FlexTensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::EncodeTopK;
use crate::host::{contiguous, dims2, float_tensor, floats, int_tensor, widest_vectors};

/// Most rows and latents of a scratch tile. How a row's tile is cut depends on the input's shape alone, never on the
/// number of threads, so a score is always the same bits.
const TILE_ROWS: usize = 512;
const TILE_LATENTS: usize = 512;

impl EncodeTopK for Flex {
    fn topk(
        x: FlexTensor,
        w_enc: FlexTensor,
        b_enc: FlexTensor,
        k: usize,
    ) -> (FlexTensor, FlexTensor) {
        let ([n, _], [_, d]) = (dims2(&x), dims2(&w_enc));
        let (x, w_enc, b_enc) = (contiguous(x), contiguous(w_enc), contiguous(b_enc));
        let ranked = topk_of_rows(floats(&x), floats(&w_enc), floats(&b_enc), d, k);
        let values = ranked.par_iter().map(|scored| scored.value()).collect();
        let indices = ranked.par_iter().map(|scored| scored.latent()).collect();
        (float_tensor(values, [n, k]), int_tensor(indices, [n, k]))
    }
}

/// A latent and its score in one number whose order is the order of codes: the greater number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scored(u64);

impl Scored {
    /// Below every latent and score.
    const NONE: Self = Self(0);

    fn new(value: f32, latent: usize) -> Self {
        let value = if value.is_nan() {
            f32::NEG_INFINITY
        } else {
            // −0 becomes 0: the two are equal, so their order is their indices'.
            value + 0.0
        };
        let bits = value.to_bits();
        let sign = bits >> 31;
        // Positive floats get the top bit, negative ones are reversed.
        let ordered = bits ^ if sign == 1 { u32::MAX } else { 1 << 31 };
        Self((u64::from(ordered) << 32) | u64::from(u32::MAX - latent as u32))
    }

    pub(crate) fn value(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        let positive = ordered >> 31;
        f32::from_bits(ordered ^ if positive == 1 { 1 << 31 } else { u32::MAX })
    }

    pub(crate) fn latent(self) -> i32 {
        (u32::MAX - self.0 as u32) as i32
    }
}

/// The `k ≤ F` best latents of each row, best first, row after row.
pub(crate) fn topk_of_rows(
    x: &[f32],     // [n, d]
    w_enc: &[f32], // [F, d]
    b_enc: &[f32], // [F]
    d: usize,
    k: usize,
) -> Vec<Scored> {
    let latents = b_enc.len();
    let n = if d == 0 { 0 } else { x.len() / d };
    if n == 0 {
        return Vec::new();
    }
    let block = even_share(n, TILE_ROWS);
    let blocks = n.div_ceil(block);
    let tile = even_share(latents, TILE_LATENTS);
    let tiles = latents.div_ceil(tile);
    // Few rows leave threads idle, so the latents are split too; the best of the parts are the best of all, however many
    // parts there are.
    let parts = (4 * rayon::current_num_threads())
        .div_ceil(blocks)
        .clamp(1, tiles);
    let part = tiles.div_ceil(parts) * tile;
    let parts = latents.div_ceil(part);

    let mut best = vec![Scored::NONE; n * parts * k]; // block after block, each [parts, rows, k]
    best.par_chunks_mut(block * parts * k)
        .enumerate()
        .flat_map(|(block_number, best)| {
            let rows = best.len() / (parts * k);
            best.par_chunks_exact_mut(rows * k)
                .enumerate()
                .map(move |(part_number, best)| (block_number, part_number, best))
        })
        .for_each(|(block_number, part_number, best)| {
            let rows = best.len() / k;
            let x = &x[block_number * block * d..][..rows * d];
            let first = part_number * part;
            let latents = first..latents.min(first + part);
            best_of_part(x, w_enc, b_enc, latents, tile, d, k, best);
        });
    if parts > 1 {
        best = merge_parts(&best, block, parts, k);
    }
    best
}

/// The largest size of at most `most` that cuts `whole` into equal pieces, rounded up to whole vectors.
fn even_share(whole: usize, most: usize) -> usize {
    whole.div_ceil(whole.div_ceil(most)).next_multiple_of(16)
}

/// For each row of `x`, the best `k` of `latents`, best first; fewer than `k` latents leave [`Scored::NONE`] at the end.
#[allow(clippy::too_many_arguments)] // one call site, and every argument is another thing
fn best_of_part(
    x: &[f32],
    w_enc: &[f32],
    b_enc: &[f32],
    latents: std::ops::Range<usize>,
    tile: usize,
    d: usize,
    k: usize,
    best: &mut [Scored], // [rows, k]
) {
    let rows = best.len() / k;
    // Twice k: a row's list is cut back to k each time k new candidates have come, so each costs a constant.
    let room = 2 * k + 64;
    let mut lists = vec![Scored::NONE; rows * room];
    let mut states = vec![List::default(); rows];
    let mut scores = vec![0.0f32; rows * tile];
    for first in latents.clone().step_by(tile) {
        let width = tile.min(latents.end - first);
        let w_enc = &w_enc[first * d..][..width * d];
        product(x, w_enc, [rows, width, d], &mut scores[..rows * width]);
        let bias = &b_enc[first..][..width];
        let rows = scores.chunks_exact(width).zip(lists.chunks_exact_mut(room));
        for ((scores, list), state) in rows.zip(&mut states) {
            state.offer_all(scores, bias, first, k, list);
        }
    }
    let rows = best.chunks_exact_mut(k).zip(lists.chunks_exact_mut(room));
    for ((best, list), state) in rows.zip(&mut states) {
        state.cut(k, list);
        list[..state.len].sort_unstable_by(|a, b| b.cmp(a));
        best[..state.len].copy_from_slice(&list[..state.len]);
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

/// How full a row's list of candidates is, and what a score must exceed to enter it.
#[derive(Debug, Clone, Copy, Default)]
struct List {
    len: usize,
    /// The kth best score, once `k` are known. Latents come in ascending order, so an equal score comes too late.
    threshold: Option<f32>,
}

impl List {
    fn offer_all(
        &mut self,
        scores: &[f32],
        bias: &[f32],
        first: usize,
        k: usize,
        list: &mut [Scored],
    ) {
        let mut at = 0;
        while at < scores.len() {
            let Some(threshold) = self.threshold else {
                self.offer(Scored::new(scores[at] + bias[at], first + at), k, list);
                at += 1;
                continue;
            };
            match first_above(&scores[at..], &bias[at..], threshold) {
                None => break,
                Some(skipped) => at += skipped,
            }
            // A block of scores, one of which at least was above the threshold as it stood.
            let end = scores.len().min(at + BLOCK);
            for at in at..end {
                let score = scores[at] + bias[at];
                if self.threshold.is_none_or(|threshold| score > threshold) {
                    self.offer(Scored::new(score, first + at), k, list);
                }
            }
            at = end;
        }
    }

    fn offer(&mut self, scored: Scored, k: usize, list: &mut [Scored]) {
        list[self.len] = scored;
        self.len += 1;
        if self.len == list.len() {
            self.cut(k, list);
        }
    }

    fn cut(&mut self, k: usize, list: &mut [Scored]) {
        if self.len > k {
            list[..self.len].select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            self.len = k;
            self.threshold = Some(list[k - 1].value());
        }
    }
}

const BLOCK: usize = 32;

widest_vectors! {
    /// Where the first block of scores begins that has one above the threshold; a NaN is above nothing.
    fn first_above(scores: &[f32], bias: &[f32], threshold: f32) -> Option<usize> {
        let blocks = scores.chunks_exact(BLOCK).zip(bias.chunks_exact(BLOCK));
        for (block, (scores, bias)) in blocks.enumerate() {
            let mut above = 0u32;
            for lane in 0..BLOCK {
                above |= u32::from(scores[lane] + bias[lane] > threshold);
            }
            if above != 0 {
                return Some(block * BLOCK);
            }
        }
        let rest = scores.len() - scores.len() % BLOCK;
        let tail = scores[rest..].iter().zip(&bias[rest..]);
        tail.into_iter().any(|(score, bias)| score + bias > threshold).then_some(rest)
    }
}

/// From `[parts, rows, k]` block after block to the best `k` of each row.
fn merge_parts(best: &[Scored], block: usize, parts: usize, k: usize) -> Vec<Scored> {
    let mut merged = vec![Scored::NONE; best.len() / parts];
    merged
        .par_chunks_mut(block * k)
        .zip(best.par_chunks(block * parts * k))
        .for_each(|(merged, best)| {
            let rows = merged.len() / k;
            let mut all = Vec::with_capacity(parts * k);
            for (row, merged) in merged.chunks_exact_mut(k).enumerate() {
                all.clear();
                for part in 0..parts {
                    all.extend_from_slice(&best[(part * rows + row) * k..][..k]);
                }
                all.sort_unstable_by(|a, b| b.cmp(a));
                merged.copy_from_slice(&all[..k]);
            }
        });
    merged
}
