//! On the CPU: TopK's approximate scores and bounds rule latents out, exact scores decide.

use burn::backend::Flex;
use burn_flex::FlexTensor;

use super::EncodeThreshold;
use crate::encode_topk::cpu::{Scored, above::above_thresholds};
use crate::host::{contiguous, dims2, float_tensor, floats, int_tensor};

impl EncodeThreshold for Flex {
    fn above(
        x: FlexTensor,
        w_enc: FlexTensor,
        b_enc: FlexTensor,
        threshold: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        let ([n, d], [latents, _]) = (dims2(&x), dims2(&w_enc));
        let (x, w_enc, b_enc) = (contiguous(x), contiguous(w_enc), contiguous(b_enc));
        let threshold = contiguous(threshold);
        let threshold: Vec<f32> = floats(&threshold).iter().map(|&t| at_least_0(t)).collect();
        let active = above_thresholds(floats(&x), floats(&w_enc), floats(&b_enc), &threshold, d);
        let width = active.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let mut values = Vec::with_capacity(n * width);
        let mut indices = Vec::with_capacity(n * width);
        for (row, active) in (1..).zip(&active) {
            values.extend(active.iter().map(|s| s.value()));
            values.resize(row * width, 0.0);
            indices.extend(active.iter().map(|s| s.latent()));
            indices.extend(others(active, latents).take(width - active.len()));
        }
        (
            float_tensor(values, [n, width]),
            int_tensor(indices, [n, width]),
        )
    }
}

/// The threshold in force: none below 0; one that is NaN is never exceeded.
fn at_least_0(threshold: f32) -> f32 {
    match threshold.is_nan() {
        true => f32::INFINITY,
        false => threshold.max(0.0),
    }
}

/// The latents that are not active, ascending.
fn others(active: &[Scored], latents: usize) -> impl Iterator<Item = i32> {
    let mut taken: Vec<i32> = active.iter().map(|s| s.latent()).collect();
    taken.sort_unstable();
    (0..latents as i32).filter(move |latent| taken.binary_search(latent).is_err())
}
