//! LayerNorm and RMSNorm with their weight and bias.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{PIECE, RowNorm, Rows};
use crate::host::{contiguous, float_tensor, floats, widest_vectors};

/// Sums side by side: as many as vector registers hold without waiting for one another.
const LANES: usize = 32;

pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    norm: RowNorm,
) -> FlexTensor {
    let (x, weight, bias) = (Rows::of(x), contiguous(weight), bias.map(contiguous));
    let (n, d) = (x.n, x.width);
    let (weight, bias) = (floats(&weight), bias.as_ref().map(floats));
    let mut out = vec![0.0; n * d]; // [n, d]
    if d > 0 {
        out.par_chunks_exact_mut(d)
            .with_min_len(PIECE.div_ceil(d))
            .enumerate()
            .for_each(|(r, out)| row(x.row(r), weight, bias, norm, out));
    }
    float_tensor(out, [n, d])
}

fn row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, norm: RowNorm, out: &mut [f32]) {
    let d = x.len() as f32;
    let mean = if norm.centred { sum(x) / d } else { 0.0 };
    let scale = (squares(x, mean) / d + norm.eps).sqrt();
    scaled(x, mean, 1.0 / scale, weight, out);
    if let Some(bias) = bias {
        add(bias, out);
    }
}

widest_vectors! {
    fn sum(x: &[f32]) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += x;
            }
        }
        sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
    }
}

widest_vectors! {
    fn squares(x: &[f32], mean: f32) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += (x - mean) * (x - mean);
            }
        }
        sums.iter().sum::<f32>() + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()
    }
}

widest_vectors! {
    fn scaled(x: &[f32], mean: f32, factor: f32, weight: &[f32], out: &mut [f32]) {
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (x - mean) * factor * weight;
        }
    }
}

widest_vectors! {
    fn add(bias: &[f32], out: &mut [f32]) {
        for (out, bias) in out.iter_mut().zip(bias) {
            *out += bias;
        }
    }
}
