//! The sparse products in CubeCL, for WGPU and CUDA: one cube an output row, its units across the columns.
//!
//! The grouping by latent is made on the device: integer atomics count and place the entries, and each latent's list is
//! then sorted, so that sums run in row order whatever order the atomics happened in.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::SparseProducts;
use crate::gpu::{UNITS, cubes, cubes_for_elements, dims2, empty, floats, indices as indices_of};

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
                values.into_buffer_arg(),
                indices.into_buffer_arg(),
                w.into_buffer_arg(),
                out.clone().into_buffer_arg(),
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
                g.into_buffer_arg(),
                w.into_buffer_arg(),
                indices.into_buffer_arg(),
                out.clone().into_buffer_arg(),
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
            let zeros = |shape| Self::float_zeros(shape, &rows.device, FloatDType::F32);
            return (
                zeros(Shape::from([latents, d])),
                zeros(Shape::from([latents])),
            );
        }
        let (values, indices, rows) = (floats(values), indices_of(indices), floats(rows));
        let client = rows.client.clone();
        let entries = n * k;

        let counts = Self::int_zeros(Shape::from([latents]), &rows.device, IntDType::U32);
        count_entries::launch(
            &client,
            cubes_for_elements(entries),
            CubeDim::new_1d(UNITS),
            values.clone().into_buffer_arg(),
            indices.clone().into_buffer_arg(),
            counts.clone().into_buffer_arg(),
            entries,
        );
        let starts = empty(&rows, [latents + 1], DType::U32);
        let next = empty(&rows, [latents], DType::U32);
        starts_of_latents::launch(
            &client,
            CubeCount::Static(1, 1, 1),
            CubeDim::new_1d(UNITS),
            counts.into_buffer_arg(),
            starts.clone().into_buffer_arg(),
            next.clone().into_buffer_arg(),
            latents,
        );
        let placed = empty(&rows, [entries], DType::U32);
        place_entries::launch(
            &client,
            cubes_for_elements(entries),
            CubeDim::new_1d(UNITS),
            values.clone().into_buffer_arg(),
            indices.into_buffer_arg(),
            next.into_buffer_arg(),
            placed.clone().into_buffer_arg(),
            entries,
        );
        let sorted = empty(&rows, [entries], DType::U32);
        sort_within_latents::launch(
            &client,
            cubes(latents),
            CubeDim::new_1d(UNITS),
            starts.clone().into_buffer_arg(),
            placed.into_buffer_arg(),
            sorted.clone().into_buffer_arg(),
            latents,
        );
        let out = empty(&rows, [latents, d], DType::F32);
        let sums = empty(&rows, [latents], DType::F32);
        outer_rows::launch(
            &client,
            cubes(latents),
            CubeDim::new_1d(UNITS),
            values.into_buffer_arg(),
            rows.into_buffer_arg(),
            starts.into_buffer_arg(),
            sorted.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
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
fn count_entries(values: &[f32], indices: &[i32], counts: &[Atomic<u32>], entries: usize) {
    let mut at = ABSOLUTE_POS;
    while at < entries {
        if values[at] != 0.0f32 {
            counts[indices[at] as usize].fetch_add(1u32);
        }
        at += CUBE_COUNT * UNITS as usize;
    }
}

/// Exclusive sums of the counts, by a single cube: each unit takes a run of latents.
#[cube(launch)]
fn starts_of_latents(counts: &[u32], starts: &mut [u32], next: &mut [u32], latents: usize) {
    let mut totals = Shared::<[u32]>::new_slice(UNITS as usize);
    let unit = UNIT_POS as usize;
    let run = latents.div_ceil(UNITS as usize);
    let first = unit * run;
    let mut end = first + run;
    if end > latents {
        end = latents;
    }
    let mut total = 0u32;
    let mut latent = first;
    while latent < end {
        total += counts[latent];
        latent += 1;
    }
    totals[unit] = total;
    sync_cube();
    let mut start = 0u32;
    for before in 0..unit {
        start += totals[before];
    }
    let mut latent = first;
    while latent < end {
        starts[latent] = start;
        next[latent] = start;
        start += counts[latent];
        latent += 1;
    }
    if unit == 0 {
        let mut all = 0u32;
        for other in 0..UNITS as usize {
            all += totals[other];
        }
        starts[latents] = all;
    }
}

#[cube(launch)]
fn place_entries(
    values: &[f32],
    indices: &[i32],
    next: &[Atomic<u32>],
    placed: &mut [u32],
    entries: usize,
) {
    let mut at = ABSOLUTE_POS;
    while at < entries {
        if values[at] != 0.0f32 {
            let place = next[indices[at] as usize].fetch_add(1u32);
            placed[place as usize] = at as u32;
        }
        at += CUBE_COUNT * UNITS as usize;
    }
}

/// Each entry goes where the number of smaller entries in its latent says.
#[cube(launch)]
fn sort_within_latents(starts: &[u32], placed: &[u32], sorted: &mut [u32], latents: usize) {
    let mut latent = CUBE_POS;
    while latent < latents {
        let start = starts[latent] as usize;
        let end = starts[latent + 1] as usize;
        let mut at = start + UNIT_POS as usize;
        while at < end {
            let entry = placed[at];
            let mut rank = start;
            for other in start..end {
                if placed[other] < entry {
                    rank += 1;
                }
            }
            sorted[rank] = entry;
            at += UNITS as usize;
        }
        latent += CUBE_COUNT;
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn outer_rows(
    values: &[f32],
    rows: &[f32],
    starts: &[u32],
    sorted: &[u32],
    out: &mut [f32],
    sums: &mut [f32],
    latents: usize,
    k: usize,
    d: usize,
) {
    let mut latent = CUBE_POS;
    while latent < latents {
        let start = starts[latent] as usize;
        let end = starts[latent + 1] as usize;
        let mut column = UNIT_POS as usize;
        while column < d {
            let mut sum = 0.0f32;
            for at in start..end {
                let entry = sorted[at] as usize;
                sum += values[entry] * rows[entry / k * d + column];
            }
            out[latent * d + column] = sum;
            column += UNITS as usize;
        }
        if UNIT_POS == 0 {
            let mut sum = 0.0f32;
            for at in start..end {
                sum += values[sorted[at] as usize];
            }
            sums[latent] = sum;
        }
        latent += CUBE_COUNT;
    }
}
