//! A TopK coder's encoder (Gao et al. 2024, "Scaling and evaluating sparse autoencoders"): a dense
//! product and the `k` best of each row, tile by tile, so that the `[n, F]` matrix of
//! pre-activations never exists.
//!
//! The order is total: larger value first, of equal values the lower index; −0 equals 0; NaN counts
//! as −∞ and is returned as −∞.

pub(crate) mod cpu;
pub(crate) mod cube;
pub(crate) mod gradient;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::{EncoderState, SparseCodes};

/// The `k` largest pre-activations `x · w_encᵀ + b_enc` of each row, raw (no relu): `x` `[n, d]`,
/// `w_enc` `[F, d]` (one row a latent), `b_enc` `[F]` to codes `[n, min(k, F)]`.
///
/// The choice is exact with respect to the f32 pre-activations. Differentiable in all three; the
/// gradient of a chosen pre-activation flows, the others get none, and gradients are the same bits
/// on every run. The next call with these weights and this `state` is faster.
///
/// # Panics
///
/// If the shapes disagree, `k` is 0 or there are no latents.
pub fn encode_topk(
    x: Tensor<2>,
    w_enc: Tensor<2>,
    b_enc: Tensor<1>,
    k: usize,
    state: &EncoderState,
) -> SparseCodes {
    let k = checked_k(&x, &w_enc, &b_enc, k);
    let (values, indices) = Dispatch::topk(
        x.into_dispatch(),
        w_enc.into_dispatch(),
        b_enc.into_dispatch(),
        k,
        state,
    );
    SparseCodes {
        values: Tensor::from_dispatch(values),
        indices: Tensor::from_dispatch(indices),
    }
}

/// `min(k, F)`, once the shapes agree.
pub(crate) fn checked_k(x: &Tensor<2>, w_enc: &Tensor<2>, b_enc: &Tensor<1>, k: usize) -> usize {
    let ([_, d], [latents, d_enc], [biases]) = (x.dims(), w_enc.dims(), b_enc.dims());
    assert!(
        d == d_enc,
        "rows of x have {d} columns, but w_enc expects {d_enc}"
    );
    assert!(
        biases == latents,
        "w_enc has {latents} latents, but b_enc has {biases}"
    );
    assert!(latents > 0, "an encoder needs at least one latent");
    assert!(k > 0, "k is 0: codes need at least one latent a row");
    k.min(latents)
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(crate) trait EncodeTopK: Backend {
    /// `k` is between 1 and F.
    fn topk(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
        state: &EncoderState,
    ) -> (FloatTensor<Self>, IntTensor<Self>);
}
