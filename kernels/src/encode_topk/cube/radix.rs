//! The `k` best of each row of scores by radix selection: the `k`th largest score is found eight
//! bits per pass, then the winners are gathered and sorted. For any `k` and any scores.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::order::{key_of, score_of};
use super::select::{LeftOver, sort};
use super::{Codes, Product};
use crate::gpu::{Rows, UNITS, dims2, sum_in_plane};

/// Winners that one launch finds for a row: what fits, sorted, in 16 KiB of shared memory beside
/// the counters.
const MOST_WINNERS: usize = 1024;

/// Sizes of the sorted list that a kernel is compiled for: powers of two, few, because compiling
/// takes longer than sorting.
const ROOMS: [usize; 3] = [64, 256, MOST_WINNERS];

/// Cubes that serve the rows that were left over, which are few or none.
const CUBES_FOR_FEW: u32 = 264;

fn room_for(winners: usize) -> usize {
    ROOMS[ROOMS.partition_point(|&room| room < winners)]
}

/// Writes the `k` best of each row of `scores + bias` to the codes from row `first` on.
pub(crate) fn rank(
    scores: &CubeTensor, // [rows, latents]
    bias: &CubeTensor,   // [latents]
    codes: &Codes,
    first: usize,
) {
    let [rows, latents] = dims2(scores);
    let [_, k] = dims2(&codes.values);
    for found in (0..k).step_by(MOST_WINNERS) {
        let winners = MOST_WINNERS.min(k - found);
        topk_rows::launch(
            &scores.client,
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            scores.clone().rows(),
            bias.clone().rows(),
            codes.values.clone().rows(),
            codes.indices.clone().rows(),
            first,
            latents,
            k,
            found,
            winners,
            room_for(winners),
            found > 0,
        );
    }
}

/// The same for the rows of a tile that were left over. Scores of rounded rows are first replaced
/// by those of the rows themselves.
pub(crate) fn rank_left_over(
    product: &Product,
    left: &LeftOver,
    scores: &CubeTensor,
    bias: &CubeTensor,
    codes: &Codes,
    first: usize,
) {
    let ([_, latents], [_, k], [_, d]) = (dims2(scores), dims2(&codes.values), dims2(&product.x));
    assert!(k <= MOST_WINNERS, "more winners than one launch finds");
    if product.rounded.is_some() {
        score_left_rows::launch(
            &scores.client,
            CubeCount::Static(CUBES_FOR_FEW, 1, 1),
            CubeDim::new_1d(UNITS),
            product.x.clone().rows(),
            product.w.clone().rows(),
            scores.clone().rows(),
            left.rows.clone().rows(),
            left.count.clone().rows(),
            first,
            latents,
            d,
        );
    }
    topk_left_rows::launch(
        &scores.client,
        CubeCount::Static(CUBES_FOR_FEW, 1, 1),
        CubeDim::new_1d(UNITS),
        scores.clone().rows(),
        bias.clone().rows(),
        codes.values.clone().rows(),
        codes.indices.clone().rows(),
        left.rows.clone().rows(),
        left.count.clone().rows(),
        first,
        latents,
        k,
        room_for(k),
    );
}

