//! Training of standard coders: ReLU latents, made sparse by an L1 penalty (Bricken et al. 2023,
//! "Towards monosemanticity"; the penalty weighs each latent by the norm of its decoder row, as in
//! Anthropic's April 2024 update). It is dense: the penalty needs every latent.

use burn::tensor::{Tensor, activation::relu};
use lapidary_coder::{Coder, SparseCoder};

use super::start::lowered;
use super::{Method, StartContext, StepContext};
use crate::encoded::{Backward, Codes, Encoded, LayerInput, Weighted};
use crate::keys::{Facts, SparsityPenalty};
use crate::losses;

pub(crate) struct Standard;

impl Method for Standard {
    fn facts(&self) -> Facts {
        Facts {
            frees_decoder_norm: true,
            has_ghost_gradients: true,
            can_be_resampled: true,
            penalty_weight: Some("training.l1_coefficient"),
            lr_factor: 1.5,
            trains_end_to_end: true,
            ..Facts::DEFAULT
        }
    }

    fn start(&self, coder: SparseCoder, x: Tensor<2>, given: &StartContext<'_>) -> SparseCoder {
        lowered(coder, x, "b_enc", given.target_l0)
    }

    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let coder = layer.coder.tracked();
        let values = latents(&coder, coder.centre(layer.x.clone().autodiff()));
        let training = context.training;
        let (w_dec, widths) = (coder.w_dec(), layer.widths);
        let term = match training.sparsity_penalty {
            SparsityPenalty::L1 => losses::l1(values.clone(), w_dec, widths),
            SparsityPenalty::Tanh => {
                losses::tanh(values.clone(), w_dec, widths, training.tanh_scale)
            }
        };
        Encoded {
            penalty: Some(Weighted {
                term,
                weight: training.l1_coefficient * context.penalty_factor(),
            }),
            ..Encoded::new(
                Codes::Dense(values.clone().inner()),
                Backward::Tracked { coder, values },
            )
        }
    }
}

/// Latents of `x`, centred, `[n, d_sae]`.
pub(crate) fn latents(coder: &SparseCoder, x: Tensor<2>) -> Tensor<2> {
    relu(x.matmul(coder.w_enc().transpose()) + coder.b_enc().unsqueeze())
}
