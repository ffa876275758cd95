//! Rows rounded to the 11 significant bits of f16, which tensor cores multiply, and a bound on what
//! rounding does to a product of two such rows.
//!
//! A row `v` is stored as `v / s`, where `s` is the power of two at or below its largest magnitude,
//! so rows of all sizes keep their digits. Numbers below 2⁻¹⁴ after that become 0, since hardware
//! may flush f16's subnormal numbers. The rounding error is measured: with `x̂` and `ŵ` the rounded
//! rows,
//!
//! `|x·w − x̂·ŵ| ≤ |x − x̂|·|w| + |x̂|·|w − ŵ|`,
//!
//! and sums of `d` products in f32, on tensor cores and in units, are together off by at most
//! `d·2⁻²³·|x|·|w|`.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use crate::gpu::{Rows, UNITS, cubes, dims2, empty, sum_in_plane, top_in_plane};

/// The least relative rounding error that is assumed of a row. Uniform digits give about
/// 0.4·2⁻¹¹.
const LEAST_ERROR: f32 = 0.45 / 2048.0;

/// A matrix `[rows, d]` for tensor cores.
pub(crate) struct RoundedRows {
    /// Each row divided by its scale, `[rows, d]`.
    pub numbers: CubeTensor,
    /// A power of two for each row, `[rows]`.
    pub scale: CubeTensor,
    /// `[rows]`. An input's bound times a latent's bound is at least the error of their rounded
    /// product. Infinite for a row with a number that is not finite or above 2¹²⁶.
    pub bound: CubeTensor,
}

/// A side of the product.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Side {
    Inputs,
    Latents,
}

/// Rounds the rows of `from` `[rows, d]` to f16.
pub(crate) fn round(from: &CubeTensor, side: Side) -> RoundedRows {
    let [rows, d] = dims2(from);
    let numbers = empty(from, [rows, d], DType::F16);
    let scale = empty(from, [rows], DType::F32);
    let bound = empty(from, [rows], DType::F32);
    round_rows::launch(
        &from.client,
        cubes(rows.div_ceil(4)),
        CubeDim::new_1d(UNITS),
        from.clone().rows(),
        numbers.clone().rows(),
        scale.clone().rows(),
        bound.clone().rows(),
        rows,
        d,
        d as f32 * 2f32.powi(-23),
        LEAST_ERROR,
        side == Side::Latents,
        ElemType::Float(FloatKind::F16),
    );
    RoundedRows {
        numbers,
        scale,
        bound,
    }
}

/// To 11 significant bits, ties to even; below 2⁻¹⁴ to 0. For numbers below 2 in magnitude.
#[cube]
fn rounded(number: f32) -> f32 {
    let bits = u32::reinterpret(number);
    let up = bits + 0xFFFu32 + ((bits >> 13u32) & 1u32);
    let small = (bits & 0x7FFF_FFFFu32) < 0x3880_0000u32;
    f32::reinterpret(select(small, 0u32, up & 0xFFFF_E000u32))
}

/// One plane a row.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn round_rows<H: Float>(
    from: &[f32],      // [rows, d]
    numbers: &mut [H], // [rows, d]
    scale: &mut [f32], // [rows]
    bound: &mut [f32], // [rows]
    rows: usize,
    d: usize,
    sums: f32, // what sums are off by, over both norms
    least_error: f32,
    #[comptime] of_latents: bool,
    #[define(H)] _dtype: ElemType,
) {
    let lanes = PLANE_DIM as usize;
    let lane = UNIT_POS_PLANE as usize;
    let planes = UNITS as usize / lanes;
    let mut row = CUBE_POS * planes + UNIT_POS as usize / lanes;
    while row < rows {
        let mut top = 0u32;
        let mut column = lane;
        while column < d {
            let bits = u32::reinterpret(from[row * d + column]) & 0x7FFF_FFFFu32;
            top = select(bits > top, bits, top);
            column += lanes;
        }
        let top = top_in_plane(top);
        // From 2^126 on, infinite and NaN; below 2^-126.
        let huge = top >= 0x7E80_0000u32;
        let tiny = top < 0x0080_0000u32;
        let exponent = select(huge || tiny, 127u32, top >> 23u32);
        let by = f32::reinterpret(exponent << 23u32);
        let inverse = f32::reinterpret((254u32 - exponent) << 23u32);
        let mut squares = 0.0f32;
        let mut kept = 0.0f32;
        let mut lost = 0.0f32;
        let mut column = lane;
        while column < d {
            let mut number = from[row * d + column] * inverse;
            if huge || tiny {
                number = 0.0f32;
            }
            let short = rounded(number);
            numbers[row * d + column] = H::cast_from(short);
            squares += number * number;
            kept += short * short;
            lost += (number - short) * (number - short);
            column += lanes;
        }
        let (squares, kept) = (sum_in_plane(squares), sum_in_plane(kept));
        let lost = sum_in_plane(lost);
        if lane == 0 {
            // Norms are sums of at least one square of 1 or more, so f32 has them to a few ulps.
            let slack = 1.001f32;
            let (norm, lost) = (squares.sqrt() * slack, lost.sqrt() * slack);
            let most = if comptime!(of_latents) {
                norm * (least_error + sums) + lost
            } else {
                let kept = kept.sqrt() * slack;
                let other = lost / least_error;
                let most = select(norm > kept, norm, kept);
                select(other > most, other, most)
            };
            // A row of zeros, or nearly so, is off by next to nothing.
            let most = select(tiny, 1e-30f32, most * by);
            scale[row] = by;
            bound[row] = select(huge, f32::reinterpret(0x7F80_0000u32), most);
        }
        row += CUBE_COUNT * planes;
    }
}
