//! Vectors in 8-bit integers, each with its own scale, its largest magnitude over 127, and with
//! what rounding took of it; their products with AVX-512's VNNI instructions, four times as many a
//! cycle as f32 has, exact in i32.

use std::arch::x86_64::*;

use crate::host::widest_vectors;
use crate::norms::{LARGEST, Norms, SMALLEST, largest};

/// Vectors beside each other in a panel, most panels of a tile, and rows of a tile: 24 sums, 3
/// parts of panels and a part of a row in 32 registers.
pub(crate) const LANES: usize = 16;
pub(crate) const PANELS: usize = 3;
pub(crate) const ROWS: usize = 8;

/// Most vectors in the panels of a tile.
pub(crate) const BLOCK: usize = LANES * PANELS;

/// Products that one instruction adds up in a lane.
pub(crate) const DEPTH: usize = 4;

/// Widest vectors whose sums of products surely fit in an i32.
pub(crate) const WIDEST: usize = 1 << 16;

/// One row or latent in integers, `v ≈ scale · integers`.
pub(crate) struct Quantized {
    pub scale: f32,
    pub norms: Norms,
    /// At least what is missing with the second integers, `v ≈ scale · (integers + second / 254)`.
    pub second_error: f32,
}

/// The scale of `v`, once `round` has written integers for the factor it is given and returned sums
/// of squares: of the integers, of what rounding took away, and of what is missing with the second
/// integers. None if there are numbers beyond any bound; `round` is not called then, nor where all
/// numbers count as 0.
pub(crate) fn quantize(v: &[f32], round: impl FnOnce(f32) -> [f32; 3]) -> Option<Quantized> {
    let largest = largest(v);
    if largest.is_nan() || largest > LARGEST {
        return None;
    }
    if largest < SMALLEST {
        let all = largest * (v.len() as f32).sqrt() * 1.01;
        return Some(Quantized {
            scale: 0.0,
            norms: Norms {
                approximate: 0.0,
                error: all,
            },
            second_error: all,
        });
    }
    let scale = largest / 127.0;
    let [approximate, error, second] = round(127.0 / largest);
    // v / scale is itself rounded, and so is what the second integers are made of: by less than 127
    // · 2⁻²² a number.
    let inexact = v.len() as f32 * (127.0 * 2.0 * f32::EPSILON).powi(2);
    let inexact = scale * inexact.sqrt() * 1.01;
    let mut norms = Norms::from_squares(scale, approximate, error);
    norms.error += inexact;
    Some(Quantized {
        scale,
        norms,
        second_error: Norms::from_squares(scale, 0.0, second).error + inexact,
    })
}

/// Adding this leaves the nearest integer in the last bits.
const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³

/// Numbers that are rounded together.
const WIDTH: usize = 16;

widest_vectors! {
    /// Rounds to the nearest integer and adds 128; sums of squares as [`quantize`] wants them, with
    /// no second integers.
    pub(crate) fn round(v: &[f32], factor: f32, integers: &mut [u8]) -> [f32; 3] {
        let mut sums = [[0.0f32; WIDTH]; 2];
        let mut one = |v: f32, integer: &mut u8, lane: usize| {
            let scaled = v * factor;
            let shifted = scaled + SHIFT;
            *integer = (shifted.to_bits() as u8).wrapping_add(128);
            let near = shifted - SHIFT;
            sums[0][lane] += near * near;
            sums[1][lane] += (scaled - near) * (scaled - near);
        };
        let (blocks, rest) = v.as_chunks::<WIDTH>();
        let (out, out_rest) = integers[..v.len()].as_chunks_mut::<WIDTH>();
        for (v, integers) in blocks.iter().zip(out) {
            for lane in 0..WIDTH {
                one(v[lane], &mut integers[lane], lane);
            }
        }
        for (v, integer) in rest.iter().zip(out_rest) {
            one(*v, integer, 0);
        }
        let [approximate, error] = sums.map(|lanes| lanes.iter().sum());
        [approximate, error, error]
    }
}

