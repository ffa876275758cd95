//! Training of Matryoshka coders: BatchTopK coders of which every prefix of the latents
//! reconstructs by itself, so that the first ones stay general (Bussmann, Nabeshima, Karvonen,
//! Nanda 2025, "Learning multi-level features with Matryoshka sparse autoencoders", arXiv
//! 2503.17547). The latents are chosen once, among all; each prefix decodes those of them that it
//! has.

use super::batchtopk::BatchTopK;
use super::{Choices, Method, StepContext};
use crate::encoded::{Codes, Encoded, LayerInput, SubsetLoss};
use crate::keys::{Facts, table};

table! {
    /// `[coder.matryoshka]`: what only `matryoshka` has.
    MatryoshkaConfig -> ResolvedMatryoshka, "coder.matryoshka";
    /// Numbers of latents w, ascending and below `d_sae`. For each w in the list, the loss contains
    /// the error of the reconstruction from the first w latents. It also contains the error of the
    /// reconstruction from all latents.
    widths: Vec<usize> = later(|w| prefixes(w.d_sae), "a 16th, an 8th, a quarter and a half of `d_sae`"),
        "whole numbers, at least 1, strictly ascending" => |v: &Vec<usize>| v.first().is_some_and(|w| *w > 0) && v.windows(2).all(|w| w[0] < w[1]);
}

pub(crate) struct Matryoshka;

impl Method for Matryoshka {
    fn facts(&self) -> Facts {
        Facts::TOPK_LIKE
    }

    fn contradiction(&self, choices: &Choices<'_>) -> Option<String> {
        let d_sae = choices.d_sae;
        let widest = *choices.tables.matryoshka.widths.as_ref()?.last()?;
        (widest >= d_sae).then(|| {
            format!(
                "`coder.matryoshka.widths`: found {widest}, expected widths below d_sae = {d_sae} (the loss of all latents is always included)"
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
        let subsets = context.tables.matryoshka.widths.iter().map(prefix);
        Encoded {
            subsets: subsets.collect(),
            ..encoded
        }
    }
}

/// The prefixes where the recipe has none.
fn prefixes(d_sae: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = [16, 8, 4, 2].map(|part| d_sae / part).into();
    widths.dedup();
    widths.retain(|w| (1..d_sae).contains(w));
    widths
}
