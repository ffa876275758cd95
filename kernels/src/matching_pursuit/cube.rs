//! Matching pursuit in CubeCL, for WGPU and CUDA: a launch a step, one cube a row. Correlations are
//! f32 throughout, updated by rows of the Gram matrix where that fits into one binding, otherwise a
//! dense product made anew.

use burn::backend::Flex;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, IntDType, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{MatchingPursuit, Pursuit};
use crate::EncoderState;
use crate::encode_topk::cube::{Product, product};
use crate::gpu::{
    PASSES, Rows, UNITS, copied, cube_sum, cubes, dims2, empty, filled, floats, indices, upload,
    zeros,
};
use crate::host;
use crate::sparse_products::SparseProducts;

/// Largest Gram matrix, in numbers: WGPU adapters bind 128 MiB at least.
const GRAM: usize = 1 << 25;

/// Most bytes of steps' gradients that exist at one time.
const PARTS_BYTES: usize = 64 << 20;

impl MatchingPursuit for CubeBackend {
    fn pursue(
        x: CubeTensor,
        atoms: CubeTensor,
        k: usize,
        how: Pursuit,
        state: &EncoderState,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let ([n, d], [latents, _]) = (dims2(&x), dims2(&atoms));
        if how.refit {
            return on_the_host(x, atoms, k, how, state);
        }
        let (x, atoms) = (floats(x), floats(atoms));
        let residual = copied(&x);
        let taken = filled(&x, [n, k], -1, IntDType::I32);
        let values = zeros(&x, [n, k]);
        if k == 0 {
            return (taken, values, residual);
        }
        let gram = (latents * latents <= GRAM && latents <= k * n)
            .then(|| product(atoms.clone(), atoms.clone()));
        let done = filled(&x, [n], 0, IntDType::U32);
        Product::exact(x, atoms.clone()).for_each_tile(|first, rows, mut scores| {
            for step in 0..k {
                if step > 0 && gram.is_none() {
                    let rows = Slice::from(first..first + rows);
                    let left = Self::float_slice(residual.clone(), &[rows, Slice::from(0..d)]);
                    scores = product(floats(left), atoms.clone());
                }
                take_step::launch(
                    &scores.client.clone(),
                    CubeCount::Static(rows as u32, 1, 1),
                    CubeDim::new_1d(UNITS),
                    scores.clone().rows(),
                    gram.as_ref().unwrap_or(&atoms).clone().rows(),
                    atoms.clone().rows(),
                    residual.clone().rows(),
                    taken.clone().rows(),
                    values.clone().rows(),
                    done.clone().rows(),
                    first,
                    latents,
                    d,
                    k,
                    step,
                    how.residual_threshold as f32,
                    how.signed,
                    how.stop_on_duplicate_support,
                    gram.is_some(),
                );
            }
        });
        (taken, values, residual)
    }

    fn pursuit_gradient(
        taken: CubeTensor,
        values: CubeTensor,
        residual: CubeTensor,
        atoms: CubeTensor,
        refit: bool,
        factor: f32,
    ) -> (CubeTensor, CubeTensor) {
        let ([n, k], [latents, d]) = (dims2(&taken), dims2(&atoms));
        let (taken, values) = (indices(taken), floats(values));
        let (residual, atoms) = (floats(residual), floats(atoms));
        let (mut to_atoms, mut to_starts) = (zeros(&atoms, [latents, d]), zeros(&atoms, [1, d]));
        let most = (PARTS_BYTES / 4 / (k * d).max(1)).clamp(1, 32_768);
        for first in (0..if d == 0 { 0 } else { n }).step_by(most) {
            let rows = most.min(n - first);
            let parts = empty(&atoms, [(rows * k).max(1), d], DType::F32);
            let before = empty(&atoms, [rows, d], DType::F32);
            let starts = empty(&atoms, [rows, d], DType::F32);
            go_back::launch(
                &atoms.client.clone(),
                cubes(rows),
                CubeDim::new_1d(UNITS),
                taken.clone().rows(),
                values.clone().rows(),
                residual.clone().rows(),
                atoms.clone().rows(),
                before.clone().rows(),
                starts.clone().rows(),
                parts.clone().rows(),
                rows,
                first,
                d,
                k,
                factor,
                refit,
            );
            to_starts = Self::float_add(to_starts, Self::float_sum_dim(starts, 0));
            if k > 0 {
                let tile = [Slice::from(first..first + rows), Slice::from(0..k)];
                let steps = Self::int_slice(taken.clone(), &tile);
                let steps = Self::int_reshape(steps, [rows * k, 1].into());
                let any = Self::int_clamp(steps.clone(), (-1i32).into(), 0i32.into());
                let any = Self::int_add_scalar(any, 1i32.into());
                let any = Self::int_into_float(any, FloatDType::F32);
                let steps = Self::int_clamp_min(steps, 0i32.into());
                let (sums, _) = Self::sparse_outer(any, steps, parts, latents);
                to_atoms = Self::float_add(to_atoms, sums);
            }
        }
        (to_atoms, Self::float_reshape(to_starts, [d].into()))
    }
}

