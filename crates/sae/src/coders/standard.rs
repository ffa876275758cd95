//! Standard: ReLU latents, made sparse by an L1 penalty (Bricken et al. 2023, "Towards monosemanticity"; the penalty
//! weighs each latent by the norm of its decoder row, as in Anthropic's April 2024 update). Training is dense: the
//! penalty needs every latent. Inference shares JumpReLU's encoder, with threshold 0.

use burn::tensor::{Int, Tensor, activation::relu};
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::coder::SparseCoder;
use crate::coders::{Codes, Learned, Method, Now};
use crate::ends::Batch;
use crate::losses;
use crate::penalized_step::{Active, Penalized, penalized_step};
use crate::schedule::rise;

pub(crate) struct Standard;

impl Method for Standard {
    fn name(&self) -> &'static str {
        "standard"
    }

    fn takes_k(&self) -> bool {
        false
    }

    fn frees_decoder_norm(&self) -> bool {
        true
    }

    fn default_lr(&self, _d_sae: usize) -> f64 {
        3e-4
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        let b_enc = coder.b_enc();
        let threshold = b_enc.zeros_like();
        encode_threshold(x, coder.w_enc(), b_enc, threshold)
    }

    fn has_ghosts(&self) -> bool {
        true
    }

    fn learns_end_to_end(&self) -> bool {
        true
    }

    fn crosses_layers(&self) -> bool {
        true
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        penalized_step(self, coder, batch, now)
    }
}

impl Penalized for Standard {
    fn active(
        &self,
        coder: &SparseCoder,
        x: Tensor<2>,
        parts: &[usize],
        _dead: Option<Tensor<1, Int>>,
        now: &Now<'_>,
    ) -> Active {
        let latents = latents(coder, x);
        let training = &now.config.training;
        let penalty = match training.sparsity_penalty.as_str() {
            "tanh" => losses::tanh(latents.clone(), coder.w_dec(), parts, training.tanh_scale),
            _ => losses::l1(latents.clone(), coder.w_dec(), parts),
        };
        Active {
            decoded: latents.clone().matmul(coder.w_dec()),
            codes: Codes::Dense(latents),
            penalty,
            aux: None,
        }
    }

    fn weights(&self, now: &Now<'_>) -> (f64, f64) {
        let training = &now.config.training;
        let warmup = training.sparsity_warmup_steps.expect("resolved");
        (training.l1_coefficient * rise(now.step, warmup), 0.0)
    }
}

/// Latents of `x`, centred, `[n, d_sae]`.
pub(crate) fn latents(coder: &SparseCoder, x: Tensor<2>) -> Tensor<2> {
    relu(x.matmul(coder.w_enc().transpose()) + coder.b_enc().unsqueeze())
}
