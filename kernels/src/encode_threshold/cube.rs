//! In CubeCL, for WGPU and CUDA: a tile of scores, in which what is not above its threshold becomes
//! −∞, and TopK's selection with the densest row's count. How many are active is read back a tile
//! at a time, since it decides the shape of the codes.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::EncodeThreshold;
use crate::encode_topk::cube::order::key_of;
use crate::encode_topk::cube::radix::rank;
use crate::encode_topk::cube::{Codes, Product};
use crate::gpu::{Rows, UNITS, cubes, dims2, empty, floats};

impl EncodeThreshold for CubeBackend {
    fn above(
        x: CubeTensor,
        w_enc: CubeTensor,
        b_enc: CubeTensor,
        threshold: CubeTensor,
    ) -> (CubeTensor, CubeTensor) {
        let ([n, _], [latents, _]) = (dims2(&x), dims2(&w_enc));
        let (x, w_enc) = (floats(x), floats(w_enc));
        let (b_enc, threshold) = (floats(b_enc), floats(threshold));
        let client = x.client.clone();
        let no_bias = Self::float_zeros(Shape::from([latents]), &x.device, FloatDType::F32);
        // Codes of each tile: first row, rows, width, values, indices.
        let mut tiles: Vec<(usize, usize, usize, CubeTensor, CubeTensor)> = vec![];
        Product::exact(x.clone(), w_enc).for_each_tile(|first, rows, scores| {
            let counts = empty(&x, [rows], DType::U32);
            mask_rows::launch(
                &client,
                CubeCount::Static(rows as u32, 1, 1),
                CubeDim::new_1d(UNITS),
                scores.clone().rows(),
                b_enc.clone().rows(),
                threshold.clone().rows(),
                counts.clone().rows(),
                latents,
            );
            let counts = client.read_one_unchecked(counts.handle);
            let most = u32::from_bytes(&counts).iter().copied().max();
            let width = most.map_or(1, |most| (most as usize).max(1));
            let codes = Codes {
                values: empty(&x, [rows, width], DType::F32),
                indices: empty(&x, [rows, width], DType::I32),
            };
            rank(&scores, &no_bias, &codes, 0);
            tiles.push((first, rows, width, codes.values, codes.indices));
        });
        let width = tiles.iter().map(|tile| tile.2).max().unwrap_or(1);
        let values = empty(&x, [n, width], DType::F32);
        let indices = empty(&x, [n, width], DType::I32);
        for (first, rows, narrow, tile_values, tile_indices) in tiles {
            widen_rows::launch(
                &client,
                cubes(rows.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                tile_values.rows(),
                tile_indices.rows(),
                values.clone().rows(),
                indices.clone().rows(),
                first,
                rows,
                narrow,
                width,
            );
        }
        (values, indices)
    }
}

/// Adds the bias, turns scores that are not above their threshold (at least 0) into −∞, and counts
/// the others of each row.
#[cube(launch)]
fn mask_rows(
    scores: &mut [f32], // [rows, latents]
    bias: &[f32],       // [latents]
    threshold: &[f32],  // [latents]
    counts: &mut [u32], // [rows]
    latents: usize,
) {
    let mut active = Shared::<[u32]>::new_slice(UNITS as usize);
    let at = CUBE_POS * latents;
    let unit = UNIT_POS as usize;
    let zero = key_of(0.0f32);
    let mut mine = 0u32;
    let mut latent = unit;
    while latent < latents {
        let score = scores[at + latent] + bias[latent];
        let least = threshold[latent];
        // By bits, because shader compilers may assume that there is no NaN.
        let nan = (u32::reinterpret(least) & 0x7FFF_FFFFu32) > 0x7F80_0000u32;
        let key = key_of(score);
        let is_active = !nan && key > key_of(least) && key > zero;
        scores[at + latent] = select(is_active, score, f32::reinterpret(0xFF80_0000u32));
        mine += select(is_active, 1u32, 0u32);
        latent += UNITS as usize;
    }
    active[unit] = mine;
    sync_cube();
    if unit == 0 {
        let mut all = 0u32;
        for other in 0..UNITS as usize {
            all += active[other];
        }
        counts[CUBE_POS] = all;
    }
}

/// Copies codes to wider ones: −∞ becomes 0, and places that are new get the lowest latents that
/// the row does not have. One unit a row.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn widen_rows(
    from_values: &[f32],  // [rows, narrow]
    from_indices: &[i32], // [rows, narrow]
    values: &mut [f32],   // [n, width]
    indices: &mut [i32],  // [n, width]
    first: usize,
    rows: usize,
    narrow: usize,
    width: usize,
) {
    let mut row = ABSOLUTE_POS;
    while row < rows {
        let (from, to) = (row * narrow, (first + row) * width);
        for place in 0..narrow {
            let value = from_values[from + place];
            let inactive = u32::reinterpret(value) == 0xFF80_0000u32;
            values[to + place] = select(inactive, 0.0f32, value);
            indices[to + place] = from_indices[from + place];
        }
        let mut candidate = 0i32;
        let mut place = narrow;
        while place < width {
            let mut taken = false;
            for other in 0..narrow {
                if from_indices[from + other] == candidate {
                    taken = true;
                }
            }
            if !taken {
                values[to + place] = 0.0f32;
                indices[to + place] = candidate;
                place += 1;
            }
            candidate += 1i32;
        }
        row += CUBE_COUNT * UNITS as usize;
    }
}
