//! JumpReLU at inference: a latent is active, with its pre-activation as value, where that is above its threshold
//! (Rajamanoharan et al. 2024, arXiv 2407.14435). Standard coders are the case of threshold 0.

use burn::tensor::Tensor;
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::coder::SparseCoder;

/// Exactly the active latents of `x` `[n, d_in]`, centred, descending by value, as wide as the densest row.
pub(crate) fn encode(coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
    let threshold = match &coder.threshold {
        Some(threshold) => threshold.clone(),
        None => coder.b_enc.zeros_like(),
    };
    encode_threshold(x, coder.w_enc.clone(), coder.b_enc.clone(), threshold)
}
