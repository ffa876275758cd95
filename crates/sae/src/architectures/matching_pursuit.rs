//! Training of matching pursuit (Costa, Fel, Lubana, Tolooshams, Ba 2025, "From flat to
//! hierarchical: extracting sparse representations with matching pursuit"): the gradient goes back
//! through every step.

use burn::tensor::Tensor;
use lapidary_coder::{Architecture, Coder, Pursuit, Weights, pursuit_codes};
use lapidary_kernels::pursue;

use super::Method;
use crate::encoded::{Backward, Codes, Encoded, LayerInput, StepContext};
use crate::recipe::ResolvedRecipe;

pub(crate) struct MatchingPursuit;

impl Method for MatchingPursuit {
    fn init(
        &self,
        _w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _recipe: &ResolvedRecipe,
    ) -> Weights {
        Weights::new([("w_dec", w_dec.into()), ("b_dec", b_dec.into())])
    }

    fn encode(&self, layer: &LayerInput<'_>, _context: &StepContext<'_>) -> Encoded {
        let coder = layer.coder;
        let (steps, pursuit) = match coder.architecture {
            Architecture::MatchingPursuit { steps, pursuit } => (steps, pursuit),
            _ => (1, Pursuit::PLAIN),
        };
        let pursued = pursue(
            coder.centre(layer.x.clone()),
            coder.w_dec(),
            steps,
            &pursuit,
            coder.weights.encoder_state(),
        );
        let codes = pursuit_codes(&pursued, coder.d_sae());
        Encoded::new(
            Codes::Sparse(codes),
            Backward::Pursuit {
                pursued,
                refit: pursuit.refit,
            },
        )
    }
}
