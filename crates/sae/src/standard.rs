//! Standard: ReLU latents, made sparse by an L1 penalty (Bricken et al. 2023, "Towards monosemanticity"; the penalty
//! weighs each latent by the norm of its decoder row, as in Anthropic's April 2024 update). Training is dense: the
//! penalty needs every latent. Inference shares `jumprelu.rs`, with threshold 0.

use burn::tensor::{Tensor, activation::relu};

use crate::coder::{Codes, Forward, SparseCoder};

/// A training pass over `x` `[n, d_in]`, centred.
pub(crate) fn forward(coder: &SparseCoder, x: Tensor<2>) -> Forward {
    let pre = x.matmul(coder.w_enc.clone().transpose()) + coder.b_enc.clone().unsqueeze(); // [n, d_sae]
    let latents = relu(pre);
    Forward {
        reconstruction: latents.clone().matmul(coder.w_dec.clone())
            + coder.b_dec.clone().unsqueeze(),
        codes: Codes::Dense(latents),
    }
}
