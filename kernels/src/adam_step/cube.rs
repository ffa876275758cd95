//! Adam in CubeCL, for WGPU and CUDA: one unit an element.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{Adam, Factors};
use crate::gpu::{Rows, UNITS, copied, cubes_for_elements, floats};

impl Adam for CubeBackend {
    fn adam(
        param: CubeTensor,
        grad: CubeTensor,
        m: CubeTensor,
        v: CubeTensor,
        factors: Factors,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let grad = floats(grad);
        let (param, m, v) = (owned(param), owned(m), owned(v));
        let elements = param.meta.num_elements();
        if elements > 0 {
            update::launch(
                &param.client,
                cubes_for_elements(elements),
                CubeDim::new_1d(UNITS),
                param.clone().rows(),
                grad.rows(),
                m.clone().rows(),
                v.clone().rows(),
                elements,
                factors.beta1,
                factors.one_minus_beta1,
                factors.beta2,
                factors.one_minus_beta2,
                factors.rate,
                factors.root_scale,
                factors.eps,
                factors.shrink,
            );
        }
        (param, m, v)
    }
}

/// The tensor itself if nobody else holds its memory, otherwise a copy.
///
/// # Panics
///
/// If it is not stored in f32: what is updated keeps its type.
pub(crate) fn owned(tensor: CubeTensor) -> CubeTensor {
    assert!(
        tensor.dtype == DType::F32,
        "parameters and moments are updated in f32, but were given {:?}",
        tensor.dtype
    );
    let tensor = floats(tensor);
    if tensor.can_mut() {
        tensor
    } else {
        copied(&tensor)
    }
}

/// A parameter's next value from its moments.
#[cube]
pub(crate) fn adam(
    param: f32,
    first: f32,
    second: f32,
    rate: f32,
    root_scale: f32,
    eps: f32,
    shrink: f32,
) -> f32 {
    shrink * param - rate * first / (second.sqrt() * root_scale + eps)
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn update(
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    elements: usize,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    rate: f32,
    root_scale: f32,
    eps: f32,
    shrink: f32,
) {
    let mut at = ABSOLUTE_POS;
    while at < elements {
        let gradient = grad[at];
        let first = beta1 * m[at] + one_minus_beta1 * gradient;
        let second = beta2 * v[at] + one_minus_beta2 * gradient * gradient;
        m[at] = first;
        v[at] = second;
        param[at] = adam(param[at], first, second, rate, root_scale, eps, shrink);
        at += CUBE_COUNT * UNITS as usize;
    }
}
