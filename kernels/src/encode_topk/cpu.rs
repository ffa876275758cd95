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
const TILE_ROWS: usize = 256;
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
    let n = x.len().checked_div(d).unwrap_or(0);
    if n == 0 {
        return Vec::new();
    }
    let block = even_share(n, TILE_ROWS);
    let blocks = n.div_ceil(block);
    let tile = even_share(latents, TILE_LATENTS);
    let tiles = latents.div_ceil(tile);
    // Few rows leave threads idle, so the latents are split too; the best of the parts are the best of all, however many
    // parts there are.
    let threads = rayon::current_num_threads();
    let parts = match blocks % threads {
        0 => 1,
        _ => (4 * threads).div_ceil(blocks).clamp(1, tiles),
    };
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
    /// The kth best score so far, or a number below it. Latents come in ascending order, so a score equal to the kth best
    /// comes too late.
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
        if self.len == 0 {
            self.threshold = below_kth_best(scores, bias, k);
        }
        let mut at = 0;
        while at < scores.len() {
            let Some(threshold) = self.threshold else {
                self.offer(Scored::new(scores[at] + bias[at], first + at), k, list);
                at += 1;
                continue;
            };
            let Some((skipped, mut above)) = first_above(&scores[at..], &bias[at..], threshold)
            else {
                break;
            };
            at += skipped;
            while above != 0 {
                let hit = at + above.trailing_zeros() as usize;
                let score = scores[hit] + bias[hit];
                // The hits before this one may have raised the threshold.
                if self.threshold.is_none_or(|threshold| score > threshold) {
                    self.offer(Scored::new(score, first + hit), k, list);
                }
                above &= above - 1;
            }
            at += BLOCK;
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

/// Scores that are looked at together: a bit each in a u32.
const BLOCK: usize = 32;

/// Scores of which only the largest counts for a row's first threshold.
const GROUP: usize = 8;

/// A number that the `k` best scores exceed, and few others: of the largest in each group of scores, the kth largest is at
/// most the kth best score of all. `None` where there are too few groups to tell.
fn below_kth_best(scores: &[f32], bias: &[f32], k: usize) -> Option<f32> {
    const MOST: usize = 64;
    let mut largest = [f32::NEG_INFINITY; MOST];
    let groups = (scores.len() / GROUP).min(MOST);
    if groups < k {
        return None;
    }
    largest_of_groups(scores, bias, &mut largest[..groups]);
    let (_, kth, _) = largest[..groups].select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    // Nothing is below −∞, which the best themselves may be.
    (*kth > f32::NEG_INFINITY).then(|| kth.next_down())
}

widest_vectors! {
    fn largest_of_groups(scores: &[f32], bias: &[f32], largest: &mut [f32]) {
        let groups = scores.chunks_exact(GROUP).zip(bias.chunks_exact(GROUP));
        for (largest, (scores, bias)) in largest.iter_mut().zip(groups) {
            for (score, bias) in scores.iter().zip(bias) {
                let score = score + bias;
                // A NaN is not larger than anything.
                *largest = if score > *largest { score } else { *largest };
            }
        }
    }
}

widest_vectors! {
    /// Where the first block of scores begins that has one above the threshold, and which of its scores are, a bit each; a
    /// NaN is above nothing.
    fn first_above(scores: &[f32], bias: &[f32], threshold: f32) -> Option<(usize, u32)> {
        let blocks = scores.chunks_exact(BLOCK).zip(bias.chunks_exact(BLOCK));
        for (block, (scores, bias)) in blocks.enumerate() {
            let mut above = 0u32;
            for (lane, (score, bias)) in scores.iter().zip(bias).enumerate() {
                above |= u32::from(score + bias > threshold) << lane;
            }
            if above != 0 {
                return Some((block * BLOCK, above));
            }
        }
        let rest = scores.len() - scores.len() % BLOCK;
        let mut above = 0u32;
        for (lane, (score, bias)) in scores[rest..].iter().zip(&bias[rest..]).enumerate() {
            above |= u32::from(score + bias > threshold) << lane;
        }
        (above != 0).then_some((rest, above))
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
