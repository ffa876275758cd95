//! Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019) in one pass over
//! the parameter: gradient and moments are read once, parameter and moments written once, in place
//! where nobody else holds them.

pub(crate) mod cpu;
pub(crate) mod cube;
mod gradient;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// Adam's running averages of one parameter; both start at 0.
#[derive(Debug, Clone)]
pub struct Moments<const D: usize> {
    /// Average of the gradient, shaped like the parameter.
    pub m: Tensor<D>,
    /// Average of the squared gradient, shaped like the parameter.
    pub v: Tensor<D>,
}

/// The scalars of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the average gradient.
    pub beta1: f32,
    /// Decay of the average squared gradient.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay: the parameter shrinks by `lr · weight_decay` of itself.
    pub weight_decay: f32,
    /// Which update this is, counted from 1; it corrects the moments' bias towards their start.
    pub step: u64,
}

/// One update: `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`,
/// `p ← p·(1 − lr·weight_decay) − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps)`.
///
/// Not differentiable: on tensors that track gradients it returns ones that do not. Pass parameter
/// and moments by value, with no other tensor sharing them, and they are updated in place.
///
/// # Panics
///
/// If the shapes disagree or `step` is 0.
pub fn adam_step<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: Moments<D>,
    s: &AdamStep,
) -> (Tensor<D>, Moments<D>) {
    let shape = param.dims();
    for (name, other) in [
        ("gradient", grad.dims()),
        ("m", moments.m.dims()),
        ("v", moments.v.dims()),
    ] {
        assert!(
            other == shape,
            "the parameter has shape {shape:?}, but its {name} {other:?}"
        );
    }
    assert!(s.step > 0, "Adam counts its steps from 1");
    let (param, m, v) = Dispatch::adam(
        param.into_dispatch(),
        grad.into_dispatch(),
        moments.m.into_dispatch(),
        moments.v.into_dispatch(),
        Factors::new(s),
    );
    let moments = Moments {
        m: Tensor::from_dispatch(m),
        v: Tensor::from_dispatch(v),
    };
    (Tensor::from_dispatch(param), moments)
}

/// The update's constants as the kernels use them, rounded to f32 once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) beta1: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    /// `lr / (1 − β₁ᵗ)`
    pub(crate) rate: f32,
    /// `1 / √(1 − β₂ᵗ)`
    pub(crate) root_scale: f32,
    pub(crate) eps: f32,
    /// `1 − lr · weight_decay`
    pub(crate) shrink: f32,
}

impl Factors {
    pub(crate) fn new(s: &AdamStep) -> Self {
        let (beta1, beta2) = (f64::from(s.beta1), f64::from(s.beta2));
        let lr = f64::from(s.lr);
        let step = s.step as f64;
        Self {
            beta1: s.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: s.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            rate: (lr / (1.0 - beta1.powf(step))) as f32,
            root_scale: (1.0 / (1.0 - beta2.powf(step)).sqrt()) as f32,
            eps: s.eps,
            shrink: (1.0 - lr * f64::from(s.weight_decay)) as f32,
        }
    }
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(crate) trait Adam: Backend {
    /// Parameter, gradient, m and v to parameter, m and v.
    fn adam(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        factors: Factors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}
