//! The encoder of JumpReLU coders (Rajamanoharan et al. 2024, arXiv 2407.14435) and of ReLU coders,
//! whose thresholds are 0: every latent whose pre-activation exceeds its threshold, as codes as
//! wide as the densest row.
//!
//! The choice is exact: a latent is active if its f32 pre-activation, as
//! [`encode_topk`](crate::encode_topk) gives it, is greater than its f32 threshold.

mod cpu;
mod cube;
mod gradient;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::SparseCodes;
use crate::encode_topk::checked_k;

/// The latents of each row with `x · w_encᵀ + b_enc > max(threshold, 0)`: `x` `[n, d]`, `w_enc`
/// `[F, d]` (one row a latent), `b_enc` and `threshold` `[F]` to codes `[n, k']`, where `k'`, at
/// least 1, is the number of active latents of the row that has most. Other places have value 0.
///
/// A NaN is neither above a threshold nor ever exceeded. Differentiable in `x`, `w_enc` and `b_enc`
/// through the active values; the thresholds are constants.
///
/// # Panics
///
/// If the shapes disagree or there are no latents.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use lapidary_kernels::encode_threshold;
///
/// let device = Device::flex();
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
/// let w_enc = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &device);
/// let threshold = Tensor::<1>::from_floats([1.0, 0.5, 0.0], &device);
/// let codes = encode_threshold(x, w_enc, Tensor::zeros([3], &device), threshold);
/// assert_eq!(codes.indices.to_data().try_to_vec::<i32>()?, [2, 1]); // 1 is not above 1
/// assert_eq!(codes.values.to_data().try_to_vec::<f32>()?, [3.0, 2.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn encode_threshold(
    x: Tensor<2>,
    w_enc: Tensor<2>,
    b_enc: Tensor<1>,
    threshold: Tensor<1>,
) -> SparseCodes {
    let latents = w_enc.dims()[0];
    checked_k(&x, &w_enc, &b_enc, 1);
    assert!(
        threshold.dims() == [latents],
        "w_enc has {latents} latents, but threshold has {}",
        threshold.dims()[0]
    );
    let (values, indices) = Dispatch::above(
        x.into_dispatch(),
        w_enc.into_dispatch(),
        b_enc.into_dispatch(),
        threshold.into_dispatch(),
    );
    SparseCodes {
        values: Tensor::from_dispatch(values),
        indices: Tensor::from_dispatch(indices),
    }
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(crate) trait EncodeThreshold: Backend {
    fn above(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        threshold: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, IntTensor<Self>);
}
