//! In CubeCL, for WGPU and CUDA: one cube a row of the batch makes the reconstruction and what it
//! says of the codes, and one cube a latent makes the latent's gradient and updates its weights,
//! while both lie in shared memory.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::{How, SparseTraining};
use crate::adam_step::Adam;
use crate::adam_step::cube::{adam, owned};
use crate::gpu::{
    Rows, UNITS, cube_sum, cubes, dims2, empty, floats, has_planes, indices as indices_of,
    sum_in_plane, zeros,
};
use crate::sparse_products::SparseProducts;
use crate::sparse_products::grouping::Grouping;

type B = CubeBackend;

impl SparseTraining for CubeBackend {
    fn reconstruct(
        values: CubeTensor,
        indices: CubeTensor,
        w_dec: CubeTensor,
        b_dec: CubeTensor,
        target: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let ([n, d], [_, k]) = (dims2(&target), dims2(&indices));
        if n > 0 && row_fits(&target.client, d) {
            let (values, indices, w_dec) = (floats(values), indices_of(indices), floats(w_dec));
            let (b_dec, target) = (floats(b_dec), floats(target));
            let error = empty(&target, [n, d], DType::F32);
            let along = empty(&target, [n, k], DType::F32);
            let squares = empty(&target, [n], DType::F32);
            reconstruct_rows::launch(
                &target.client.clone(),
                cubes(n),
                CubeDim::new_1d(UNITS),
                values.rows(),
                indices.rows(),
                w_dec.rows(),
                b_dec.rows(),
                target.clone().rows(),
                error.clone().rows(),
                along.clone().rows(),
                squares.clone().rows(),
                n,
                k,
                d,
                has_planes(&target.client),
            );
            return (error, along, squares);
        }
        let decoded = Self::sparse_decode(values, indices.clone(), w_dec.clone());
        let offset = B::float_sub(B::float_reshape(b_dec, [1, d].into()), target);
        let error = B::float_add(decoded, offset);
        let along = Self::sparse_dot(error.clone(), w_dec, indices);
        let squares = B::float_sum_dim(B::float_mul(error.clone(), error.clone()), 1);
        (error, along, B::float_reshape(squares, [n].into()))
    }

    fn latent_sums(values: CubeTensor, indices: CubeTensor, latents: usize) -> CubeTensor {
        let [n, _] = dims2(&values);
        if n == 0 {
            return zeros(&values, [latents]);
        }
        let (values, indices) = (floats(values), indices_of(indices));
        Grouping::new(&values, &indices, latents).sums(values)
    }

    fn row_squares(
        w: CubeTensor,
        values: CubeTensor,
        indices: CubeTensor,
        rows: CubeTensor,
        unit_rows: bool,
    ) -> CubeTensor {
        let [latents, _] = dims2(&w);
        let gradient = gradient(w, values, indices, rows, unit_rows);
        let squares = B::float_sum_dim(B::float_mul(gradient.clone(), gradient), 1);
        B::float_reshape(squares, [latents].into())
    }

    fn row_update(
        w: CubeTensor,
        m: CubeTensor,
        v: CubeTensor,
        values: CubeTensor,
        indices: CubeTensor,
        rows: CubeTensor,
        how: How,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let ([latents, d], [n, k]) = (dims2(&w), dims2(&values));
        if n > 0 && latents > 0 && row_fits(&w.client, d) {
            let (values, indices, rows) = (floats(values), indices_of(indices), floats(rows));
            let (w, m, v) = (owned(w), owned(m), owned(v));
            let grouping = Grouping::new(&values, &indices, latents);
            let factors = how.factors;
            update_rows::launch(
                &w.client.clone(),
                cubes(latents),
                CubeDim::new_1d(UNITS),
                values.rows(),
                rows.rows(),
                grouping.starts.rows(),
                grouping.counts.rows(),
                grouping.entries.rows(),
                w.clone().rows(),
                m.clone().rows(),
                v.clone().rows(),
                latents,
                k,
                how.scale,
                factors.beta1,
                factors.one_minus_beta1,
                factors.beta2,
                factors.one_minus_beta2,
                factors.rate,
                factors.root_scale,
                factors.eps,
                factors.shrink,
                d,
                how.unit_rows,
                has_planes(&w.client),
            );
            return (w, m, v);
        }
        let mut gradient = gradient(w.clone(), values, indices, rows, how.unit_rows);
        if how.scale != 1.0 {
            gradient = B::float_mul_scalar(gradient, how.scale.into());
        }
        let (mut w, m, v) = Self::adam(w, gradient, m, v, how.factors);
        if how.unit_rows {
            let squares = B::float_sum_dim(B::float_mul(w.clone(), w.clone()), 1);
            let norms = B::float_clamp_min(B::float_sqrt(squares), LEAST_NORM.into());
            w = B::float_div(w, norms);
        }
        (w, m, v)
    }
}

/// What a row's norm is taken for at least when the row is divided by it.
const LEAST_NORM: f32 = 1e-12;

/// Whether shared memory has room for a row of `d` numbers and a sum.
fn row_fits(client: &Client, d: usize) -> bool {
    let bytes = client
        .properties()
        .hardware
        .max_shared_memory_size
        .min(48 << 10);
    4 * (d + UNITS as usize) <= bytes
}

