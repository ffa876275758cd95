//! What each part of a TopK coder's training step costs by itself: where a step's time goes on this
//! device.

use super::sizes::Sizes;
use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};
use lapidary_kernels::{
    AdamStep, EncoderState, Moments, RowUpdate, SparseGradient, encode_topk, latent_sums,
    reconstruct, sparse_adam_step, weighted_sum,
};
use lapidary_sae::losses::batch_variance;
use serde::Serialize;
use std::time::Instant;

/// One of them.
#[derive(Serialize)]
pub struct Part {
    pub name: &'static str,
    /// Seconds of one call, as the mean of several in a row.
    pub seconds: f64,
}

/// Times each part `times` times on random numbers. A step has each of them once, and some small
/// change.
pub fn step_parts(sizes: Sizes, device: &Device, times: usize) -> Result<Vec<Part>> {
    let Sizes {
        d_in: d,
        d_sae,
        k,
        batch_tokens: n,
    } = sizes;
    let normal = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let (x, w) = (normal([n, d]), normal([d_sae, d]));
    let (b_enc, b_dec) = (Tensor::zeros([d_sae], device), Tensor::zeros([d], device));
    let state = EncoderState::default();
    let codes = encode_topk(x.clone(), w.clone(), b_enc.clone(), k, &state);
    let mut parts = Vec::new();
    let mut time = |name, call: &mut dyn FnMut()| -> Result<()> {
        call();
        device.sync()?;
        let start = Instant::now();
        for _ in 0..times {
            call();
        }
        device.sync()?;
        let seconds = start.elapsed().as_secs_f64() / times as f64;
        parts.push(Part { name, seconds });
        Ok(())
    };
    time("encode", &mut || {
        encode_topk(x.clone(), w.clone(), b_enc.clone(), k, &state);
    })?;
    time("variance of the batch", &mut || {
        batch_variance(x.clone());
    })?;
    time("reconstruct", &mut || {
        reconstruct(&codes, w.clone(), b_dec.clone(), x.clone());
    })?;
    time("gradient of b_dec, from the error", &mut || {
        x.clone().sum_dim(0);
    })?;
    time("gradient of b_enc", &mut || {
        latent_sums(&codes, d_sae);
    })?;
    time("gradient of b_dec, through the encoder", &mut || {
        weighted_sum(b_enc.clone(), w.clone());
    })?;
    for (name, unit_rows) in [("update of w_enc", false), ("update of w_dec", true)] {
        let moments = Moments {
            m: w.zeros_like(),
            v: w.zeros_like(),
        };
        let update = RowUpdate {
            adam: AdamStep {
                lr: 1e-4,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step: 1,
            },
            scale: 1.0,
            unit_rows,
        };
        // Weights of its own, so that they are updated in place.
        let mut state = Some((w.clone().mul_scalar(1.0), moments));
        time(name, &mut || {
            if let Some((w, moments)) = state.take() {
                let gradient = SparseGradient {
                    codes: codes.clone(),
                    rows: x.clone(),
                };
                state = Some(sparse_adam_step(w, gradient, moments, &update));
            }
        })?;
    }
    Ok(parts)
}
