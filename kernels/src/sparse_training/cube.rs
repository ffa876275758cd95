//! On a GPU the gradient is made once, as a whole, from sums by latent.

use burn::backend::ops::FloatTensorOps;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{How, SparseTraining};
use crate::adam_step::Adam;
use crate::gpu::dims2;
use crate::sparse_products::SparseProducts;

type B = CubeBackend;

impl SparseTraining for CubeBackend {
    fn reconstruct(
        values: CubeTensor,
        indices: CubeTensor,
        w_dec: CubeTensor,
        b_dec: CubeTensor,
        target: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [n, d] = dims2(&target);
        let decoded = Self::sparse_decode(values, indices.clone(), w_dec.clone());
        let offset = B::float_sub(B::float_reshape(b_dec, [1, d].into()), target);
        let error = B::float_add(decoded, offset);
        let along = Self::sparse_dot(error.clone(), w_dec, indices);
        let squares = B::float_sum_dim(B::float_mul(error.clone(), error.clone()), 1);
        (error, along, B::float_reshape(squares, [n].into()))
    }

    fn latent_sums(values: CubeTensor, indices: CubeTensor, latents: usize) -> CubeTensor {
        let rows = B::float_slice(
            values.clone(),
            &[
                burn::tensor::Slice::from(..),
                burn::tensor::Slice::from(0..1),
            ],
        );
        Self::sparse_outer(values, indices, rows, latents).1
    }

    fn row_squares(
        w: CubeTensor,
        values: CubeTensor,
        indices: CubeTensor,
        rows: CubeTensor,
        unit_rows: bool,
    ) -> CubeTensor {
        let [latents, _] = dims2(&w);
        let gradient = gradient(w, values, indices, rows, unit_rows);
        let squares = B::float_sum_dim(B::float_mul(gradient.clone(), gradient), 1);
        B::float_reshape(squares, [latents].into())
    }

    fn row_update(
        w: CubeTensor,
        m: CubeTensor,
        v: CubeTensor,
        values: CubeTensor,
        indices: CubeTensor,
        rows: CubeTensor,
        how: How,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let mut gradient = gradient(w.clone(), values, indices, rows, how.unit_rows);
        if how.scale != 1.0 {
            gradient = B::float_mul_scalar(gradient, how.scale.into());
        }
        let (mut w, m, v) = Self::adam(w, gradient, m, v, how.factors);
        if how.unit_rows {
            let squares = B::float_sum_dim(B::float_mul(w.clone(), w.clone()), 1);
            let norms = B::float_clamp_min(B::float_sqrt(squares), 1e-12f32.into());
            w = B::float_div(w, norms);
        }
        (w, m, v)
    }
}

/// `[F, d]`
fn gradient(
    w: CubeTensor,
    values: CubeTensor,
    indices: CubeTensor,
    rows: CubeTensor,
    unit_rows: bool,
) -> CubeTensor {
    let [latents, _] = dims2(&w);
    let (gradient, _) = B::sparse_outer(values, indices, rows, latents);
    if !unit_rows {
        return gradient;
    }
    let along = B::float_sum_dim(B::float_mul(gradient.clone(), w.clone()), 1);
    B::float_sub(gradient, B::float_mul(w, along))
}
