//! Training of Matryoshka coders: BatchTopK coders of which every prefix of the latents
//! reconstructs by itself, so that the first ones stay general (Bussmann, Nabeshima, Karvonen,
//! Nanda 2025, "Learning multi-level features with Matryoshka sparse autoencoders", arXiv
//! 2503.17547). The latents are chosen once, among all; each prefix decodes those of them that it
//! has.

use super::batchtopk::BatchTopK;
use crate::architectures::{LayerInput, Method};
use crate::recipe::Recipe;
use crate::step::{Codes, Encoded, StepContext, SubsetLoss};

pub(crate) struct Matryoshka;

impl Method for Matryoshka {
    fn is_topk_like(&self) -> bool {
        true
    }

    fn validation_error(&self, recipe: &Recipe, d_sae: usize) -> Option<String> {
        let widest = *recipe.matryoshka.widths.as_ref()?.last()?;
        (widest >= d_sae).then(|| {
            format!(
                "`coder.matryoshka.widths` goes up to {widest}, but below d_sae = {d_sae} is where prefixes end (all latents together are \
                 counted anyway)"
            )
        })
    }

    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded {
        let encoded = BatchTopK.encode(layer, context);
        let Codes::Sparse(codes) = &encoded.codes else {
            return encoded;
        };
        let prefix = |width: &usize| SubsetLoss {
            active: Some(codes.indices.clone().lower_elem(*width as i32).float()),
            weight: 1.0,
        };
        let subsets = context.recipe.matryoshka.widths.iter().map(prefix);
        Encoded {
            subsets: subsets.collect(),
            ..encoded
        }
    }
}
