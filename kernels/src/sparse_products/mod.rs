//! The three products of sparse codes that every forward and backward pass here is made of. Writing
//! S for the `[n, F]` matrix that has `values[i, j]` at `[i, indices[i, j]]` and 0 elsewhere, they
//! are `S·W`, the entries of `g·Wᵀ` where S has its entries, and `Sᵀ·rows`; neither S nor any
//! `[n, k, d]` tensor is ever made.
//!
//! A value of exactly 0 is skipped. Sums run in a fixed order (`j` ascending, or rows ascending
//! within a latent), so results are the same bits on every run.

pub(crate) mod cpu;
mod cube;
mod dot;
pub(crate) mod grouping;

pub use dot::sparse_dot;

use burn::backend::Backend;
use burn::backend::tensor::{FloatTensor, IntTensor};

pub(crate) trait SparseProducts: Backend {
    /// `out[i] = Σ_j values[i, j] · w[indices[i, j]]`: `[n, k]`, `[n, k]`, `[F, d]` to `[n, d]`.
    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `out[i, j] = ⟨g[i], w[indices[i, j]]⟩`: `[n, d]`, `[F, d]`, `[n, k]` to `[n, k]`.
    fn sparse_dot(
        g: FloatTensor<Self>,
        w: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `out[f] = Σ values[i, j] · rows[i]` over all entries with `indices[i, j] = f`, and the sum
    /// of those values: `[n, k]`, `[n, k]`, `[n, d]` to `[F, d]` and `[F]`.
    fn sparse_outer(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        rows: FloatTensor<Self>,
        latents: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
