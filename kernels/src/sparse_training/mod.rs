//! What a sparse coder's training step needs beyond encoding: the reconstruction's error with the
//! gradient of codes, and the update of weights whose gradient is sparse by latent, `dW = Sᵀ·rows`
//! with the codes as the entries of S. On the CPU that gradient never exists as a whole: a latent's
//! part of it is made, projected and used by Adam while it is in cache.

mod cpu;
mod cube;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::SparseCodes;
use crate::adam_step::{AdamStep, Factors, Moments};

/// The gradient of weights `[F, d]`, sparse by latent: row f is the sum of `values[i, j] · rows[i]`
/// over all entries of the codes with `indices[i, j] = f`. Values of exactly 0 add nothing; sums
/// run in row order.
#[derive(Debug, Clone)]
pub struct SparseGradient {
    /// `[n, k]`
    pub codes: SparseCodes,
    /// `[n, d]`
    pub rows: Tensor<2>,
}

/// How weights are updated.
#[derive(Debug, Clone, Copy)]
pub struct RowUpdate {
    /// Adam's scalars.
    pub adam: AdamStep,
    /// What the gradient is multiplied with first.
    pub scale: f32,
    /// Keep every row at norm 1: the gradient loses its part along the row before Adam sees it (a
    /// step along the row would be undone), and the row is scaled back after (Bricken et al. 2023).
    pub unit_rows: bool,
}

/// What a reconstruction misses, and what that says of the codes.
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// `Σ_j values[i, j] · w_dec[indices[i, j]] + b_dec − target[i]`, `[n, d]`.
    pub error: Tensor<2>,
    /// `⟨error[i], w_dec[indices[i, j]]⟩`, half the gradient of `|error[i]|²` in `values[i, j]`,
    /// `[n, k]`.
    pub along: Tensor<2>,
    /// `|error[i]|²`, `[n]`.
    pub squares: Tensor<1>,
}

/// Decodes, compares with `target` `[n, d]` and goes back to the codes, a row at a time: on the CPU
/// its decoder rows are fetched once for both ways. `w_dec` `[F, d]`, `b_dec` `[d]`.
///
/// # Panics
///
/// If the shapes disagree, or an argument tracks gradients.
pub fn reconstruct(
    codes: &SparseCodes,
    w_dec: Tensor<2>,
    b_dec: Tensor<1>,
    target: Tensor<2>,
) -> Reconstruction {
    let ([_, d], [n, width]) = (w_dec.dims(), target.dims());
    let (values, indices) = (codes.values.dims(), codes.indices.dims());
    assert!(
        width == d && b_dec.dims() == [d],
        "targets are {width} wide and b_dec {:?}, decoder rows {d}",
        b_dec.dims()
    );
    assert!(
        values == indices && values[0] == n && values[1] > 0,
        "codes hold values {values:?} and indices {indices:?} for {n} rows"
    );
    let (error, along, squares) = Dispatch::reconstruct(
        codes.values.clone().into_dispatch(),
        codes.indices.clone().into_dispatch(),
        w_dec.into_dispatch(),
        b_dec.into_dispatch(),
        target.into_dispatch(),
    );
    Reconstruction {
        error: Tensor::from_dispatch(error),
        along: Tensor::from_dispatch(along),
        squares: Tensor::from_dispatch(squares),
    }
}

/// The sum of each latent's values, `[F]`: the gradient of an encoder's bias.
pub fn latent_sums(codes: &SparseCodes, latents: usize) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::latent_sums(
        codes.values.clone().into_dispatch(),
        codes.indices.clone().into_dispatch(),
        latents,
    ))
}

/// The squared norm of the gradient of the weights `w` `[F, d]`, `[1]`; with `unit_rows` of what is
/// left of it beside the rows.
pub fn squared_norm(w: &Tensor<2>, gradient: &SparseGradient, unit_rows: bool) -> Tensor<1> {
    let g = gradient.clone();
    check(w, &g);
    Tensor::<1>::from_dispatch(Dispatch::row_squares(
        w.clone().into_dispatch(),
        g.codes.values.into_dispatch(),
        g.codes.indices.into_dispatch(),
        g.rows.into_dispatch(),
        unit_rows,
    ))
    .sum()
}

/// Adam's update of `w` `[F, d]` by a sparse gradient, all rows, those without entries too: their
/// moments decay. Pass weights and moments by value, with no other tensor sharing them, and they
/// are updated in place.
///
/// # Panics
///
/// If the shapes disagree, the step is 0, or an argument tracks gradients.
pub fn sparse_adam_step(
    w: Tensor<2>,
    gradient: SparseGradient,
    moments: Moments<2>,
    update: &RowUpdate,
) -> (Tensor<2>, Moments<2>) {
    check(&w, &gradient);
    assert!(
        moments.m.dims() == w.dims() && moments.v.dims() == w.dims(),
        "weights and moments differ in shape"
    );
    assert!(update.adam.step > 0, "Adam counts its steps from 1");
    let how = How {
        factors: Factors::new(&update.adam),
        scale: update.scale,
        unit_rows: update.unit_rows,
    };
    let (w, m, v) = Dispatch::row_update(
        w.into_dispatch(),
        moments.m.into_dispatch(),
        moments.v.into_dispatch(),
        gradient.codes.values.into_dispatch(),
        gradient.codes.indices.into_dispatch(),
        gradient.rows.into_dispatch(),
        how,
    );
    let moments = Moments {
        m: Tensor::from_dispatch(m),
        v: Tensor::from_dispatch(v),
    };
    (Tensor::from_dispatch(w), moments)
}

fn check(w: &Tensor<2>, gradient: &SparseGradient) {
    let (codes, [n, d]) = (&gradient.codes, gradient.rows.dims());
    assert!(
        codes.values.dims() == codes.indices.dims() && codes.values.dims()[0] == n,
        "codes hold values {:?} and indices {:?} for {n} rows",
        codes.values.dims(),
        codes.indices.dims()
    );
    assert!(
        w.dims()[1] == d,
        "rows are {d} wide, weights {}",
        w.dims()[1]
    );
}

/// [`RowUpdate`] as the kernels use it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    factors: Factors,
    scale: f32,
    unit_rows: bool,
}

#[backend_extension(Cube, Flex)]
pub(crate) trait SparseTraining: Backend {
    /// See [`reconstruct`]: error, along and squares.
    fn reconstruct(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
        b_dec: FloatTensor<Self>,
        target: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`latent_sums`].
    fn latent_sums(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        latents: usize,
    ) -> FloatTensor<Self>;

    /// The squared norm of each row of the gradient, `[F]`.
    fn row_squares(
        w: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        rows: FloatTensor<Self>,
        unit_rows: bool,
    ) -> FloatTensor<Self>;

    /// Weights, m and v after the update.
    fn row_update(
        w: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        rows: FloatTensor<Self>,
        how: How,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}
