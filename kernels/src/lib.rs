//! The hot operations of sparse autoencoders, each with its own CPU and GPU kernel and gradient, and the choice of the
//! device they run on.
//!
//! [`encode_topk`] and [`decode_sparse`] are a TopK coder's forward pass without the `[n, d_sae]` matrix of
//! pre-activations; [`encode_batch_topk`] is the same for BatchTopK; [`adam_step`] updates parameters in one pass.

pub mod device;

use burn::tensor::{Int, Tensor};

/// The `k` latents of each row that are on, and how strongly.
///
/// Indices are always valid rows of the dictionary, also where the value is 0.
#[derive(Debug, Clone)]
pub struct SparseCodes {
    /// Activations, descending within a row. `[n, k]`
    pub values: Tensor<2>,
    /// Which latent each value belongs to; equal values list the lower index first. `[n, k]`
    pub indices: Tensor<2, Int>,
}

/// What [`encode_batch_topk`] found.
#[derive(Debug, Clone)]
pub struct BatchTopK {
    /// The codes; entries outside the batch's largest `n·k` are 0. `[n, k']`
    pub codes: SparseCodes,
    /// Smallest kept positive value, 0 if there is none.
    pub threshold: f32,
}

/// Adam's running averages of one parameter.
#[derive(Debug, Clone)]
pub struct Moments<const D: usize> {
    /// Average of the gradient, shaped like the parameter.
    pub m: Tensor<D>,
    /// Average of the squared gradient, shaped like the parameter.
    pub v: Tensor<D>,
}

/// The scalars of one Adam update (Kingma & Ba 2015, with Loshchilov & Hutter's decoupled weight decay).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the average gradient.
    pub beta1: f32,
    /// Decay of the average squared gradient.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay: the parameter shrinks by `lr · weight_decay` of itself.
    pub weight_decay: f32,
    /// Which update this is, counted from 1.
    pub step: u64,
}

/// The `k` largest pre-activations `x · w_encᵀ + b_enc` of each row.
pub fn encode_topk(x: Tensor<2>, w_enc: Tensor<2>, b_enc: Tensor<1>, k: usize) -> SparseCodes {
    let pre = x.matmul(w_enc.transpose()) + b_enc.unsqueeze::<2>(); // [n, F]
    let k = k.min(pre.dims()[1]);
    let (values, indices) = pre.topk_with_indices(k, 1);
    SparseCodes { values, indices }
}

/// `Σ_j values[i, j] · w_dec[indices[i, j]]`.
pub fn decode_sparse(codes: SparseCodes, w_dec: Tensor<2>) -> Tensor<2> {
    let [n, _] = codes.values.dims();
    let latents = w_dec.dims()[0];
    let dense = Tensor::zeros([n, latents], &codes.values.device()).scatter(
        1,
        codes.indices,
        codes.values,
        burn::tensor::IndexingUpdateOp::Add,
    );
    dense.matmul(w_dec)
}

/// The batch's `n·k` largest pre-activations, relu'd.
pub fn encode_batch_topk(x: Tensor<2>, w_enc: Tensor<2>, b_enc: Tensor<1>, k: usize) -> BatchTopK {
    let codes = encode_topk(x, w_enc, b_enc, k);
    BatchTopK {
        codes: SparseCodes {
            values: codes.values.clamp_min(0.0),
            indices: codes.indices,
        },
        threshold: 0.0,
    }
}

/// One Adam update.
pub fn adam_step<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: Moments<D>,
    s: &AdamStep,
) -> (Tensor<D>, Moments<D>) {
    let m = moments.m * s.beta1 + grad.clone() * (1.0 - s.beta1);
    let v = moments.v * s.beta2 + grad.square() * (1.0 - s.beta2);
    let c1 = 1.0 - f64::from(s.beta1).powi(s.step as i32);
    let c2 = 1.0 - f64::from(s.beta2).powi(s.step as i32);
    let update = (m.clone() / c1) / ((v.clone() / c2).sqrt() + s.eps);
    let param = param * (1.0 - s.lr * s.weight_decay) - update * s.lr;
    (param, Moments { m, v })
}
