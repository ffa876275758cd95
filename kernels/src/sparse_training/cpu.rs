//! One latent at a time: its gradient is summed into a scratch row, and weights and moments are
//! read and written once.

use burn::backend::Flex;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{How, SparseTraining};
use crate::adam_step::cpu::{update, update_along, whole};
use crate::host::{
    contiguous, contiguous_i32, dims2, dot, float_tensor, floats, indices as indices_of,
    widest_vectors,
};
use crate::sparse_products::cpu::{ByLatent, axpy, decode_row, dot_row};

/// Latents that one task takes at least.
const ROWS_A_TASK: usize = 64;

/// Tokens that one task reconstructs at least.
const TOKENS_A_TASK: usize = 8;

impl SparseTraining for Flex {
    fn reconstruct(
        values: FlexTensor,
        indices: FlexTensor,
        w_dec: FlexTensor,
        b_dec: FlexTensor,
        target: FlexTensor,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let ([n, k], [_, d]) = (dims2(&indices), dims2(&w_dec));
        let (values, indices) = (contiguous(values), contiguous_i32(indices));
        let (w_dec, b_dec, target) = (contiguous(w_dec), contiguous(b_dec), contiguous(target));
        let (values, indices) = (floats(&values), indices_of(&indices));
        let (w, b, target) = (floats(&w_dec), floats(&b_dec), floats(&target));
        let mut error = vec![0.0; n * d]; // [n, d]
        let mut along = vec![0.0; n * k]; // [n, k]
        let mut squares = vec![0.0; n];
        if k > 0 && d > 0 {
            error
                .par_chunks_exact_mut(d)
                .with_min_len(TOKENS_A_TASK)
                .zip(along.par_chunks_exact_mut(k))
                .zip(&mut squares)
                .zip(values.par_chunks_exact(k).zip(indices.par_chunks_exact(k)))
                .zip(target.par_chunks_exact(d))
                .for_each(|((((error, along), square), (values, indices)), target)| {
                    decode_row(values, indices, w, error);
                    add_difference(b, target, error);
                    dot_row(error, w, indices, along);
                    *square = dot(error, error);
                });
        }
        (
            float_tensor(error, [n, d]),
            float_tensor(along, [n, k]),
            float_tensor(squares, [n]),
        )
    }

    fn latent_sums(values: FlexTensor, indices: FlexTensor, latents: usize) -> FlexTensor {
        let (values, indices) = (contiguous(values), contiguous_i32(indices));
        let mut sums = vec![0.0f32; latents];
        for (value, latent) in floats(&values).iter().zip(indices_of(&indices)) {
            sums[*latent as usize] += value;
        }
        float_tensor(sums, [latents])
    }

    fn row_squares(
        w: FlexTensor,
        values: FlexTensor,
        indices: FlexTensor,
        rows: FlexTensor,
        unit_rows: bool,
    ) -> FlexTensor {
        let [latents, d] = dims2(&w);
        let w = contiguous(w);
        let gradient = Gradient::new(values, indices, rows, latents);
        let mut squares = vec![0.0f32; latents];
        squares
            .par_iter_mut()
            .enumerate()
            .with_min_len(ROWS_A_TASK)
            .for_each_init(
                || vec![0.0; d],
                |scratch, (latent, square)| {
                    let row = &floats(&w)[latent * d..][..d];
                    let along = gradient.of_latent(latent, unit_rows.then_some(row), scratch);
                    if unit_rows {
                        axpy(-along, row, scratch);
                    }
                    *square = dot(scratch, scratch);
                },
            );
        float_tensor(squares, [latents])
    }

    fn row_update(
        w: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        values: FlexTensor,
        indices: FlexTensor,
        rows: FlexTensor,
        how: How,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [latents, d] = dims2(&w);
        let gradient = Gradient::new(values, indices, rows, latents);
        let (mut w, mut m, mut v) = (whole(w), whole(m), whole(v));
        if d > 0 {
            // Copies first if somebody else holds the storage too.
            w.storage_mut::<f32>()
                .par_chunks_exact_mut(d)
                .zip(m.storage_mut::<f32>().par_chunks_exact_mut(d))
                .zip(v.storage_mut::<f32>().par_chunks_exact_mut(d))
                .enumerate()
                .with_min_len(ROWS_A_TASK)
                .for_each_init(
                    || vec![0.0; d],
                    |scratch, (latent, ((w, m), v))| {
                        let along = gradient.of_latent(latent, how.unit_rows.then_some(w), scratch);
                        if how.scale != 1.0 {
                            scratch.iter_mut().for_each(|g| *g *= how.scale);
                        }
                        if how.unit_rows {
                            let squares =
                                update_along(w, scratch, how.scale * along, m, v, how.factors);
                            let factor = 1.0 / squares.sqrt().max(1e-12);
                            w.iter_mut().for_each(|w| *w *= factor);
                        } else {
                            update(w, scratch, m, v, how.factors);
                        }
                    },
                );
        }
        (w, m, v)
    }
}

/// A gradient that is sparse by latent.
struct Gradient {
    by_latent: ByLatent,
    rows: FlexTensor, // [n, d]
}

impl Gradient {
    fn new(values: FlexTensor, indices: FlexTensor, rows: FlexTensor, latents: usize) -> Self {
        let [_, k] = dims2(&indices);
        let (values, indices) = (contiguous(values), contiguous_i32(indices));
        Self {
            by_latent: ByLatent::new(floats(&values), indices_of(&indices), k, latents),
            rows: contiguous(rows),
        }
    }

    /// Writes the gradient of one latent's row; what of it lies along `unit` (norm 1) if given,
    /// otherwise 0.
    fn of_latent(&self, latent: usize, unit: Option<&[f32]>, out: &mut [f32]) -> f32 {
        sum_rows(self.by_latent.entries(latent), floats(&self.rows), out);
        unit.map_or(0.0, |unit| dot(out, unit))
    }
}

widest_vectors! {
    /// The sum of rows times their values.
    fn sum_rows(entries: &[(u32, f32)], rows: &[f32], out: &mut [f32]) {
        const LANES: usize = 64;
        let d = out.len();
        let (blocks, rest) = out.as_chunks_mut::<LANES>();
        let first_of_rest = blocks.len() * LANES;
        for (block, out) in blocks.iter_mut().enumerate() {
            let mut sums = [0.0f32; LANES];
            for &(row, value) in entries {
                let row = &rows[row as usize * d + block * LANES..][..LANES];
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += value * x;
                }
            }
            *out = sums;
        }
        for (at, out) in rest.iter_mut().enumerate() {
            let column = first_of_rest + at;
            *out = entries.iter().map(|&(row, value)| value * rows[row as usize * d + column]).sum();
        }
    }
}

widest_vectors! {
    fn add_difference(a: &[f32], b: &[f32], out: &mut [f32]) {
        for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
            *out += a - b;
        }
    }
}
