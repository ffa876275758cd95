//! BatchTopK (Bussmann, Leask & Nanda 2024): the `n·k` largest positive pre-activations of the
//! whole batch are on, so that a row may use more latents than another.
//!
//! The search is exact. Every row brings more of its best than it is likely to need; where a row
//! turns out to have all of them chosen, that row is encoded again, four times as wide, until no
//! row could hide a better one. The choice itself is made on the host, on a GPU too.

mod cpu;
mod cube;
mod gradient;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::encode_topk::checked_k;
use crate::{EncoderState, SparseCodes};

/// What [`encode_batch_topk`] found.
#[derive(Debug, Clone)]
pub struct BatchTopK {
    /// The codes, relu'd. Their width `k'` is the number of latents of the row that has most, at
    /// least 1; entries outside the batch's largest `n·k` are 0. `[n, k']`
    pub codes: SparseCodes,
    /// The smallest kept value, 0 if no pre-activation is positive.
    pub threshold: f32,
}

/// The `n·k` largest of the batch's positive pre-activations `x · w_encᵀ + b_enc`: shapes as in
/// [`encode_topk`](crate::encode_topk).
///
/// Exact; of equal values the one in the earlier row wins, then the one of the lower index.
/// Differentiable in `x`, `w_enc` and `b_enc` through the kept values; the threshold is a constant.
/// The next call with these weights and this `state` is faster.
///
/// # Panics
///
/// If the shapes disagree, `k` is 0 or there are no latents.
pub fn encode_batch_topk(
    x: Tensor<2>,
    w_enc: Tensor<2>,
    b_enc: Tensor<1>,
    k: usize,
    state: &EncoderState,
) -> BatchTopK {
    let k = checked_k(&x, &w_enc, &b_enc, k);
    let (values, indices, threshold) = Dispatch::batch_topk(
        x.into_dispatch(),
        w_enc.into_dispatch(),
        b_enc.into_dispatch(),
        k,
        state,
    );
    BatchTopK {
        codes: SparseCodes {
            values: Tensor::from_dispatch(values),
            indices: Tensor::from_dispatch(indices),
        },
        threshold,
    }
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(crate) trait EncodeBatchTopK: Backend {
    /// `k` is between 1 and F.
    fn batch_topk(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
        state: &EncoderState,
    ) -> (FloatTensor<Self>, IntTensor<Self>, f32);
}

/// The chosen codes of a batch.
struct Chosen {
    values: Vec<f32>,  // [n, width]
    indices: Vec<i32>, // [n, width]
    width: usize,
    threshold: f32,
}

/// One row's best latents, best first: value and latent.
type RowBest = Vec<(f32, i32)>;

/// Chooses the batch's `n·k` largest positive values. `best(rows, width)` encodes these rows of the
/// batch and returns the best `width ≤ latents` of each.
fn choose(
    n: usize,
    k: usize,
    latents: usize,
    best: impl Fn(&[usize], usize) -> Vec<RowBest>,
) -> Chosen {
    let mut width = (4 * k).max(32).min(latents);
    let mut candidates = best(&(0..n).collect::<Vec<_>>(), width);
    let kept = loop {
        let kept = kept_a_row(&candidates, n * k);
        // A row that has all its candidates chosen may have more.
        let exhausted: Vec<usize> = (0..n)
            .filter(|&row| kept[row] == candidates[row].len() && kept[row] < latents)
            .collect();
        if exhausted.is_empty() {
            break kept;
        }
        width = (4 * width).min(latents);
        for (&row, wider) in exhausted.iter().zip(best(&exhausted, width)) {
            candidates[row] = wider;
        }
    };

    let width = kept.iter().copied().max().unwrap_or(0).max(1);
    let mut chosen = Chosen {
        values: Vec::with_capacity(n * width),
        indices: Vec::with_capacity(n * width),
        width,
        threshold: f32::INFINITY,
    };
    for (candidates, &kept) in candidates.iter().zip(&kept) {
        for &(value, latent) in &candidates[..kept] {
            chosen.values.push(value);
            chosen.indices.push(latent);
            chosen.threshold = chosen.threshold.min(value);
        }
        chosen
            .values
            .resize(chosen.values.len() + width - kept, 0.0);
        let rest = candidates[kept..].iter().map(|&(_, latent)| latent);
        let unused = (0..latents as i32)
            .filter(|latent| candidates.iter().all(|(_, taken)| taken != latent));
        chosen.indices.extend(rest.chain(unused).take(width - kept));
    }
    if chosen.threshold == f32::INFINITY && kept.iter().all(|&kept| kept == 0) {
        chosen.threshold = 0.0;
    }
    chosen
}

/// How many of each row's candidates, which are sorted, are among the `most` largest positive ones.
fn kept_a_row(candidates: &[RowBest], most: usize) -> Vec<usize> {
    // Larger value first, then the earlier row; within a row candidates are in order already.
    // Positive floats order as their bits do.
    let mut positive: Vec<u64> = Vec::new();
    for (row, candidates) in candidates.iter().enumerate() {
        let values = candidates.iter().map(|&(value, _)| value);
        positive.extend(
            values
                .take_while(|&value| value > 0.0)
                .map(|value| (u64::from(value.to_bits()) << 32) | u64::from(u32::MAX - row as u32)),
        );
    }
    if most < positive.len() {
        positive.select_nth_unstable_by(most, |a, b| b.cmp(a));
        positive.truncate(most);
    }
    let mut kept = vec![0; candidates.len()];
    for key in positive {
        kept[(u32::MAX - key as u32) as usize] += 1;
    }
    kept
}
