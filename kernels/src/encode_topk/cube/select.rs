//! The `k` best of each row of scores in two readings of them, for a `k` up to [`MOST`].
//!
//! The units of a cube divide a row's latents among themselves. The `k`th largest of the units'
//! maxima is at most the `k`th largest of all scores, so latents below it are out, and few others
//! are left: about 34 of 24,576 normal scores for k = 32. They are sorted in shared memory. A row
//! with more of them than there is room (hundreds of equal scores) goes to
//! [`radix`](super::radix).
//!
//! Scores of [rounded](super::rounded) rows are known within bounds. Then the threshold is the
//! `k`th largest lower bound, the latents whose upper bound reaches it are left, and their scores
//! are computed again in f32 from the rows themselves.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::tensor::{DType, IntDType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::order::{key_of, score_of};
use super::{Codes, Product};
use crate::gpu::{Rows, UNITS, dims2, empty, filled, sum_in_plane};

/// The largest `k` that this module serves.
pub(crate) const MOST: usize = 128;

/// Rows of a tile with too many candidates.
pub(crate) struct LeftOver {
    /// `[rows]`, of which the first `count[0]` are set.
    pub rows: CubeTensor,
    /// `[1]`
    pub count: CubeTensor,
}

/// Writes the `k` best of each row of `scores` to the codes from row `first` on, and returns the
/// rows for which it could not.
pub(crate) fn select_best(
    product: &Product,
    scores: &CubeTensor, // [rows, latents]
    bias: &CubeTensor,   // [latents]
    codes: &Codes,
    first: usize,
) -> LeftOver {
    let ([rows, latents], [_, k]) = (dims2(scores), dims2(&codes.values));
    let [_, d] = dims2(&product.x);
    let left = LeftOver {
        rows: empty(scores, [rows], DType::U32),
        count: filled(scores, [1], 0, IntDType::U32),
    };
    let (cubes, dim) = (CubeCount::Static(rows as u32, 1, 1), CubeDim::new_1d(UNITS));
    let room = 4 * k.next_power_of_two().max(32);
    match &product.rounded {
        Some((of_x, of_w)) => select_rounded_rows::launch(
            &scores.client,
            cubes,
            dim,
            scores.clone().rows(),
            bias.clone().rows(),
            product.x.clone().rows(),
            product.w.clone().rows(),
            of_x.scale.clone().rows(),
            of_x.bound.clone().rows(),
            of_w.scale.clone().rows(),
            of_w.bound.clone().rows(),
            codes.values.clone().rows(),
            codes.indices.clone().rows(),
            left.rows.clone().rows(),
            left.count.clone().rows(),
            first,
            latents,
            d,
            k,
            room,
        ),
        None => select_exact_rows::launch(
            &scores.client,
            cubes,
            dim,
            scores.clone().rows(),
            bias.clone().rows(),
            codes.values.clone().rows(),
            codes.indices.clone().rows(),
            left.rows.clone().rows(),
            left.count.clone().rows(),
            first,
            latents,
            k,
            room,
        ),
    }
    left
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn select_exact_rows(
    scores: &[f32],      // [rows, latents]
    bias: &[f32],        // [latents]
    values: &mut [f32],  // [n, k]
    indices: &mut [i32], // [n, k]
    left: &mut [u32],    // [rows]
    left_count: &[Atomic<u32>],
    first_row: usize,
    latents: usize,
    k: usize,
    #[comptime] room: usize,
) {
    // Exact scores have no use for the rest.
    select_row(
        scores, bias, scores, scores, scores, scores, scores, scores, values, indices, left,
        left_count, first_row, latents, 0usize, k, room, false,
    );
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn select_rounded_rows(
    scores: &[f32],      // [rows, latents], of rows over their scales
    bias: &[f32],        // [latents]
    x: &[f32],           // [n, d]
    w: &[f32],           // [latents, d]
    x_scale: &[f32],     // [n]
    x_bound: &[f32],     // [n]
    w_scale: &[f32],     // [latents]
    w_bound: &[f32],     // [latents]
    values: &mut [f32],  // [n, k]
    indices: &mut [i32], // [n, k]
    left: &mut [u32],    // [rows]
    left_count: &[Atomic<u32>],
    first_row: usize,
    latents: usize,
    d: usize,
    k: usize,
    #[comptime] room: usize,
) {
    select_row(
        scores, bias, x, w, x_scale, x_bound, w_scale, w_bound, values, indices, left, left_count,
        first_row, latents, d, k, room, true,
    );
}

/// The row of a tile that this cube has.
#[cube]
#[allow(clippy::too_many_arguments)]
fn select_row(
    scores: &[f32],
    bias: &[f32],        // [latents]
    x: &[f32],           // [n, d]
    w: &[f32],           // [latents, d]
    x_scale: &[f32],     // [n]
    x_bound: &[f32],     // [n]
    w_scale: &[f32],     // [latents]
    w_bound: &[f32],     // [latents]
    values: &mut [f32],  // [n, k]
    indices: &mut [i32], // [n, k]
    left: &mut [u32],    // [rows]
    left_count: &[Atomic<u32>],
    first_row: usize,
    latents: usize,
    d: usize,
    k: usize,
    #[comptime] room: usize, // a power of two of at least `k`
    #[comptime] rounded: bool,
) {
    let scores_at = CUBE_POS * latents;
    let row = first_row + CUBE_POS;
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;

    let mut best = Shared::<[u32]>::new_slice(UNITS as usize);
    let mut threshold = Shared::<[u32]>::new_slice(1usize);
    let found = Shared::<[Atomic<u32>]>::new_slice(1usize);
    let mut keys = Shared::<[u32]>::new_slice(room);
    let mut order = Shared::<[u32]>::new_slice(room);

    let mut scale = 1.0f32;
    let mut bound = 0.0f32;
    if comptime!(rounded) {
        scale = x_scale[row];
        bound = x_bound[row];
    }

    // 0 is below every key.
    let mut mine = 0u32;
    let mut latent = unit;
    while latent < latents {
        let key = key_at(
            scores[scores_at + latent],
            bias,
            w_scale,
            w_bound,
            latent,
            scale,
            bound,
            false,
            rounded,
        );
        mine = select(key > mine, key, mine);
        latent += units;
    }
    best[unit] = mine;
    if unit == 0 {
        found[0].store(0u32);
    }
    let mut slot = unit;
    while slot < room {
        keys[slot] = 0u32;
        order[slot] = 0xFFFF_FFFFu32;
        slot += units;
    }
    sync_cube();
    let mut higher = 0u32;
    for other in 0..units {
        let that = best[other];
        if that > mine || (that == mine && other < unit) {
            higher += 1u32;
        }
    }
    if higher == k as u32 - 1u32 {
        threshold[0] = mine;
    }
    sync_cube();

    let least = threshold[0];
    let mut latent = unit;
    while latent < latents {
        let key = key_at(
            scores[scores_at + latent],
            bias,
            w_scale,
            w_bound,
            latent,
            scale,
            bound,
            true,
            rounded,
        );
        if key >= least {
            let slot = found[0].fetch_add(1u32) as usize;
            if slot < room {
                keys[slot] = key;
                order[slot] = latent as u32;
            }
        }
        latent += units;
    }
    sync_cube();
    let all = found[0].load() as usize;
    if comptime!(rounded) {
        let lanes = PLANE_DIM as usize;
        let lane = UNIT_POS_PLANE as usize;
        let mut here = all;
        if here > room {
            here = 0;
        }
        let mut slot = unit / lanes;
        while slot < here {
            let latent = order[slot] as usize;
            let mut sum = 0.0f32;
            let mut column = lane;
            while column < d {
                sum += x[row * d + column] * w[latent * d + column];
                column += lanes;
            }
            let sum = sum_in_plane(sum);
            if lane == 0 {
                keys[slot] = key_of(sum + bias[latent]);
            }
            slot += units / lanes;
        }
        sync_cube();
    }

    sort(&mut keys, &mut order, room);
    if all <= room {
        let mut winner = unit;
        while winner < k {
            values[row * k + winner] = score_of(keys[winner]);
            indices[row * k + winner] = order[winner] as i32;
            winner += units;
        }
    } else if unit == 0 {
        left[left_count[0].fetch_add(1u32) as usize] = CUBE_POS as u32;
    }
}

/// The key of a latent's score, or of the highest or lowest that it can be where it is of rounded
/// rows.
#[cube]
#[allow(clippy::too_many_arguments)]
fn key_at(
    score: f32,
    bias: &[f32],
    w_scale: &[f32],
    w_bound: &[f32],
    latent: usize,
    scale: f32,
    bound: f32,
    #[comptime] highest: bool,
    #[comptime] rounded: bool,
) -> u32 {
    if comptime!(rounded) {
        let score = score * (scale * w_scale[latent]) + bias[latent];
        key_within(score, bound * w_bound[latent], highest)
    } else {
        key_of(score + bias[latent])
    }
}

/// The key of the highest or the lowest value that a score can have which is off by at most
/// `bound`, by four ulps of its own, and by what is lost below f32's normal numbers.
#[cube]
fn key_within(score: f32, bound: f32, #[comptime] highest: bool) -> u32 {
    let off = bound + f32::abs(score) * 2.4e-7f32 + 1e-38f32;
    // By bits, because shader compilers may assume that there is no NaN.
    let unknown = (u32::reinterpret(off) & 0x7F80_0000u32) == 0x7F80_0000u32;
    if comptime!(highest) {
        select(unknown, 0xFFFF_FFFFu32, key_of(score + off))
    } else {
        let lowest = key_of(f32::reinterpret(0xFF80_0000u32));
        select(unknown, lowest, key_of(score - off))
    }
}

/// Bitonic: larger key first, of equal keys the lower latent.
#[cube]
#[allow(clippy::manual_swap)] // CubeCL compiles no `swap`.
pub(crate) fn sort(keys: &mut [u32], order: &mut [u32], #[comptime] room: usize) {
    let unit = UNIT_POS as usize;
    let mut size = 2usize;
    while size <= room {
        let mut stride = size / 2;
        while stride > 0 {
            let mut pair = unit;
            while pair < room / 2 {
                let low = 2 * pair - (pair & (stride - 1));
                let high = low + stride;
                let swapped =
                    keys[low] < keys[high] || (keys[low] == keys[high] && order[low] > order[high]);
                // CUDA's compiler has no comparison of truths.
                let rises = (low & size) != 0;
                if (swapped && !rises) || (!swapped && rises) {
                    let key = keys[low];
                    keys[low] = keys[high];
                    keys[high] = key;
                    let latent = order[low];
                    order[low] = order[high];
                    order[high] = latent;
                }
                pair += UNITS as usize;
            }
            sync_cube();
            stride /= 2;
        }
        size *= 2;
    }
}
