//! Training of Matryoshka coders: BatchTopK coders of which every prefix of the latents
//! reconstructs by itself, so that the first ones stay general (Bussmann, Nabeshima, Karvonen,
//! Nanda 2025, "Learning multi-level features with Matryoshka sparse autoencoders", arXiv
//! 2503.17547). The latents are chosen once, among all; each prefix decodes those of them that it
//! has.

use super::Method;
use super::batchtopk::BatchTopK;
use crate::encoded::{Codes, Encoded, LayerInput, StepContext, SubsetLoss};

pub(crate) struct Matryoshka;

impl Method for Matryoshka {
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