widest_vectors! {
    /// Rounds to the nearest integer, and what is left to the nearest 254th.
    pub(crate) fn round_twice(v: &[f32], factor: f32, integers: &mut [i8], second: &mut [i8]) -> [f32; 3] {
        let mut sums = [[0.0f32; WIDTH]; 3];
        let mut one = |v: f32, integer: &mut i8, second: &mut i8, lane: usize| {
            let scaled = v * factor;
            let shifted = scaled + SHIFT;
            *integer = shifted.to_bits() as i8;
            let near = shifted - SHIFT;
            let left = scaled - near;
            let shifted = left * PARTS + SHIFT;
            *second = shifted.to_bits() as i8;
            let missing = left - (shifted - SHIFT) * (1.0 / PARTS);
            sums[0][lane] += near * near;
            sums[1][lane] += left * left;
            sums[2][lane] += missing * missing;
        };
        let (blocks, rest) = v.as_chunks::<WIDTH>();
        let (out, out_rest) = integers[..v.len()].as_chunks_mut::<WIDTH>();
        let (second, second_rest) = second[..v.len()].as_chunks_mut::<WIDTH>();
        for ((v, integers), second) in blocks.iter().zip(out).zip(second) {
            for lane in 0..WIDTH {
                one(v[lane], &mut integers[lane], &mut second[lane], lane);
            }
        }
        for ((v, integer), second) in rest.iter().zip(out_rest).zip(second_rest) {
            one(*v, integer, second, 0);
        }
        sums.map(|lanes| lanes.iter().sum())
    }
}

/// Second integers count parts of the first: half of one is 127 of them.
pub(crate) const PARTS: f32 = 254.0;

/// Writes the integers of the vector `at` into panels `[vectors / LANES, steps, LANES, DEPTH]`.
pub(crate) fn store_panel(integers: &[i8], at: usize, panels: &mut [i8]) {
    let width = integers.len();
    let panel = &mut panels[at / LANES * LANES * width..][..LANES * width];
    let places = panel.as_chunks_mut::<{ LANES * DEPTH }>().0.iter_mut();
    for (place, four) in places.zip(integers.as_chunks::<DEPTH>().0) {
        place[at % LANES * DEPTH..][..DEPTH].copy_from_slice(four);
    }
}

/// `start` and the sums of products of [`ROWS`] rows `[ROWS, steps, DEPTH]` with all vectors of `P`
/// panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) fn sums_of<const P: usize>(
    rows: &[u8],
    panels: &[i8],
    steps: usize,
    start: [__m512i; P],
) -> [[__m512i; P]; ROWS] {
    let width = steps * DEPTH;
    assert!(rows.len() >= ROWS * width && panels.len() >= P * LANES * width);
    let mut sums = [start; ROWS];
    for step in 0..steps {
        // SAFETY: each panel's step lies within the panels, and each row's within the rows, as
        // asserted.
        unsafe {
            let at = panels.as_ptr().add(step * LANES * DEPTH);
            let panels: [__m512i; P] =
                std::array::from_fn(|p| _mm512_loadu_si512(at.add(p * LANES * width).cast()));
            let rows = rows.as_ptr().add(step * DEPTH);
            for (row, sums) in sums.iter_mut().enumerate() {
                let four = rows.add(row * width).cast::<i32>().read_unaligned();
                let four = _mm512_set1_epi32(four);
                for (sum, panel) in sums.iter_mut().zip(&panels) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, *panel);
                }
            }
        }
    }
    sums
}

/// The sum of products of unsigned and signed integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) fn products(a: &[u8], b: &[i8]) -> i32 {
    const BYTES: usize = LANES * DEPTH;
    let mut sum = _mm512_setzero_si512();
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<BYTES>(), b.as_chunks::<BYTES>());
    for (a, b) in a.iter().zip(b) {
        // SAFETY: that many bytes lie in each.
        let (a, b) = unsafe {
            (
                _mm512_loadu_si512(a.as_ptr().cast()),
                _mm512_loadu_si512(b.as_ptr().cast()),
            )
        };
        sum = _mm512_dpbusd_epi32(sum, a, b);
    }
    let rest = a_rest.iter().zip(b_rest);
    let rest: i32 = rest.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
    _mm512_reduce_add_epi32(sum) + rest
}

/// The `p`th vector of numbers from `row` on.
#[inline(always)]
pub(crate) fn vector<T>(v: &[T], row: usize, p: usize) -> &[T; LANES] {
    let v = v[row + p * LANES..].first_chunk();
    v.expect("rows are padded to whole vectors")
}
