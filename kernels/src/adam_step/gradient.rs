//! An update has no gradient: what comes out is a new leaf.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend};

use super::{Adam, Factors};

impl<B: Adam, C: CheckpointStrategy> Adam for Autodiff<B, C> {
    fn adam(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        factors: Factors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (param, m, v) = B::adam(
            param.into_primitive(),
            grad.into_primitive(),
            m.into_primitive(),
            v.into_primitive(),
            factors,
        );
        (
            Self::from_inner(param),
            Self::from_inner(m),
            Self::from_inner(v),
        )
    }
}
