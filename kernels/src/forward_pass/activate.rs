//! The MLP's nonlinearity, alone or as a gate.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::exponential::exp;
use super::{Nonlinearity, PIECE, Rows};
use crate::host::{float_tensor, widest_vectors};

pub(super) fn forward(
    x: FlexTensor,
    linear: Option<FlexTensor>,
    nonlinearity: Nonlinearity,
) -> FlexTensor {
    let (x, linear) = (Rows::of(x), linear.map(Rows::of));
    let (n, d) = (x.n, x.width);
    let of_row = match nonlinearity {
        Nonlinearity::Silu => silu,
        Nonlinearity::GeluTanh => gelu_tanh,
        Nonlinearity::Relu => relu,
    };
    let mut out = vec![0.0; n * d]; // [n, d]
    if d > 0 {
        out.par_chunks_exact_mut(d)
            .with_min_len(PIECE.div_ceil(d))
            .enumerate()
            .for_each(|(r, out)| {
                of_row(x.row(r), out);
                if let Some(linear) = &linear {
                    multiply(linear.row(r), out);
                }
            });
    }
    float_tensor(out, [n, d])
}

widest_vectors! {
    fn silu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x / (1.0 + exp(-x));
        }
    }
}

widest_vectors! {
    /// x · ½ (1 + tanh u) is x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³).
    fn gelu_tanh(x: &[f32], out: &mut [f32]) {
        const TWICE: f32 = 2.0 * 0.797_884_6; // 2 √(2/π)
        for (out, &x) in out.iter_mut().zip(x) {
            let u = TWICE * (x + 0.044_715 * (x * x * x));
            *out = x / (1.0 + exp(-u));
        }
    }
}

widest_vectors! {
    fn relu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            // NaN stays.
            *out = if x < 0.0 { 0.0 } else { x };
        }
    }
}

widest_vectors! {
    fn multiply(linear: &[f32], out: &mut [f32]) {
        for (out, linear) in out.iter_mut().zip(linear) {
            *out *= linear;
        }
    }
}
