//! Adam on the CPU, parallel over pieces that fit in cache.

use burn::backend::Flex;
use burn::tensor::DType;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{Adam, Factors};
use crate::host::{contiguous, floats, widest_vectors};

/// Elements that one task updates at least.
const PIECE: usize = 16 << 10;

impl Adam for Flex {
    fn adam(
        param: FlexTensor,
        grad: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        factors: Factors,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let grad = contiguous(grad);
        let (mut param, mut m, mut v) = (whole(param), whole(m), whole(v));
        // Copies first if somebody else holds the storage too.
        param
            .storage_mut::<f32>()
            .par_chunks_mut(PIECE)
            .zip(floats(&grad).par_chunks(PIECE))
            .zip(m.storage_mut::<f32>().par_chunks_mut(PIECE))
            .zip(v.storage_mut::<f32>().par_chunks_mut(PIECE))
            .for_each(|(((param, grad), m), v)| update(param, grad, m, v, factors));
        (param, m, v)
    }
}

/// The tensor itself if its storage holds its elements in order and nothing else, otherwise a copy
/// that does.
///
/// # Panics
///
/// If it is not stored in f32: what is updated keeps its type.
pub(crate) fn whole(tensor: FlexTensor) -> FlexTensor {
    assert!(
        tensor.dtype() == DType::F32,
        "parameters and moments are updated in f32, but were given {:?}",
        tensor.dtype()
    );
    let elements = tensor.layout().num_elements();
    let in_order = tensor.is_contiguous() && tensor.layout().start_offset() == 0;
    if in_order && tensor.bytes().len() == elements * size_of::<f32>() {
        return tensor;
    }
    let copy: Vec<f32> = floats(&contiguous(tensor.clone())).to_vec();
    let shape = tensor.layout().shape().clone();
    FlexTensor::from_data(burn::tensor::TensorData::new(copy, shape))
}

widest_vectors! {
    pub(crate) fn update(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) {
        for (((param, &grad), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            update_one(param, grad, m, v, f);
        }
    }
}

widest_vectors! {
    /// The same for the gradient `grad - along * param`; the new parameters' sum of squares.
    pub(crate) fn update_along(
        param: &mut [f32],
        grad: &[f32],
        along: f32,
        m: &mut [f32],
        v: &mut [f32],
        f: Factors,
    ) -> f32 {
        const LANES: usize = 32;
        let mut squares = [0.0f32; LANES];
        let blocks = param.chunks_mut(LANES).zip(grad.chunks(LANES));
        for (((param, grad), m), v) in blocks.zip(m.chunks_mut(LANES)).zip(v.chunks_mut(LANES)) {
            let numbers = param.iter_mut().zip(grad).zip(m).zip(v);
            for ((((param, &grad), m), v), square) in numbers.zip(&mut squares) {
                update_one(param, grad - along * *param, m, v, f);
                *square += *param * *param;
            }
        }
        squares.iter().sum()
    }
}

#[inline(always)]
fn update_one(param: &mut f32, grad: f32, m: &mut f32, v: &mut f32, f: Factors) {
    *m = f.beta1 * *m + f.one_minus_beta1 * grad;
    *v = f.beta2 * *v + f.one_minus_beta2 * grad * grad;
    *param = f.shrink * *param - f.rate * *m / (v.sqrt() * f.root_scale + f.eps);
}
