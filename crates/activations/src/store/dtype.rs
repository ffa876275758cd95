//! How a store keeps a number.

use crate::ActivationsError;
use half::f16;
use half::slice::HalfFloatSliceExt;
use lapidary_quantize::{dequantize_row, quantize_row};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What a store keeps of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreDtype {
    /// All of it: 4 bytes.
    F32,
    /// Rounded to nearest even: 2 bytes, the range of f32.
    Bf16,
    /// Rounded to nearest even: 2 bytes; values beyond 65,504 are refused.
    F16,
    /// 8-bit integers and one f32 scale a row, which is the row's largest magnitude over 127.
    Int8,
}

impl StoreDtype {
    /// Bytes a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// The name in a safetensors header.
    pub(crate) const fn tensor_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Int8 => "I8",
        }
    }
}

/// f16 numbers converted at once, by instructions for it where the processor has them.
const HALVES: usize = 64;

/// Rows encoded, and their scales for int8.
#[derive(Default, Clone)]
pub(crate) struct Encoded {
    /// Of these the first `filled` count: memory that was used before is not zeroed again.
    memory: Vec<u8>,
    filled: usize,
    pub scales: Vec<u8>,
}

impl Encoded {
    /// The rows' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    /// Forgets the rows but keeps their memory.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.scales.clear();
    }

    /// So many more bytes, to be written.
    fn more(&mut self, n: usize) -> &mut [u8] {
        let start = self.filled;
        self.filled += n;
        if self.memory.len() < self.filled {
            self.memory.resize(self.filled, 0);
        }
        &mut self.memory[start..self.filled]
    }
}

/// Appends `rows`, `[n, d]` flat, to `out`. The caller has checked that they are finite.
pub(crate) fn encode(
    dtype: StoreDtype,
    rows: &[f32],
    d: usize,
    hook: &str,
    out: &mut Encoded,
) -> Result<(), ActivationsError> {
    let width = d * dtype.bytes();
    let n = rows.len() / d;
    let mut of_rows = std::mem::take(&mut out.scales);
    let targets = out.more(n * width).par_chunks_exact_mut(width);
    match dtype {
        StoreDtype::F32 => targets.zip(rows.par_chunks_exact(d)).for_each(|(to, row)| {
            for (to, x) in to.chunks_exact_mut(4).zip(row) {
                to.copy_from_slice(&x.to_le_bytes());
            }
        }),
        StoreDtype::Bf16 => targets.zip(rows.par_chunks_exact(d)).for_each(|(to, row)| {
            for (to, x) in to.chunks_exact_mut(2).zip(row) {
                to.copy_from_slice(&bf16_bits(*x).to_le_bytes());
            }
        }),
        StoreDtype::F16 => {
            let too_large = targets
                .zip(rows.par_chunks_exact(d))
                .map(|(to, row)| {
                    let mut count = 0;
                    let mut halves = [f16::ZERO; HALVES];
                    for (to, row) in to.chunks_mut(2 * HALVES).zip(row.chunks(HALVES)) {
                        let halves = &mut halves[..row.len()];
                        halves.convert_from_f32_slice(row);
                        for (to, half) in to.chunks_exact_mut(2).zip(halves) {
                            count += usize::from(half.is_infinite());
                            to.copy_from_slice(&half.to_le_bytes());
                        }
                    }
                    count
                })
                .sum();
            if too_large > 0 {
                return Err(ActivationsError::TooLarge {
                    hook: hook.into(),
                    count: too_large,
                });
            }
        }
        StoreDtype::Int8 => {
            let scales: Vec<f32> = targets
                .zip(rows.par_chunks_exact(d))
                .map(|(to, row)| quantize_row(row, to))
                .collect::<Result<_, _>>()
                .map_err(|source| ActivationsError::Quantize {
                    hook: hook.into(),
                    source,
                })?;
            of_rows.extend(scales.iter().flat_map(|s| s.to_le_bytes()));
        }
    }
    out.scales = of_rows;
    Ok(())
}

/// Round to nearest even, for finite values: their bits are far enough from the largest u32.
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    // A value that would round up to infinity is kept at the largest finite one.
    rounded - u16::from(rounded & 0x7fff == 0x7f80)
}

