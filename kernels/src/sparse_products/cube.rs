//! The sparse products in CubeCL, for WGPU and CUDA: one cube an output row, its units across the
//! columns.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::SparseProducts;
use super::grouping::Grouping;
use crate::gpu::{Rows, UNITS, cubes, dims2, empty, floats, indices as indices_of, zeros};

impl SparseProducts for CubeBackend {
    fn sparse_decode(values: CubeTensor, indices: CubeTensor, w: CubeTensor) -> CubeTensor {
        let ([n, k], [_, d]) = (dims2(&indices), dims2(&w));
        let (values, indices, w) = (floats(values), indices_of(indices), floats(w));
        let out = empty(&w, [n, d], DType::F32);
        if n > 0 {
            decode_rows::launch(
                &w.client.clone(),
                cubes(n),
                CubeDim::new_1d(UNITS),
                values.rows(),
                indices.rows(),
                w.rows(),
                out.clone().rows(),
                n,
                k,
                d,
            );
        }
        out
    }

    fn sparse_dot(g: CubeTensor, w: CubeTensor, indices: CubeTensor) -> CubeTensor {
        let ([n, k], [_, d]) = (dims2(&indices), dims2(&w));
        let (g, w, indices) = (floats(g), floats(w), indices_of(indices));
        let out = empty(&w, [n, k], DType::F32);
        if n > 0 {
            dot_rows::launch(
                &w.client.clone(),
                cubes(n),
                CubeDim::new_1d(UNITS),
                g.rows(),
                w.rows(),
                indices.rows(),
                out.clone().rows(),
                n,
                k,
                d,
            );
        }
        out
    }

    fn sparse_outer(
        values: CubeTensor,
        indices: CubeTensor,
        rows: CubeTensor,
        latents: usize,
    ) -> (CubeTensor, CubeTensor) {
        let ([n, k], [_, d]) = (dims2(&indices), dims2(&rows));
        if n == 0 {
            return (zeros(&rows, [latents, d]), zeros(&rows, [latents]));
        }
        let (values, indices, rows) = (floats(values), indices_of(indices), floats(rows));
        let grouping = Grouping::new(&values, &indices, latents);
        let out = empty(&rows, [latents, d], DType::F32);
        let sums = grouping.sums(values.clone());
        outer_rows::launch(
            &rows.client.clone(),
            cubes(latents),
            CubeDim::new_1d(UNITS),
            values.rows(),
            rows.rows(),
            grouping.starts.rows(),
            grouping.counts.rows(),
            grouping.entries.rows(),
            out.clone().rows(),
            latents,
            k,
            d,
        );
        (out, sums)
    }
}

#[cube(launch)]
fn decode_rows(
    values: &[f32],
    indices: &[i32],
    w: &[f32],
    out: &mut [f32],
    n: usize,
    k: usize,
    d: usize,
) {
    let mut row = CUBE_POS;
    while row < n {
        let mut column = UNIT_POS as usize;
        while column < d {
            let mut sum = 0.0f32;
            for j in 0..k {
                let value = values[row * k + j];
                if value != 0.0f32 {
                    sum += value * w[indices[row * k + j] as usize * d + column];
                }
            }
            out[row * d + column] = sum;
            column += UNITS as usize;
        }
        row += CUBE_COUNT;
    }
}

/// Units that share one dot product.
const LANES: u32 = 32;

#[cube(launch)]
fn dot_rows(g: &[f32], w: &[f32], indices: &[i32], out: &mut [f32], n: usize, k: usize, d: usize) {
    let mut partial = Shared::<[f32]>::new_slice(UNITS as usize);
    let at_once = (UNITS / LANES) as usize;
    let unit = UNIT_POS as usize;
    let lane = unit % LANES as usize;
    let mut row = CUBE_POS;
    while row < n {
        let mut first = 0usize;
        while first < k {
            let j = first + unit / LANES as usize;
            let mut sum = 0.0f32;
            if j < k {
                let latent = indices[row * k + j] as usize;
                let mut column = lane;
                while column < d {
                    sum += g[row * d + column] * w[latent * d + column];
                    column += LANES as usize;
                }
            }
            partial[unit] = sum;
            sync_cube();
            if lane == 0 && j < k {
                let mut total = 0.0f32;
                for other in 0..LANES as usize {
                    total += partial[unit + other];
                }
                out[row * k + j] = total;
            }
            sync_cube();
            first += at_once;
        }
        row += CUBE_COUNT;
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn outer_rows(
    values: &[f32],
    rows: &[f32],
    starts: &[u32],
    counts: &[u32],
    entries: &[u32],
    out: &mut [f32],
    latents: usize,
    k: usize,
    d: usize,
) {
    let mut latent = CUBE_POS;
    while latent < latents {
        let start = starts[latent] as usize;
        let end = start + counts[latent] as usize;
        let mut column = UNIT_POS as usize;
        while column < d {
            let mut sum = 0.0f32;
            for at in start..end {
                let entry = entries[at] as usize;
                sum += values[entry] * rows[entry / k * d + column];
            }
            out[latent * d + column] = sum;
            column += UNITS as usize;
        }
        latent += CUBE_COUNT;
    }
}
