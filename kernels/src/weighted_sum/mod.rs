//! A sum of a matrix's rows with a weight each: the gradient of a bias that is subtracted before
//! encoding, through the encoder.

mod cube;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

/// `Σ_f weights[f] · rows[f]`: `[F]` and `[F, d]` to `[d]`. The same bits on every run.
///
/// Not differentiable.
///
/// # Panics
///
/// If the shapes disagree, or an argument tracks gradients.
pub fn weighted_sum(weights: Tensor<1>, rows: Tensor<2>) -> Tensor<1> {
    let ([found], [expected, _]) = (weights.dims(), rows.dims());
    assert!(
        found == expected,
        "{found} weights were given for {expected} rows"
    );
    Tensor::from_dispatch(Dispatch::weighted_sum(
        weights.into_dispatch(),
        rows.into_dispatch(),
    ))
}

#[backend_extension(Cube, Flex)]
pub(crate) trait WeightedSum: Backend {
    fn weighted_sum(weights: FloatTensor<Self>, rows: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl WeightedSum for Flex {
    fn weighted_sum(weights: FloatTensor<Self>, rows: FloatTensor<Self>) -> FloatTensor<Self> {
        let (count, d) = (rows.shape()[0], rows.shape()[1]);
        let weights = Self::float_reshape(weights, [1, count].into());
        Self::float_reshape(Self::float_matmul(weights, rows), [d].into())
    }
}