/// The row `row` of a tile, whose first is row `first_row` of the codes.
#[cube]
#[allow(clippy::too_many_arguments)]
fn topk_row(
    scores: &[f32],      // [rows, latents]
    bias: &[f32],        // [latents]
    values: &mut [f32],  // [n, k]
    indices: &mut [i32], // [n, k]
    row: usize,
    first_row: usize,
    latents: usize,
    k: usize,
    found: usize,
    winners: usize,
    #[comptime] room: usize, // a power of two of at least `winners`
    #[comptime] continued: bool,
) {
    let scores_at = row * latents;
    let codes_at = (first_row + row) * k;
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;

    let histogram = Shared::<[Atomic<u32>]>::new_slice(256usize);
    // the key so far, and how many are still to find
    let mut chosen = Shared::<[u32]>::new_slice(2usize);
    let mut above = Shared::<[u32]>::new_slice(UNITS as usize);
    let mut equal = Shared::<[u32]>::new_slice(UNITS as usize);
    let mut keys = Shared::<[u32]>::new_slice(room);
    let mut order = Shared::<[u32]>::new_slice(room);

    let mut last_key = 0xFFFF_FFFFu32;
    let mut last_latent = 0usize;
    if comptime!(continued) {
        last_key = key_of(values[codes_at + found - 1]);
        last_latent = indices[codes_at + found - 1] as usize;
    }

    // The winners-th largest key, eight bits a pass.
    if unit == 0 {
        chosen[0] = 0u32;
        chosen[1] = winners as u32;
    }
    #[unroll]
    for pass in 0..4u32 {
        let shift = comptime!(24 - 8 * pass);
        histogram[unit].store(0u32);
        sync_cube();
        let prefix = chosen[0];
        let mut latent = unit;
        while latent < latents {
            let key = key_of(scores[scores_at + latent] + bias[latent]);
            let mut counts = true;
            if comptime!(continued) {
                counts = key < last_key || (key == last_key && latent > last_latent);
            }
            if comptime!(pass > 0) {
                counts = counts
                    && (key >> comptime!(32 - 8 * pass)) == (prefix >> comptime!(32 - 8 * pass));
            }
            if counts {
                histogram[((key >> shift) & 255u32) as usize].fetch_add(1u32);
            }
            latent += units;
        }
        sync_cube();
        if unit == 0 {
            let mut left = chosen[1];
            let mut bin = 255u32;
            let mut searching = true;
            while searching {
                let count = histogram[bin as usize].load();
                if count >= left || bin == 0u32 {
                    searching = false;
                } else {
                    left -= count;
                    bin -= 1u32;
                }
            }
            chosen[0] = prefix | (bin << shift);
            chosen[1] = left;
        }
        sync_cube();
    }
    let threshold = chosen[0];
    let ties = chosen[1]; // how many of those equal to the threshold win: the first ones

    // Each unit counts its run of latents, so that it knows where its winners go.
    let run = latents.div_ceil(units);
    let start = unit * run;
    let mut end = start + run;
    if end > latents {
        end = latents;
    }
    let mut my_above = 0u32;
    let mut my_equal = 0u32;
    let mut latent = start;
    while latent < end {
        let key = key_of(scores[scores_at + latent] + bias[latent]);
        let mut counts = true;
        if comptime!(continued) {
            counts = key < last_key || (key == last_key && latent > last_latent);
        }
        if counts && key > threshold {
            my_above += 1u32;
        }
        if counts && key == threshold {
            my_equal += 1u32;
        }
        latent += 1;
    }
    above[unit] = my_above;
    equal[unit] = my_equal;
    let mut slot = unit;
    while slot < room {
        keys[slot] = 0u32;
        order[slot] = 0xFFFF_FFFFu32;
        slot += units;
    }
    sync_cube();
    let mut above_before = 0u32;
    let mut equal_before = 0u32;
    for other in 0..unit {
        above_before += above[other];
        equal_before += equal[other];
    }
    let mut latent = start;
    while latent < end {
        let key = key_of(scores[scores_at + latent] + bias[latent]);
        let mut counts = true;
        if comptime!(continued) {
            counts = key < last_key || (key == last_key && latent > last_latent);
        }
        if counts && (key > threshold || (key == threshold && equal_before < ties)) {
            let slot = (above_before + select(equal_before < ties, equal_before, ties)) as usize;
            keys[slot] = key;
            order[slot] = latent as u32;
        }
        if counts && key > threshold {
            above_before += 1u32;
        }
        if counts && key == threshold {
            equal_before += 1u32;
        }
        latent += 1;
    }
    sync_cube();

    sort(&mut keys, &mut order, room);
    let mut winner = unit;
    while winner < winners {
        values[codes_at + found + winner] = score_of(keys[winner]);
        indices[codes_at + found + winner] = order[winner] as i32;
        winner += units;
    }
}

/// The scores, without bias, of rows that are left over. Planes divide the latents among
/// themselves.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn score_left_rows(
    x: &[f32],          // [n, d]
    w: &[f32],          // [latents, d]
    scores: &mut [f32], // [rows, latents]
    left: &[u32],
    count: &[u32],
    first_row: usize,
    latents: usize,
    d: usize,
) {
    let lanes = PLANE_DIM as usize;
    let lane = UNIT_POS_PLANE as usize;
    let planes = UNITS as usize / lanes;
    let total = count[0] as usize;
    for at in 0..total {
        let row = left[at] as usize;
        let x_at = (first_row + row) * d;
        let mut latent = CUBE_POS * planes + UNIT_POS as usize / lanes;
        while latent < latents {
            let mut sum = 0.0f32;
            let mut column = lane;
            while column < d {
                sum += x[x_at + column] * w[latent * d + column];
                column += lanes;
            }
            let sum = sum_in_plane(sum);
            if lane == 0 {
                scores[row * latents + latent] = sum;
            }
            latent += CUBE_COUNT * planes;
        }
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn topk_left_rows(
    scores: &[f32],
    bias: &[f32],
    values: &mut [f32],
    indices: &mut [i32],
    left: &[u32],
    count: &[u32],
    first_row: usize,
    latents: usize,
    k: usize,
    #[comptime] room: usize,
) {
    let total = count[0] as usize;
    let mut at = CUBE_POS;
    while at < total {
        topk_row(
            scores,
            bias,
            values,
            indices,
            left[at] as usize,
            first_row,
            latents,
            k,
            0usize,
            k,
            room,
            false,
        );
        sync_cube();
        at += CUBE_COUNT;
    }
}

/// Writes columns `found..found + winners` of one row of codes. Where earlier launches wrote the
/// columns before, only what comes after their last code takes part.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn topk_rows(
    scores: &[f32],      // [rows, latents]
    bias: &[f32],        // [latents]
    values: &mut [f32],  // [n, k]
    indices: &mut [i32], // [n, k]
    first_row: usize,
    latents: usize,
    k: usize,
    found: usize,
    winners: usize,
    #[comptime] room: usize, // a power of two of at least `winners`
    #[comptime] continued: bool,
) {
    topk_row(
        scores, bias, values, indices, CUBE_POS, first_row, latents, k, found, winners, room,
        continued,
    );
}
