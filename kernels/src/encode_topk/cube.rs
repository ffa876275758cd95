//! TopK in CubeCL, for WGPU and CUDA: a dense product of as many rows as fit in a bounded tile, then one cube a row finds the
//! `k`th largest score by radix selection, gathers the winners and sorts them.
//!
//! The product is cubek's without tensor cores: those would round f32 inputs to TF32, and the choice would no longer be
//! that of the f32 scores.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::{launch::launch_ref, multi_level, strategy::Strategy};
use cubek::std::InputBinding;

use super::EncodeTopK;
use crate::gpu::{UNITS, dims2, empty, floats};

/// Most bytes of a tile of scores. WGPU adapters bind 128 MiB at least.
const TILE_BYTES: usize = 64 << 20;

/// Most rows of a tile: one cube each, within every adapter's limit.
const TILE_ROWS: usize = 32_768;

/// Winners that one launch finds for a row: what fits, sorted, in 16 KiB of shared memory beside the counters.
const MOST_WINNERS: usize = 1024;

/// Sizes of the sorted list that a kernel is compiled for: powers of two, few, because compiling takes longer than sorting.
const ROOMS: [usize; 3] = [64, 256, MOST_WINNERS];

impl EncodeTopK for CubeBackend {
    fn topk(
        x: CubeTensor,
        w_enc: CubeTensor,
        b_enc: CubeTensor,
        k: usize,
    ) -> (CubeTensor, CubeTensor) {
        let [n, _] = dims2(&x);
        let (x, w_enc, b_enc) = (floats(x), floats(w_enc), floats(b_enc));
        let values = empty(&x, [n, k], DType::F32);
        let indices = empty(&x, [n, k], DType::I32);
        for_each_tile(x, w_enc, |first, _, scores| {
            rank(&scores, &b_enc, &values, &indices, first, k);
        });
        (values, indices)
    }
}

/// Calls `use_tile` with the first row, the number of rows and the scores `[rows, F]`, without bias, of one tile after another.
pub(crate) fn for_each_tile(
    x: CubeTensor,
    w_enc: CubeTensor,
    mut use_tile: impl FnMut(usize, usize, CubeTensor),
) {
    let ([n, d], [latents, _]) = (dims2(&x), dims2(&w_enc));
    let rows_a_tile = (TILE_BYTES / 4 / latents).clamp(1, TILE_ROWS);
    for first in (0..n).step_by(rows_a_tile) {
        let rows = rows_a_tile.min(n - first);
        let tile = if rows == n {
            x.clone()
        } else {
            let rows = Slice::from(first..first + rows);
            floats(CubeBackend::float_slice(
                x.clone(),
                &[rows, Slice::from(0..d)],
            ))
        };
        use_tile(first, rows, product(tile, w_enc.clone()));
    }
}

/// Writes the `k` best of each row of `scores + bias` to the codes `[n, k]` from row `first` on.
pub(crate) fn rank(
    scores: &CubeTensor, // [rows, latents]
    bias: &CubeTensor,   // [latents]
    values: &CubeTensor,
    indices: &CubeTensor,
    first: usize,
    k: usize,
) {
    let [rows, latents] = dims2(scores);
    for found in (0..k).step_by(MOST_WINNERS) {
        let winners = MOST_WINNERS.min(k - found);
        topk_rows::launch(
            &scores.client,
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            scores.clone().into_buffer_arg(),
            bias.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            indices.clone().into_buffer_arg(),
            first,
            latents,
            k,
            found,
            winners,
            ROOMS[ROOMS.partition_point(|&room| room < winners)],
            found > 0,
        );
    }
}

/// `x · wᵀ` in f32, without tensor cores.
pub(crate) fn product(x: CubeTensor, w: CubeTensor) -> CubeTensor {
    let ([rows, _], [latents, _]) = (dims2(&x), dims2(&w));
    let out = empty(&x, [rows, latents], DType::F32);
    let w = CubeBackend::float_transpose(w);
    let f32s = ElemType::Float(FloatKind::F32);
    let client = x.client.clone();
    launch_ref(
        &Strategy::MultiLevel(multi_level::Strategy::SimpleUnit(Default::default())),
        &client,
        InputBinding::new(x.binding(), f32s),
        InputBinding::new(w.binding(), f32s),
        out.clone().binding(),
        &mut MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: f32s,
            rhs: f32s,
            out: f32s,
        }),
    )
    .expect("the product without tensor cores runs on every device");
    out
}

/// Maps scores to integers of the same order: NaN as −∞, −0 as 0. By bits, because shader compilers may assume that NaN
/// and −0 do not occur.
#[cube]
pub(crate) fn key_of(score: f32) -> u32 {
    let bits = u32::reinterpret(score);
    let nan = (bits & 0x7FFF_FFFFu32) > 0x7F80_0000u32;
    let bits = select(nan, 0xFF80_0000u32, bits);
    let bits = select(bits == 0x8000_0000u32, 0u32, bits);
    bits ^ select(bits >> 31u32 == 1u32, 0xFFFF_FFFFu32, 0x8000_0000u32)
}

#[cube]
fn score_of(key: u32) -> f32 {
    f32::reinterpret(key ^ select(key >> 31u32 == 1u32, 0x8000_0000u32, 0xFFFF_FFFFu32))
}

/// Writes columns `found..found + winners` of one row of codes. Where earlier launches wrote the columns before, only what
/// comes after their last code takes part.
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
    let scores_at = CUBE_POS * latents;
    let codes_at = (first_row + CUBE_POS) * k;
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;

    let histogram = Shared::<[Atomic<u32>]>::new_slice(256usize);
    let mut chosen = Shared::<[u32]>::new_slice(2usize); // the key so far, and how many are still to find
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

    // Bitonic sort: larger key first, of equal keys the lower latent.
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
                if swapped == ((low & size) == 0) {
                    let key = keys[low];
                    keys[low] = keys[high];
                    keys[high] = key;
                    let latent = order[low];
                    order[low] = order[high];
                    order[high] = latent;
                }
                pair += units;
            }
            sync_cube();
            stride /= 2;
        }
        size *= 2;
    }
    let mut winner = unit;
    while winner < winners {
        values[codes_at + found + winner] = score_of(keys[winner]);
        indices[codes_at + found + winner] = order[winner] as i32;
        winner += units;
    }
}
