//! JumpReLU: a latent is active, with its pre-activation as value, where that is above its
//! threshold (Rajamanoharan et al. 2024, "Jumping ahead", arXiv 2407.14435).

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::architectures::{Architecture, Rule};
use crate::error::CoderError;
use crate::weights::Weights;

pub(crate) struct JumpRelu;

impl Rule for JumpRelu {
    fn architecture(&self) -> Architecture {
        Architecture::JumpRelu
    }

    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        let threshold = weights.the_vector("threshold");
        encode_threshold(x, weights.encoder(), weights.the_vector("b_enc"), threshold)
    }

    fn shapes(&self, d_in: usize, d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_enc", vec![d_sae]),
            ("w_dec", vec![d_sae, d_out]),
            ("b_dec", vec![d_out]),
            ("threshold", vec![d_sae]),
        ]
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn read_parameters(&self, _: &Fields, _: [usize; 3]) -> Result<Architecture, CoderError> {
        Ok(Architecture::JumpRelu)
    }
}
