//! Products of rows with a few rows of a matrix each.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeBackend;

use super::SparseProducts;

/// `out[i, j] = ⟨rows[i], w[indices[i, j]]⟩`, `[n, k]`, of rows `[n, d]`, a matrix `[F, d]` and
/// indices `[n, k]`: what a row says to the latents chosen for it.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use lapidary_kernels::sparse_dot;
///
/// let device = Device::flex();
/// let rows = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
/// let w = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 3.0]], &device);
/// let indices = Tensor::<2, Int>::from_ints([[1, 0, 1]], &device);
/// assert_eq!(sparse_dot(rows, w, indices).to_data().try_to_vec::<f32>()?, [6.0, 1.0, 6.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
///
/// # Panics
///
/// If the shapes disagree, or an argument tracks gradients.
pub fn sparse_dot(rows: Tensor<2>, w: Tensor<2>, indices: Tensor<2, Int>) -> Tensor<2> {
    let ([n, d], [_, width], [with, _]) = (rows.dims(), w.dims(), indices.dims());
    assert!(
        n == with && d == width,
        "{n} rows of width {d}, indices for {with}, and a matrix of width {width}"
    );
    Tensor::from_dispatch(Dispatch::dot(
        rows.into_dispatch(),
        w.into_dispatch(),
        indices.into_dispatch(),
    ))
}

#[backend_extension(Cube, Flex)]
pub(crate) trait SparseDot: Backend {
    fn dot(
        rows: FloatTensor<Self>,
        w: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl SparseDot for Flex {
    fn dot(
        rows: FloatTensor<Self>,
        w: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::sparse_dot(rows, w, indices)
    }
}

impl SparseDot for CubeBackend {
    fn dot(
        rows: FloatTensor<Self>,
        w: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::sparse_dot(rows, w, indices)
    }
}
