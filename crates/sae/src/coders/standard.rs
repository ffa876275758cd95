//! Standard: ReLU latents, made sparse by an L1 penalty (Bricken et al. 2023, "Towards monosemanticity"; the penalty
//! weighs each latent by the norm of its decoder row, as in Anthropic's April 2024 update). Training is dense: the
//! penalty needs every latent. Inference shares JumpReLU's encoder, with threshold 0.

use burn::tensor::{Tensor, activation::relu};
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::coder::SparseCoder;
use crate::coders::{Codes, Learned, Method, Now, Terms, differentiate};
use crate::ends::Batch;
use crate::losses;
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

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        let coder = coder.tracked();
        let (x, y) = (batch.x.clone().autodiff(), batch.y.clone().autodiff());
        let (latents, reconstruction) = forward(&coder, coder.centre(x));
        let mse = losses::mse(y.clone(), reconstruction);
        let fvu = mse.clone() / losses::batch_variance(y);
        let penalty = losses::l1(latents.clone(), coder.w_dec(), &batch.parts);
        let training = &now.config.training;
        let warmup = training.sparsity_warmup_steps.expect("resolved");
        let weight = training.l1_coefficient * rise(now.step, warmup);
        let total = mse.clone() + penalty.clone() * weight;
        Learned {
            gradients: differentiate(&coder, &total),
            terms: Terms {
                total,
                mse,
                fvu,
                penalty: Some(penalty),
                aux: None,
                codes: Codes::Dense(latents),
                threshold: None,
            },
        }
    }
}

/// Latents `[n, d_sae]` and reconstruction `[n, d_out]` of `x`, centred.
pub(crate) fn forward(coder: &SparseCoder, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let pre = x.clone().matmul(coder.w_enc().transpose()) + coder.b_enc().unsqueeze(); // [n, d_sae]
    let latents = relu(pre);
    let decoded = latents.clone().matmul(coder.w_dec()) + coder.b_dec().unsqueeze();
    (latents, coder.with_skip(decoded, x))
}