/// The same by the CPU's kernel.
fn on_the_host(
    x: CubeTensor,
    atoms: CubeTensor,
    k: usize,
    how: Pursuit,
    state: &EncoderState,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let ([n, d], [latents, _]) = (dims2(&x), dims2(&atoms));
    let (client, device) = (x.client.clone(), x.device.clone());
    let read = |tensor: CubeTensor, shape: [usize; 2]| {
        let bytes = client.read_one_unchecked(floats(tensor).handle);
        let numbers = f32::from_bytes(&bytes)[..shape[0] * shape[1]].to_vec();
        host::float_tensor(numbers, shape)
    };
    let (x, atoms) = (read(x, [n, d]), read(atoms, [latents, d]));
    let (taken, values, residual) = Flex::pursue(x, atoms, k, how, state);
    let numbers = |tensor: &burn_flex::FlexTensor, shape| {
        upload(
            &client,
            &device,
            f32::as_bytes(host::floats(tensor)),
            shape,
            DType::F32,
        )
    };
    (
        upload(
            &client,
            &device,
            i32::as_bytes(host::indices(&taken)),
            [n, k],
            DType::I32,
        ),
        numbers(&values, [n, k]),
        numbers(&residual, [n, d]),
    )
}

/// One step of each row of a tile that begins with the row `first`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn take_step(
    scores: &mut [f32],   // [rows, latents]
    gram: &[f32],         // [latents, latents]
    atoms: &[f32],        // [latents, d]
    residual: &mut [f32], // [n, d]
    taken: &mut [i32],    // [n, k]
    values: &mut [f32],   // [n, k]
    done: &mut [u32],     // [n]
    first: usize,
    latents: usize,
    d: usize,
    k: usize,
    step: usize,
    threshold: f32,
    #[comptime] signed: bool,
    #[comptime] stop_on_duplicate: bool,
    #[comptime] by_gram: bool,
) {
    let row = first + CUBE_POS;
    let scores_at = CUBE_POS * latents;
    let row_at = row * d;
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let mut sums = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut best_atoms = Shared::<[u32]>::new_slice(UNITS as usize);
    if done[row] == 0u32 {
        // The best of each unit's atoms, then of all.
        let mut size = 0.0f32;
        let mut atom = 0xFFFF_FFFFu32;
        let mut latent = unit;
        while latent < latents {
            let mut score = scores[scores_at + latent];
            if comptime!(signed) {
                score = score.abs();
            }
            if score > size {
                size = score;
                atom = latent as u32;
            }
            latent += units;
        }
        sums[unit] = size;
        best_atoms[unit] = atom;
        sync_cube();
        #[unroll]
        for pass in 0..PASSES {
            let half = comptime!((UNITS >> (pass + 1)) as usize);
            if unit < half {
                let other = sums[unit + half];
                let other_atom = best_atoms[unit + half];
                let mine = sums[unit];
                if other > mine || (other == mine && other_atom < best_atoms[unit]) {
                    sums[unit] = other;
                    best_atoms[unit] = other_atom;
                }
            }
            sync_cube();
        }
        let chosen = best_atoms[0];
        let fits = sums[0] > 0.0f32;
        let atom_at = select(fits, chosen, 0u32) as usize * d;
        let mut product = 0.0f32;
        let mut column = unit;
        while column < d {
            product += atoms[atom_at + column] * residual[row_at + column];
            column += units;
        }
        let value = cube_sum(product, &mut sums, false);
        let mut gains = value > 0.0f32;
        if comptime!(signed) {
            gains = value != 0.0f32;
        }
        // Neither infinite nor NaN.
        gains = gains && fits && (u32::reinterpret(value) & 0x7F80_0000u32) != 0x7F80_0000u32;
        if gains {
            let mut square = 0.0f32;
            let mut column = unit;
            while column < d {
                let left = residual[row_at + column] - value * atoms[atom_at + column];
                residual[row_at + column] = left;
                square += left * left;
                column += units;
            }
            if comptime!(by_gram) {
                let gram_at = chosen as usize * latents;
                let mut latent = unit;
                while latent < latents {
                    scores[scores_at + latent] -= value * gram[gram_at + latent];
                    latent += units;
                }
            }
            let square = cube_sum(square, &mut sums, false);
            let mut stops = square.sqrt() < threshold;
            if comptime!(stop_on_duplicate) {
                let mut again = 0.0f32;
                let mut earlier = unit;
                while earlier < step {
                    if taken[row * k + earlier] == chosen as i32 {
                        again = 1.0f32;
                    }
                    earlier += units;
                }
                stops = stops || cube_sum(again, &mut sums, false) > 0.0f32;
            }
            if unit == 0 {
                taken[row * k + step] = chosen as i32;
                values[row * k + step] = value;
                if stops {
                    done[row] = 1u32;
                }
            }
        } else if unit == 0 {
            done[row] = 1u32;
        }
    }
}