/// One row back to f32; `scale` matters to int8 only.
pub(crate) fn decode(dtype: StoreDtype, bytes: &[u8], scale: f32, out: &mut [f32]) {
    match dtype {
        StoreDtype::F32 => {
            for (x, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        StoreDtype::Bf16 => {
            for (x, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *x = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
        }
        StoreDtype::F16 => {
            let mut halves = [f16::ZERO; HALVES];
            for (out, bytes) in out.chunks_mut(HALVES).zip(bytes.chunks(2 * HALVES)) {
                let halves = &mut halves[..out.len()];
                for (half, b) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
                    *half = f16::from_le_bytes([b[0], b[1]]);
                }
                halves.convert_to_f32_slice(out);
            }
        }
        StoreDtype::Int8 => dequantize_row(bytes, scale, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn every_dtype_returns_values_within_its_rounding() {
        let d = 5;
        let rows = [1.0, -2.5, 3.1e-3, 0.0, 127.3, -0.7, 0.2, 0.1, 0.3, -0.05];
        for (dtype, relative, of_row) in [
            (StoreDtype::F32, 0.0, 0.0),
            (StoreDtype::Bf16, 1.0 / 256.0, 0.0),
            (StoreDtype::F16, 1.0 / 2048.0, 0.0),
            (StoreDtype::Int8, 0.0, 0.5 / 127.0 + 1e-6),
        ] {
            let mut encoded = Encoded::default();
            encode(dtype, &rows, d, "h", &mut encoded).unwrap();
            for (i, row) in rows.chunks(d).enumerate() {
                let scale = match dtype {
                    StoreDtype::Int8 => {
                        f32::from_le_bytes(encoded.scales[4 * i..][..4].try_into().unwrap())
                    }
                    _ => 0.0,
                };
                let width = d * dtype.bytes();
                let mut back = [0.0; 5];
                decode(
                    dtype,
                    &encoded.bytes()[i * width..][..width],
                    scale,
                    &mut back,
                );
                let largest = row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                for (x, y) in row.iter().zip(back) {
                    assert!(
                        (x - y).abs() <= relative * x.abs() + of_row * largest,
                        "{dtype:?}: {x} came back as {y}"
                    );
                }
            }
        }
    }

    /// The formula that stores were written with from the start: these bytes are on disks. Rows
    /// whose scale has no finite inverse got the ends of the range. Now they are rounded, too.
    #[test]
    fn int8_bytes_are_those_of_older_stores() {
        let d = 8;
        let mut rows = vec![];
        let mut state = 1_u32;
        for size in [
            1.0e-43, 1.0e-39, 3.0e-37, 1.0e-20, 1.0, 127.0, 1.0e30, 3.0e38, 0.0,
        ] {
            for _ in 0..200 * d {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                rows.push(size * ((state >> 8) as f32 / 8_388_608.0 - 1.0));
            }
        }
        rows.extend([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, -0.0]);
        let (mut bytes, mut scales) = (vec![], vec![]);
        for row in rows.chunks(d) {
            let scale = row.iter().fold(0.0_f32, |m, x| m.max(x.abs())) / 127.0;
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            let quotient = |x: &f32| match inverse.is_finite() {
                true => x * inverse,
                false => x / scale,
            };
            let code = |x: &f32| quotient(x).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
            bytes.extend(row.iter().map(code));
            scales.extend(scale.to_le_bytes());
        }
        let mut encoded = Encoded::default();
        encode(StoreDtype::Int8, &rows, d, "h", &mut encoded).unwrap();
        assert!(encoded.bytes() == bytes && encoded.scales == scales);
        let mut back = vec![0.0; d];
        for (i, scale) in scales.chunks(4).enumerate() {
            let row = &bytes[i * d..][..d];
            let scale = f32::from_le_bytes(scale.try_into().unwrap());
            decode(StoreDtype::Int8, row, scale, &mut back);
            for (x, byte) in back.iter().zip(row) {
                assert_eq!(x.to_bits(), (f32::from(*byte as i8) * scale).to_bits());
            }
        }
    }

    #[test]
    fn bf16_rounds_as_the_library_does() {
        let mut x = 1.0e-30_f32;
        while x < 1.0e30 {
            assert_eq!(bf16_bits(x), bf16::from_f32(x).to_bits());
            assert_eq!(bf16_bits(-x), bf16::from_f32(-x).to_bits());
            x *= 1.000_37;
        }
        assert_eq!(bf16_bits(f32::MAX), 0x7f7f);
    }

    #[test]
    fn what_f16_cannot_hold_is_refused() {
        let error = encode(
            StoreDtype::F16,
            &[1.0, 7.0e4],
            2,
            "blocks.0.hook_resid_post",
            &mut Encoded::default(),
        );
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("blocks.0.hook_resid_post") && error.contains("bf16"),
            "{error}"
        );
    }
}
