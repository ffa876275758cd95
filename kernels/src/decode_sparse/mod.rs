//! A coder's decoder without its bias: each row is the sum of its latents' decoder rows, weighted
//! by the codes.
//!
//! Forward is [`sparse_decode`](crate::sparse_products::SparseProducts::sparse_decode), whose CPU
//! and GPU kernels live in `sparse_products`.

mod gradient;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

use crate::SparseCodes;
use crate::sparse_products::SparseProducts;

/// `Σ_j values[i, j] · w_dec[indices[i, j]]`: codes `[n, k]` and `w_dec` `[F, d]` (one row a
/// latent) to `[n, d]`.
///
/// Differentiable in the values and in `w_dec`; gradients are the same bits on every run. A value
/// of exactly 0 adds nothing (also to `w_dec`'s gradient), though its own gradient is the true one.
///
/// # Panics
///
/// If values and indices differ in shape. Indices beyond `w_dec`'s rows panic on the CPU and read
/// other memory of the same buffer on a GPU.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use lapidary_kernels::{SparseCodes, decode_sparse};
///
/// let device = Device::flex();
/// let codes = SparseCodes {
///     values: Tensor::from_floats([[2.0, 1.0]], &device),
///     indices: Tensor::<2, Int>::from_ints([[1, 0]], &device),
/// };
/// let w_dec = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 3.0]], &device);
/// assert_eq!(decode_sparse(codes, w_dec).to_data().try_to_vec::<f32>()?, [1.0, 6.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn decode_sparse(codes: SparseCodes, w_dec: Tensor<2>) -> Tensor<2> {
    let (values, indices) = (codes.values.dims(), codes.indices.dims());
    assert!(
        values == indices,
        "codes hold values {values:?} but indices {indices:?}"
    );
    Tensor::from_dispatch(Dispatch::decode(
        codes.values.into_dispatch(),
        codes.indices.into_dispatch(),
        w_dec.into_dispatch(),
    ))
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(crate) trait DecodeSparse: Backend {
    fn decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl DecodeSparse for Flex {
    fn decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::sparse_decode(values, indices, w_dec)
    }
}

impl DecodeSparse for CubeBackend {
    fn decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::sparse_decode(values, indices, w_dec)
    }
}
