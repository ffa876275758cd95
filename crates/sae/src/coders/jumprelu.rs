//! JumpReLU at inference: a latent is active, with its pre-activation as value, where that is above its threshold
//! (Rajamanoharan et al. 2024, arXiv 2407.14435).

use burn::tensor::Tensor;
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::coder::SparseCoder;
use crate::coders::{Learned, Method, Now};

pub(crate) struct JumpRelu;

impl Method for JumpRelu {
    fn name(&self) -> &'static str {
        "jumprelu"
    }

    fn trainable(&self) -> bool {
        false
    }

    fn takes_k(&self) -> bool {
        false
    }

    fn shapes(&self, d_in: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_enc", vec![d_sae]),
            ("w_dec", vec![d_sae, d_in]),
            ("b_dec", vec![d_in]),
            ("threshold", vec![d_sae]),
        ]
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let threshold = coder.vector("threshold");
        encode_threshold(x, coder.w_enc(), coder.b_enc(), threshold)
    }

    fn learn(&self, _coder: &SparseCoder, _x: Tensor<2>, _now: &Now<'_>) -> Learned {
        unreachable!("no recipe asks for it")
    }
}
