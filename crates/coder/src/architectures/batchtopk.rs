//! BatchTopK: the n·k largest positive pre-activations of a batch of n tokens, so that hard tokens
//! get more latents (Bussmann et al. 2024, arXiv 2412.06410). A batch is no part of inference: the
//! finished coder is a JumpReLU whose one threshold is the running average of the smallest value
//! that a training batch kept. Matryoshka coders choose and finish in the same way.

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{BatchTopK as Chosen, SparseCodes, encode_batch_topk};

use crate::architectures::{Architecture, Rule};
use crate::coder::Coder;
use crate::error::CoderError;
use crate::fold::{Fold, fold};
use crate::scaling::Scaling;
use crate::sparse_coder::SparseCoder;

pub(crate) struct BatchTopK {
    pub(crate) k: usize,
    /// Why such a coder is not stored.
    pub(crate) not_stored: &'static str,
}

impl Rule for BatchTopK {
    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        coder.encode_batch(x, self.k).codes
    }

    fn finish(
        &self,
        coder: &SparseCoder,
        threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, CoderError> {
        let how = Fold {
            threshold: Some(threshold),
            ..Fold::default()
        };
        Ok(SparseCoder {
            architecture: Architecture::JumpRelu,
            ..fold(coder, scaling, how)?
        })
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

impl SparseCoder {
    /// The codes of `x` `[n, d_in]`, from which `b_dec` is already subtracted where it must be: the
    /// n·k largest positive pre-activations of all rows together, with the smallest value that was
    /// kept.
    #[must_use]
    pub fn encode_batch(&self, x: Tensor<2>, k: usize) -> Chosen {
        encode_batch_topk(x, self.w_enc(), self.b_enc(), k.min(self.d_sae()))
    }
}
