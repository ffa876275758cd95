//! Softmax attention, a block of queries of one head at a time: only the keys that some query of
//! the block sees are multiplied, so that causality saves half the work, and scores stay in cache.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::exponential::exp;
use super::product::{Matrix, product};
use super::{CausalAttention, Rows};
use crate::host::{float_tensor, widest_vectors};

/// Queries of a block.
const QUERIES: usize = 64;
/// Lanes of sums and maxima.
const LANES: usize = 32;

pub(super) fn forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    how: &CausalAttention,
) -> FlexTensor {
    let (q, k, v) = (Rows::of(q), Rows::of(k), Rows::of(v));
    let (width, d, heads) = (q.width, how.d_head, q.width / how.d_head);
    let group = q.width / k.width;
    let (queries, keys) = (q.n / how.batch, k.n / how.batch);
    let before = keys - queries;
    let first = |sequence: usize, query: usize| match &how.first {
        None => 0,
        Some(first) => first[(sequence * queries + query) % first.len()] as usize,
    };
    let mut out = vec![0.0; q.n * width]; // [batch * queries, heads * d_head]
    // A task is a block of one sequence's queries in all heads: rows of the output that lie
    // together.
    out.par_chunks_mut((queries * width).max(1))
        .enumerate()
        .flat_map(|(sequence, out)| {
            out.par_chunks_mut(QUERIES * width)
                .enumerate()
                .map(move |(block, out)| (sequence, block, out))
        })
        .for_each_init(Vec::new, |scores: &mut Vec<f32>, (sequence, block, out)| {
            let from = block * QUERIES;
            let n = out.len() / width;
            // Queries' first keys do not decrease within a sequence, but nothing relies on it.
            let least = (from..from + n).map(|i| first(sequence, i)).min();
            let least = least.expect("a block has queries");
            let most = before + from + n; // keys that its last query sees end here
            let seen = most - least;
            if scores.len() < n * seen {
                scores.resize(n * seen, 0.0);
            }
            let scores = &mut scores[..n * seen];
            for head in 0..heads {
                let (column, kv_column) = (head * d, head / group * d);
                let queries_here = Matrix {
                    data: &q.data()[(sequence * queries + from) * q.stride + column..],
                    row: q.stride,
                    column: 1,
                };
                let kv_rows = (sequence * keys + least) * k.stride;
                let keys_here = Matrix {
                    data: &k.data()[kv_rows + kv_column..],
                    row: 1,
                    column: k.stride,
                };
                product(queries_here, keys_here, [n, d, seen], scores, seen);
                let mut sums = [0.0f32; QUERIES];
                for (i, row) in scores.chunks_exact_mut(seen).enumerate() {
                    let start = first(sequence, from + i) - least;
                    let end = before + from + i + 1 - least;
                    row[..start].fill(0.0);
                    row[end..].fill(0.0);
                    sums[i] = weights(&mut row[start..end], how.scale, how.soft_cap);
                }
                let kv_rows = (sequence * keys + least) * v.stride;
                let pattern = Matrix {
                    data: scores,
                    row: seen,
                    column: 1,
                };
                let values_here = Matrix {
                    data: &v.data()[kv_rows + kv_column..],
                    row: v.stride,
                    column: 1,
                };
                let z = &mut out[column..];
                product(pattern, values_here, [n, seen, d], z, width);
                for (row, sum) in z.chunks_mut(width).zip(&sums) {
                    scale(&mut row[..d], 1.0 / sum);
                }
            }
        });
    float_tensor(out, [q.n, width])
}

/// Scores of the keys that a query sees to weights that are not yet divided by their sum, which is
/// returned.
fn weights(scores: &mut [f32], factor: f32, soft_cap: Option<f32>) -> f32 {
    match soft_cap {
        None => scale(scores, factor),
        Some(cap) => capped(scores, factor / cap, cap),
    }
    exponentials(scores, largest(scores))
}

widest_vectors! {
    fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

widest_vectors! {
    /// `cap · tanh(x · factor)`, by tanh u = 1 − 2 / (1 + e²ᵘ).
    fn capped(x: &mut [f32], factor: f32, cap: f32) {
        for x in x {
            *x = cap * (1.0 - 2.0 / (1.0 + exp(2.0 * factor * *x)));
        }
    }
}

widest_vectors! {
    /// The largest number; NaN may be passed over.
    fn largest(x: &[f32]) -> f32 {
        let mut largest = [f32::NEG_INFINITY; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for (largest, x) in largest.iter_mut().zip(block) {
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        largest.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
    }
}

widest_vectors! {
    /// `exp(x − largest)`, and their sum.
    fn exponentials(x: &mut [f32], largest: f32) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (blocks, rest) = x.as_chunks_mut::<LANES>();
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *x = exp(*x - largest);
                *sum += *x;
            }
        }
        let mut sum = 0.0;
        for x in rest {
            *x = exp(*x - largest);
            sum += *x;
        }
        sums.iter().sum::<f32>() + sum
    }
}