/// `[F, d]`
fn gradient(
    w: CubeTensor,
    values: CubeTensor,
    indices: CubeTensor,
    rows: CubeTensor,
    unit_rows: bool,
) -> CubeTensor {
    let [latents, _] = dims2(&w);
    let (gradient, _) = B::sparse_outer(values, indices, rows, latents);
    if !unit_rows {
        return gradient;
    }
    let along = B::float_sum_dim(B::float_mul(gradient.clone(), w.clone()), 1);
    B::float_sub(gradient, B::float_mul(w, along))
}

/// Units that share one dot product where there are no planes.
const LANES: u32 = 32;

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn reconstruct_rows(
    values: &[f32],      // [n, k]
    indices: &[i32],     // [n, k]
    w_dec: &[f32],       // [F, d]
    b_dec: &[f32],       // [d]
    target: &[f32],      // [n, d]
    error: &mut [f32],   // [n, d]
    along: &mut [f32],   // [n, k]
    squares: &mut [f32], // [n]
    n: usize,
    k: usize,
    #[comptime] d: usize,
    #[comptime] planes: bool,
) {
    let mut missed = Shared::<[f32]>::new_slice(d);
    let mut partial = Shared::<[f32]>::new_slice(UNITS as usize);
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let mut row = CUBE_POS;
    while row < n {
        let mut square = 0.0f32;
        let mut column = unit;
        while column < d {
            let mut sum = 0.0f32;
            for j in 0..k {
                let value = values[row * k + j];
                if value != 0.0f32 {
                    sum += value * w_dec[indices[row * k + j] as usize * d + column];
                }
            }
            let miss = sum + (b_dec[column] - target[row * d + column]);
            missed[column] = miss;
            error[row * d + column] = miss;
            square += miss * miss;
            column += units;
        }
        let square = cube_sum(square, &mut partial, planes);
        if unit == 0 {
            squares[row] = square;
        }
        if comptime!(planes) {
            let lanes = PLANE_DIM as usize;
            let lane = UNIT_POS_PLANE as usize;
            let mut j = unit / lanes;
            while j < k {
                let at = indices[row * k + j] as usize * d;
                let mut sum = 0.0f32;
                let mut column = lane;
                while column < d {
                    sum += missed[column] * w_dec[at + column];
                    column += lanes;
                }
                let sum = sum_in_plane(sum);
                if lane == 0 {
                    along[row * k + j] = sum;
                }
                j += units / lanes;
            }
        } else {
            let lane = unit % LANES as usize;
            let mut first = 0usize;
            while first < k {
                let j = first + unit / LANES as usize;
                let mut sum = 0.0f32;
                if j < k {
                    let at = indices[row * k + j] as usize * d;
                    let mut column = lane;
                    while column < d {
                        sum += missed[column] * w_dec[at + column];
                        column += LANES as usize;
                    }
                }
                sync_cube();
                partial[unit] = sum;
                sync_cube();
                if lane == 0 && j < k {
                    let mut total = 0.0f32;
                    for other in 0..LANES as usize {
                        total += partial[unit + other];
                    }
                    along[row * k + j] = total;
                }
                first += units / LANES as usize;
            }
        }
        sync_cube();
        row += CUBE_COUNT;
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn update_rows(
    values: &[f32],  // [n, k]
    rows: &[f32],    // [n, d]
    starts: &[u32],  // [latents]
    counts: &[u32],  // [latents]
    entries: &[u32], // [n · k]
    w: &mut [f32],   // [latents, d]
    m: &mut [f32],   // [latents, d]
    v: &mut [f32],   // [latents, d]
    latents: usize,
    k: usize,
    scale: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    rate: f32,
    root_scale: f32,
    eps: f32,
    shrink: f32,
    #[comptime] d: usize,
    #[comptime] unit_rows: bool,
    #[comptime] planes: bool,
) {
    // The gradient, then the new weights. A unit reads only what it wrote.
    let mut kept = Shared::<[f32]>::new_slice(d);
    let mut partial = Shared::<[f32]>::new_slice(UNITS as usize);
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let mut latent = CUBE_POS;
    while latent < latents {
        let start = starts[latent] as usize;
        let end = start + counts[latent] as usize;
        let mut product = 0.0f32;
        let mut column = unit;
        while column < d {
            let mut sum = 0.0f32;
            for at in start..end {
                let entry = entries[at] as usize;
                sum += values[entry] * rows[entry / k * d + column];
            }
            kept[column] = sum;
            product += sum * w[latent * d + column];
            column += units;
        }
        if comptime!(unit_rows) {
            product = cube_sum(product, &mut partial, planes);
        }
        let mut squares = 0.0f32;
        let mut column = unit;
        while column < d {
            let at = latent * d + column;
            let old = w[at];
            let mut gradient = kept[column];
            if comptime!(unit_rows) {
                gradient -= old * product;
            }
            gradient *= scale;
            let first = beta1 * m[at] + one_minus_beta1 * gradient;
            let second = beta2 * v[at] + one_minus_beta2 * gradient * gradient;
            m[at] = first;
            v[at] = second;
            let new = adam(old, first, second, rate, root_scale, eps, shrink);
            if comptime!(unit_rows) {
                kept[column] = new;
                squares += new * new;
            } else {
                w[at] = new;
            }
            column += units;
        }
        if comptime!(unit_rows) {
            let norm = cube_sum(squares, &mut partial, planes).sqrt();
            let norm = select(norm < LEAST_NORM, LEAST_NORM, norm);
            let mut column = unit;
            while column < d {
                w[latent * d + column] = kept[column] / norm;
                column += units;
            }
        }
        latent += CUBE_COUNT;
    }
}
