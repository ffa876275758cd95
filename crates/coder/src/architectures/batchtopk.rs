//! BatchTopK: the n·k largest positive pre-activations of a batch of n tokens, so that hard tokens
//! get more latents (Bussmann et al. 2024, arXiv 2412.06410). A batch is no part of inference: the
//! finished coder is a JumpReLU whose one threshold is the running average of the smallest value
//! that a training batch kept. Matryoshka coders choose and finish in the same way.

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{BatchTopK as Chosen, SparseCodes, encode_batch_topk};

use crate::architectures::{Architecture, Finished, Rule};
use crate::error::CoderError;
use crate::fold::{Fold, Normalized, fold};
use crate::weights::Weights;

pub(crate) struct BatchTopK {
    pub(crate) architecture: Architecture,
    pub(crate) k: usize,
    /// Why such a coder is not stored.
    pub(crate) not_stored: &'static str,
}

impl Rule for BatchTopK {
    fn architecture(&self) -> Architecture {
        self.architecture
    }

    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        encode_batch(weights, x, self.k).codes
    }

    fn finish(&self, normalized: &Normalized<'_>, threshold: f64) -> Result<Finished, CoderError> {
        let how = Fold {
            threshold: Some(threshold),
            ..Fold::default()
        };
        Ok((Architecture::JumpRelu, fold(normalized, how)?))
    }

    fn takes_k(&self) -> bool {
        true
    }

    fn not_stored(&self) -> Option<&'static str> {
        Some(self.not_stored)
    }

    fn read_parameters(&self, fields: &Fields, _: [usize; 3]) -> Result<Architecture, CoderError> {
        Err(fields.wrong("architecture", self.not_stored).into())
    }
}

/// The n·k largest positive pre-activations of all rows of `x` together, from which `b_dec` is
/// already subtracted where it must be, with the smallest value that was kept.
pub(crate) fn encode_batch(weights: &Weights, x: Tensor<2>, k: usize) -> Chosen {
    let k = k.min(weights.latents());
    let (w_enc, b_enc) = (weights.encoder(), weights.the_vector("b_enc"));
    encode_batch_topk(x, w_enc, b_enc, k, weights.encoder_state())
}
