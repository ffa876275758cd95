//! The terms of the losses, each a function of tensors to a scalar tensor `[1]`.
//!
//! TopK and BatchTopK minimize `fvu + aux_k_coefficient * aux`, both free of the activations' scale (Gao et al. 2024);
//! standard coders minimize `mse + l1_coefficient * l1` on the scale of SAELens, whose coefficients carry over.

use burn::tensor::{Int, Tensor};
use lapidary_kernels::{SparseCodes, decode_sparse, encode_topk};

use crate::coder::SparseCoder;

/// Squared error of a token, summed over dimensions, mean over tokens.
pub fn mse(x: Tensor<2>, x_hat: Tensor<2>) -> Tensor<1> {
    let n = x.dims()[0].max(1);
    (x_hat - x).square().sum() / n as f64
}

/// Squared distance of a token from the batch's mean, summed over dimensions, mean over tokens: what [`mse`] is
/// divided by to give the fraction of variance unexplained.
pub fn batch_variance(x: Tensor<2>) -> Tensor<1> {
    let mean = x.clone().mean_dim(0); // [1, d]
    let n = x.dims()[0].max(1);
    // A constant batch has no variance to explain; a tiny floor keeps its loss finite.
    ((x - mean).square().sum() / n as f64).clamp_min(1e-12)
}

/// Sum over latents of activation times decoder norm, mean over tokens.
pub fn l1(latents: Tensor<2>, w_dec: Tensor<2>) -> Tensor<1> {
    let n = latents.dims()[0].max(1);
    let norms = w_dec.square().sum_dim(1).sqrt(); // [d_sae, 1]
    latents.matmul(norms).sum() / n as f64
}

/// AuxK: the `k_aux` largest raw pre-activations among the `dead` latents reconstruct the `residual` `[n, d]` that the
/// living left. Returns the fraction of the residual's variance that they leave, times min(dead / k_aux, 1).
///
/// `x` `[n, d]` is centred. The pre-activations take part without ReLU, so the gradient reaches the encoder rows of
/// dead latents even where they are negative; `residual` must carry no gradient.
pub fn aux_k(
    coder: &SparseCoder,
    x: Tensor<2>,
    residual: Tensor<2>,
    dead: Tensor<1, Int>,
    k_aux: usize,
) -> Tensor<1> {
    let n_dead = dead.dims()[0];
    let k = k_aux.min(n_dead);
    let scale = (n_dead as f64 / k_aux as f64).min(1.0);
    let codes: SparseCodes = encode_topk(
        x,
        coder.w_enc.clone().select(0, dead.clone()), // [n_dead, d]
        coder.b_enc.clone().select(0, dead.clone()), // [n_dead]
        k,
    );
    let guess = decode_sparse(codes, coder.w_dec.clone().select(0, dead)); // [n, d]
    let variance = batch_variance(residual.clone());
    mse(residual, guess) / variance * scale
}
