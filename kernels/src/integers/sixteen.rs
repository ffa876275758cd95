//! Vectors in 16-bit integers whose sums of products still fit in an i32: each vector's scale makes
//! its integers' norm at most 46,340, and by the Cauchy-Schwarz inequality a sum of products is at
//! most the product of two norms, so below 2³¹. What rounding takes of a vector of width d is then
//! at most √d / 65,000 of its norm, whatever its numbers are.

use std::sync::Mutex;

use super::{Format, Quantized, SHIFT, WIDEST};
use crate::host::widest_vectors;
use crate::norms::{Norms, SMALLEST, largest, norms};

pub(crate) struct SixteenBits;

/// The norm of a vector over its scale, before it is rounded, is at most this.
const NORM: f32 = 46_000.0;

/// Rounding adds at most √d / 2 to the norm of integers, and 2 is more than f32 may.
const _: () = {
    let most = NORM as i64 + 128 + 2;
    assert!(WIDEST == 4 * 128 * 128 && most * most < 1 << 31);
};

impl Format for SixteenBits {
    type Row = i16;
    type Column = i16;
    const ZERO: i16 = 0;
    const DEPTH: usize = 2;
    const SECOND: bool = false;
    const KEPT_ERROR: f32 = 0.02;

    fn row(v: &[f32], integers: &mut [i16]) -> Option<Quantized> {
        let whole = norms(v)?.whole();
        let largest = largest(v);
        if largest < SMALLEST {
            return Some(Quantized::nothing(whole));
        }
        let factor = (NORM / whole).min(f32::from(i16::MAX) / largest);
        let [approximate, error] = round(v, factor, integers);
        let scale = 1.0 / factor;
        let mut norms = Norms::from_squares(scale, approximate, error);
        // v · factor and 1 / factor are rounded, each number by a relative 2⁻²⁴.
        norms.error += 2.0 * f32::EPSILON * whole;
        Some(Quantized {
            scale,
            norms,
            second_error: norms.error,
        })
    }

    fn column(v: &[f32], integers: &mut [i16], _second: &mut [i16]) -> Option<Quantized> {
        Self::row(v, integers)
    }

    fn offset(_column: &[i16]) -> i32 {
        0
    }

    fn number(row: i16) -> f32 {
        f32::from(row)
    }

    fn as_column(row: i16) -> i16 {
        row
    }

    fn memory() -> &'static Mutex<Vec<i16>> {
        static SPARE: Mutex<Vec<i16>> = Mutex::new(Vec::new());
        &SPARE
    }
}

/// Numbers that are rounded together.
const WIDTH: usize = 16;

widest_vectors! {
    /// Rounds to the nearest integer. Sums of squares of the integers, and of what rounding took
    /// away.
    fn round(v: &[f32], factor: f32, integers: &mut [i16]) -> [f32; 2] {
        let mut sums = [[0.0f32; WIDTH]; 2];
        let mut one = |v: f32, integer: &mut i16, lane: usize| {
            let scaled = v * factor;
            let shifted = scaled + SHIFT;
            *integer = shifted.to_bits() as i16;
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
        sums.map(|lanes| lanes.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_products_fit_in_an_i32_and_the_error_is_what_it_is_said_to_be() {
        let wave = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 7.0;
        let vectors: [Vec<f32>; 6] = [
            vec![1.0; WIDEST],
            vec![-3e14; 40],
            (0..768).map(wave).collect(),
            (0..768).map(|at| wave(at) * 1e-25).collect(),
            (0..768)
                .map(|at| wave(at) * if at == 9 { 100.0 } else { 1.0 })
                .collect(),
            (0..300).map(|at| f32::from(u8::from(at == 7))).collect(),
        ];
        for v in &vectors {
            let mut integers = vec![0i16; v.len()];
            let known = SixteenBits::row(v, &mut integers).unwrap();
            let square: i64 = integers.iter().map(|q| i64::from(*q).pow(2)).sum();
            assert!(square < 1 << 31, "{square}");
            let norm = |of: &dyn Fn(f64, f64) -> f64| {
                let each = v.iter().zip(&integers);
                let each = each.map(|(v, q)| of(f64::from(*v), f64::from(*q)).powi(2));
                each.sum::<f64>().sqrt()
            };
            let scale = f64::from(known.scale);
            let (error, whole) = (norm(&|v, q| v - scale * q), norm(&|v, _| v));
            let said = f64::from(known.norms.error);
            assert!(
                error <= said && said <= 1.1 * error + 1e-6 * whole,
                "{error} {said}"
            );
            assert!(said <= ((v.len() as f64).sqrt() / 65_000.0 + 1e-6) * whole);
            let approximate = norm(&|_, q| scale * q);
            assert!(approximate <= f64::from(known.norms.approximate));
        }
    }
}
