//! Vectors in 8-bit integers, each with its own scale: its largest magnitude over 127.

use std::sync::Mutex;

use super::{Format, PARTS, Quantized, SHIFT};
use crate::host::widest_vectors;
use crate::norms::{LARGEST, Norms, SMALLEST, largest, norms};

/// Rows are unsigned, 128 added, as the instructions want them.
pub(crate) struct EightBits;

impl Format for EightBits {
    type Row = u8;
    type Column = i8;
    const ZERO: u8 = 128;
    const DEPTH: usize = 4;
    const SECOND: bool = true;
    const KEPT_ERROR: f32 = 0.0;

    fn row(v: &[f32], integers: &mut [u8]) -> Option<Quantized> {
        quantize(v, |factor| round(v, factor, integers))
    }

    fn column(v: &[f32], integers: &mut [i8], second: &mut [i8]) -> Option<Quantized> {
        quantize(v, |factor| round_twice(v, factor, integers, second))
    }

    fn offset(column: &[i8]) -> i32 {
        -128 * column.iter().map(|q| i32::from(*q)).sum::<i32>()
    }

    fn number(row: u8) -> f32 {
        f32::from(row) - 128.0
    }

    fn as_column(row: u8) -> i8 {
        row.wrapping_sub(128) as i8
    }

    fn memory() -> &'static Mutex<Vec<u8>> {
        static SPARE: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        &SPARE
    }
}

/// The scale of `v`, once `round` has written integers for the factor it is given and returned sums
/// of squares: of the integers, of what rounding took away, and of what is missing with the second
/// integers. None if there are numbers beyond any bound; `round` is not called then, nor where all
/// numbers count as 0.
fn quantize(v: &[f32], round: impl FnOnce(f32) -> [f32; 3]) -> Option<Quantized> {
    let largest = largest(v);
    if largest.is_nan() || largest > LARGEST {
        return None;
    }
    if largest < SMALLEST {
        return Some(Quantized::nothing(norms(v)?.whole()));
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

/// Numbers that are rounded together.
const WIDTH: usize = 16;

widest_vectors! {
    /// Rounds to the nearest integer and adds 128; sums of squares as [`quantize`] wants them, with
    /// no second integers.
    fn round(v: &[f32], factor: f32, integers: &mut [u8]) -> [f32; 3] {
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
    fn round_twice(v: &[f32], factor: f32, integers: &mut [i8], second: &mut [i8]) -> [f32; 3] {
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
