//! AuxK of one layer, its gradients written out.

use burn::tensor::{Int, Tensor};
use lapidary_coder::{Coder, SparseCoder};
use lapidary_kernels::{SparseCodes, SparseGradient, encode_topk, reconstruct};

use super::Scales;
use crate::architectures::StepContext;
use crate::losses;

/// AuxK of one layer.
pub(super) struct Auxiliary {
    /// Before its coefficient, `[1]`.
    pub(super) term: Tensor<1>,
    /// What it adds, coefficient and all, to the gradients of the layer's weights.
    pub(super) w_dec: SparseGradient,
    pub(super) w_enc: SparseGradient,
}

/// What the `dead` latents of a layer make of the `residual` `[n, d_out]` of what it writes at,
/// times the share of a layer; see [`losses::aux_k`]. None if nothing is dead or the recipe wants
/// none. `centred` is what the encoder reads.
pub(super) fn auxiliary(
    coder: &SparseCoder,
    centred: Tensor<2>,
    residual: Tensor<2>,
    dead: Option<Tensor<1, Int>>,
    scales: &Scales,
    context: &StepContext<'_>,
) -> Option<Auxiliary> {
    let training = &context.training;
    let (k_aux, coefficient) = (training.aux_k, training.aux_k_coefficient);
    let dead = dead.filter(|_| context.has_aux_k())?;
    let n = residual.dims()[0].max(1) as f64;
    let n_dead = dead.dims()[0];
    let k = k_aux.min(n_dead);
    let scale = (n_dead as f64 / k_aux as f64).min(1.0) * scales.share;
    let w_dead = coder.w_dec().select(0, dead.clone()); // [n_dead, d_out]
    let codes = encode_topk(
        centred.clone(),
        coder.w_enc().select(0, dead.clone()),
        coder.b_enc().select(0, dead.clone()),
        k,
        coder.weights.encoder_state(),
    );
    // The gradient passes this ReLU as if it were not there.
    let codes = SparseCodes {
        values: codes.values.clamp_min(0.0),
        indices: codes.indices,
    };
    let none = coder.b_dec().zeros_like();
    let miss = reconstruct(&codes, w_dead, none, residual.clone());
    let variance = losses::batch_variance(residual);
    let term = miss.squares.sum() / n / variance.clone() * scale;
    let factor = (variance.recip() * (2.0 / n * scale * coefficient)).unsqueeze::<2>();
    let [rows, k] = codes.indices.dims();
    let indices = dead.select(0, codes.indices.reshape([rows * k]));
    let of_dead = |values: Tensor<2>| SparseCodes {
        values,
        indices: indices.clone().reshape([rows, k]),
    };
    Some(Auxiliary {
        term,
        w_dec: SparseGradient {
            codes: of_dead(codes.values * factor.clone()),
            rows: miss.error,
        },
        w_enc: SparseGradient {
            codes: of_dead(miss.along * factor),
            rows: centred,
        },
    })
}
