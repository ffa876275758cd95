//! One row in symmetric integers of 8 bits, written where the caller wants it.

use crate::affine::Affine;
use crate::error::QuantizeError;
use crate::scheme::{Bits, Scheme};

const SCHEME: Scheme = Scheme::per_row(Bits::Eight);

/// Writes a row of numbers as integers from −127 to 127 (two's complement) and returns its scale:
/// the largest magnitude over 127.
///
/// # Errors
/// [`QuantizeError::NotFinite`] for row 0; [`QuantizeError::Length`] when `out` has another length.
pub fn quantize_row(row: &[f32], out: &mut [u8]) -> Result<f32, QuantizeError> {
    if out.len() != row.len() {
        return Err(QuantizeError::Length {
            what: "bytes for a row",
            found: out.len(),
            expected: row.len(),
        });
    }
    let largest = largest_magnitude(row, 0)?;
    let affine = Affine::of_range(0.0, largest, SCHEME);
    for (to, x) in out.iter_mut().zip(row) {
        *to = affine.code(*x) as u8;
    }
    Ok(affine.scale)
}

/// The numbers of a row that [`quantize_row`] wrote, as many as both have.
pub fn dequantize_row(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let affine = Affine::new(scale, 0, SCHEME);
    for (x, byte) in out.iter_mut().zip(bytes) {
        *x = affine.value(*byte as i8);
    }
}

/// The largest magnitude of a row, which is `row` in errors.
pub(crate) fn largest_magnitude(values: &[f32], row: usize) -> Result<f32, QuantizeError> {
    // Without their sign, floats are ordered as their bits are, and NaN is above infinity.
    let bits = |x: &f32| x.to_bits() & 0x7fff_ffff;
    let largest = f32::from_bits(values.iter().map(bits).max().unwrap_or(0));
    if largest.is_finite() {
        return Ok(largest);
    }
    let column = values.iter().position(|x| !x.is_finite());
    let column = column.unwrap_or_default();
    Err(QuantizeError::NotFinite {
        value: values[column],
        row,
        column,
    })
}
