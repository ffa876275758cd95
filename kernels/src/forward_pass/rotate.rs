//! Rotary embedding of heads (Su et al. 2021).

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{Angles, PIECE, Rows};
use crate::host::{float_tensor, widest_vectors};

pub(super) fn forward(x: FlexTensor, d_head: usize, angles: &Angles) -> FlexTensor {
    let x = Rows::of(x);
    let (n, width, half) = (x.n, x.width, angles.dims / 2);
    let positions = angles.cos.len() / half;
    let mut out = vec![0.0; n * width]; // [n, heads * d_head]
    if width > 0 {
        out.par_chunks_exact_mut(width)
            .with_min_len(PIECE.div_ceil(width))
            .enumerate()
            .for_each(|(r, out)| {
                let at = r % positions * half;
                let (cos, sin) = (&angles.cos[at..][..half], &angles.sin[at..][..half]);
                let heads = x.row(r).chunks_exact(d_head);
                for (x, out) in heads.zip(out.chunks_exact_mut(d_head)) {
                    let ((x, kept), (out, rest)) =
                        (x.split_at(angles.dims), out.split_at_mut(angles.dims));
                    let ((low, high), (out_low, out_high)) =
                        (x.split_at(half), out.split_at_mut(half));
                    turn([low, high], [cos, sin], out_low, out_high);
                    rest.copy_from_slice(kept);
                }
            });
    }
    float_tensor(out, [n, width])
}

widest_vectors! {
    fn turn(x: [&[f32]; 2], angle: [&[f32]; 2], low: &mut [f32], high: &mut [f32]) {
        let ([x, y], [cos, sin]) = (x, angle);
        for ((((low, high), (x, y)), cos), sin) in low.iter_mut().zip(high).zip(x.iter().zip(y)).zip(cos).zip(sin) {
            *low = x * cos - y * sin;
            *high = y * cos + x * sin;
        }
    }
}
