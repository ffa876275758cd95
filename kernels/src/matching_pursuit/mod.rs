//! Matching pursuit (Mallat, Zhang 1993): of each row the atom that fits best is taken away, again
//! and again. Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993) fits all atoms
//! taken so far anew after each step.
//!
//! The order is total: larger value first, of equal values the lower index; what is not a number is
//! never taken.

mod cpu;
mod cube;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::EncoderState;
#[cfg(target_arch = "x86_64")]
pub(crate) use cpu::Kept;

/// How a pursuit goes and when it stops, besides after its number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pursuit {
    /// A row stops when the norm of its residual is below this; 0: never.
    pub residual_threshold: f64,
    /// A row stops when a step takes an atom that it has already.
    pub stop_on_duplicate_support: bool,
    /// Whether atoms are taken with negative values too, the largest by magnitude.
    pub signed: bool,
    /// Whether all values are fitted anew after each step (orthogonal matching pursuit), by least
    /// squares; unless `signed`, by non-negative ones.
    pub refit: bool,
}

impl Pursuit {
    /// As many steps as there may be, non-negative.
    pub const PLAIN: Self = Self {
        residual_threshold: 0.0,
        stop_on_duplicate_support: false,
        signed: false,
        refit: false,
    };
}

/// What a pursuit did.
#[derive(Debug, Clone)]
pub struct Pursued {
    /// Which atom each step took, −1 where a row had done; with `refit` each atom once. `[n, k]`
    pub atoms: Tensor<2, Int>,
    /// The value of each step, 0 where a row had done; with `refit` the last. `[n, k]`
    pub values: Tensor<2>,
    /// What is left of each row. `[n, d]`
    pub residual: Tensor<2>,
}

/// Pursues each row of `x` `[n, d]` through `atoms` `[F, d]`, at most `k` steps. With r what is
/// left, a step takes the atom j with the largest ⟨atom, r⟩ (by magnitude, if signed; of equal ones
/// the lowest index), whose value v is ⟨atom_j, r⟩, and r loses v·atom_j. A row that no atom fits
/// any more (largest value not above 0) has done.
///
/// On the CPU the choice is exact with respect to f32 values: correlations of all atoms, updated by
/// rows of the atoms' Gram matrix in 16 bits or made anew, in integers where the processor
/// multiplies those fast, only rule atoms out, by a proven bound. Refits happen on the host,
/// whatever device holds the tensors. The next call with these atoms and this `state` is faster.
///
/// # Panics
///
/// If the shapes disagree or have no width, there are no atoms, or an argument tracks gradients.
pub fn pursue(
    x: Tensor<2>,
    atoms: Tensor<2>,
    k: usize,
    how: &Pursuit,
    state: &EncoderState,
) -> Pursued {
    let ([_, d], [latents, wide]) = (x.dims(), atoms.dims());
    assert!(
        d == wide && d > 0 && latents > 0,
        "rows are {d} wide, atoms {latents} of {wide}"
    );
    let (taken, values, residual) =
        Dispatch::pursue(x.into_dispatch(), atoms.into_dispatch(), k, *how, state);
    Pursued {
        atoms: Tensor::from_dispatch(taken),
        values: Tensor::from_dispatch(values),
        residual: Tensor::from_dispatch(residual),
    }
}

/// The gradients of `factor · Σ |residual|²` in the atoms `[F, d]`, which they come from, and in
/// the rows' starts, summed, `[d]`. Which atom a step takes is a constant; with r the residual
/// before it and g the gradient after it, the value's gradient is dv = −⟨g, atom⟩, the atom's
/// −v·g + dv·r, and g gains dv·atom. Fitted values are where the loss is least, so with `refit`
/// their own change counts nothing.
///
/// # Panics
///
/// If the shapes disagree, or an argument tracks gradients.
pub fn pursuit_gradient(
    pursued: &Pursued,
    atoms: Tensor<2>,
    refit: bool,
    factor: f32,
) -> (Tensor<2>, Tensor<1>) {
    let (taken, values) = (pursued.atoms.dims(), pursued.values.dims());
    let ([n, d], [_, wide]) = (pursued.residual.dims(), atoms.dims());
    assert!(
        taken == values && taken[0] == n && d == wide,
        "steps {taken:?} with values {values:?} for {n} residuals of {d}, atoms are {wide} wide"
    );
    let (to_atoms, to_starts) = Dispatch::pursuit_gradient(
        pursued.atoms.clone().into_dispatch(),
        pursued.values.clone().into_dispatch(),
        pursued.residual.clone().into_dispatch(),
        atoms.into_dispatch(),
        refit,
        factor,
    );
    (
        Tensor::from_dispatch(to_atoms),
        Tensor::from_dispatch(to_starts),
    )
}

#[backend_extension(Cube, Flex)]
pub(crate) trait MatchingPursuit: Backend {
    /// See [`pursue`]: atoms, values and residual.
    fn pursue(
        x: FloatTensor<Self>,
        atoms: FloatTensor<Self>,
        k: usize,
        how: Pursuit,
        state: &EncoderState,
    ) -> (IntTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`pursuit_gradient`].
    fn pursuit_gradient(
        taken: IntTensor<Self>,
        values: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        atoms: FloatTensor<Self>,
        refit: bool,
        factor: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
