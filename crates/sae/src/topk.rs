//! TopK: of each token the k largest pre-activations, if positive (Gao et al. 2024, "Scaling and evaluating sparse
//! autoencoders", arXiv 2406.04093).

use burn::tensor::{Tensor, activation::relu};
use lapidary_kernels::{SparseCodes, encode_topk};

use crate::coder::SparseCoder;
#[cfg(test)]
use crate::coder::{Codes, Forward};

/// Codes of `x` `[n, d_in]`, from which `b_dec` is already subtracted where it must be.
pub(crate) fn encode(coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
    let k = coder.k.min(coder.d_sae());
    let codes = encode_topk(x, coder.w_enc.clone(), coder.b_enc.clone(), k);
    SparseCodes {
        values: relu(codes.values),
        indices: codes.indices,
    }
}

/// A training pass over `x`, centred, for automatic differentiation: what `sparse_step.rs` is tested against.
#[cfg(test)]
pub(crate) fn forward(coder: &SparseCoder, x: Tensor<2>) -> Forward {
    let codes = encode(coder, x);
    Forward {
        reconstruction: coder.decode(codes.clone()),
        codes: Codes::Sparse(codes),
    }
}