/// The way back through the steps of rows from `first` on; rows of `before`, `starts` and `parts`
/// are counted from there.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn go_back(
    taken: &[i32],      // [n, k]
    values: &[f32],     // [n, k]
    residual: &[f32],   // [n, d]
    atoms: &[f32],      // [latents, d]
    before: &mut [f32], // [rows, d]
    starts: &mut [f32], // [rows, d]
    parts: &mut [f32],  // [rows, k, d]
    rows: usize,
    first: usize,
    d: usize,
    k: usize,
    factor: f32,
    #[comptime] refit: bool,
) {
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let mut sums = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut row = CUBE_POS;
    while row < rows {
        let at = row * d;
        let mut column = unit;
        while column < d {
            let left = residual[(first + row) * d + column];
            before[at + column] = left;
            starts[at + column] = 2.0f32 * factor * left;
            column += units;
        }
        let mut gone = 0usize;
        while gone < k {
            let step = k - 1 - gone;
            let atom = taken[(first + row) * k + step];
            let value = values[(first + row) * k + step];
            let part_at = (row * k + step) * d;
            if atom >= 0 {
                let atom_at = atom as usize * d;
                let mut along = 0.0f32;
                if comptime!(!refit) {
                    let mut product = 0.0f32;
                    let mut column = unit;
                    while column < d {
                        product += starts[at + column] * atoms[atom_at + column];
                        column += units;
                    }
                    along = -cube_sum(product, &mut sums, false);
                }
                let mut column = unit;
                while column < d {
                    let g = starts[at + column];
                    let number = atoms[atom_at + column];
                    if comptime!(refit) {
                        parts[part_at + column] = -value * g;
                    } else {
                        let left = before[at + column] + value * number;
                        before[at + column] = left;
                        parts[part_at + column] = along * left - value * g;
                        starts[at + column] = g + along * number;
                    }
                    column += units;
                }
            }
            gone += 1usize;
        }
        row += CUBE_COUNT;
    }
}
