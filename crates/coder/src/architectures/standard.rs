//! Standard: ReLU latents (Bricken et al. 2023, "Towards monosemanticity"). The encoder is
//! JumpReLU's, with threshold 0.

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::architectures::{Architecture, Rule};
use crate::coder::Coder;
use crate::error::CoderError;
use crate::sparse_coder::SparseCoder;

pub(crate) struct Standard;

impl Rule for Standard {
    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        positive(coder, x)
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn read_parameters(&self, _: &Fields, _: [usize; 3]) -> Result<Architecture, CoderError> {
        Ok(Architecture::Standard)
    }
}

/// The positive pre-activations of `x`, from which `b_dec` is already subtracted where it must be.
pub(crate) fn positive(coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
    let b_enc = coder.b_enc();
    let threshold = b_enc.zeros_like();
    encode_threshold(x, coder.w_enc(), b_enc, threshold)
}
