//! How a file stores numbers, and the way back to f32: plain floats, and the blocks of ggml, in
//! which 32 or 256 weights share scales (layout: ggml, `ggml-common.h` and `ggml-quants.c`).

use half::{bf16, f16};

/// A way to store numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)] // ggml's names.
pub(crate) enum Encoding {
    F64,
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Encoding {
    /// By ggml's number.
    pub fn of_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            28 => Self::F64,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Weights and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F64 => (1, 8),
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }

    /// Decodes whole blocks; `out` has as many places as they hold numbers.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (weights, size) = self.block();
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(weights)) {
            match self {
                Self::F64 => {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(block);
                    out[0] = f64::from_le_bytes(bytes) as f32;
                }
                Self::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => out[0] = half_at(block, 0),
                Self::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q8_0 => {
                    let d = half_at(block, 0);
                    let scaled = block[2..].iter().map(|q| d * f32::from(*q as i8));
                    fill(out, scaled);
                }
                Self::Q4_0 => nibbles(half_at(block, 0), -8, 0.0, 0, &block[2..], out),
                Self::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(d, 0, m, 0, &block[4..], out);
                }
                Self::Q5_0 => {
                    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                    nibbles(half_at(block, 0), -16, 0.0, high, &block[6..], out);
                }
                Self::Q5_1 => {
                    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(d, 0, m, high, &block[8..], out);
                }
                Self::Q4_K => k_nibbles(block, None, &block[16..], out),
                Self::Q5_K => k_nibbles(block, Some(&block[16..48]), &block[48..], out),
                Self::Q6_K => six_bits(block, out),
            }
        }
    }
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    for (place, value) in out.iter_mut().zip(values) {
        *place = value;
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 weights `d · (q + shift) + m`: low halves of 16 bytes, then high halves; bit i of `high` is
/// the fifth of weight i.
fn nibbles(d: f32, shift: i32, m: f32, high: u32, quants: &[u8], out: &mut [f32]) {
    let value = |i: usize, q: u8| {
        let fifth = ((high >> i) & 1) << 4;
        d * ((i32::from(q) | fifth as i32) + shift) as f32 + m
    };
    let low = quants.iter().enumerate().map(|(i, q)| value(i, q & 15));
    let upper = quants
        .iter()
        .enumerate()
        .map(|(i, q)| value(i + 16, q >> 4));
    fill(out, low.chain(upper));
}

/// 256 weights in eight parts of 32, each with a scale and a minimum of six bits; `high` has the
/// fifth bits of Q5_K.
fn k_nibbles(block: &[u8], high: Option<&[u8]>, quants: &[u8], out: &mut [f32]) {
    let (d, least) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    let scale_and_min = |j: usize| match j < 4 {
        true => (packed[j] & 63, packed[j + 4] & 63),
        false => (
            (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        ),
    };
    for part in 0..8 {
        let (scale, min) = scale_and_min(part);
        let (scale, min) = (d * f32::from(scale), least * f32::from(min));
        let bytes = &quants[part / 2 * 32..part / 2 * 32 + 32];
        let values = bytes.iter().enumerate().map(|(i, q)| {
            let low = if part % 2 == 0 { q & 15 } else { q >> 4 };
            let fifth = high.map_or(0, |h| ((h[i] >> part) & 1) << 4);
            scale * f32::from(low | fifth) - min
        });
        fill(&mut out[part * 32..], values);
    }
}

/// 256 weights of Q6_K: four low bits, two high ones, sixteen scales.
fn six_bits(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for half in 0..2 {
        for part in 0..4 {
            for i in 0..32 {
                let byte = low[half * 64 + part % 2 * 32 + i];
                let four = if part < 2 { byte & 15 } else { byte >> 4 };
                let two = (high[half * 32 + i] >> (2 * part)) & 3;
                let scale = f32::from(scales[half * 8 + part * 2 + i / 16] as i8);
                let value = d * scale * (i32::from(four | (two << 4)) - 32) as f32;
                out[half * 128 + part * 32 + i] = value;
            }
        }
    }
}
