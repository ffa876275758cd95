//! How each architecture is trained, one file each: which codes a batch gets, with what is needed
//! to differentiate them, and which penalty. [`crate::step`] does the rest.

mod batchtopk;
mod gated;
mod jumprelu;
mod matching_pursuit;
mod matryoshka;
mod proximal;
pub(crate) mod standard;
mod topk;

use burn::tensor::Tensor;
use lapidary_coder::{ArchitectureKind, Weights};

use crate::encoded::{Encoded, LayerInput, StepContext};
use crate::parameters::Parameters;
use crate::recipe::ResolvedRecipe;

pub(crate) use batchtopk::ThresholdAverage;

/// How an architecture is trained: the one place that chooses.
pub(crate) fn method(kind: ArchitectureKind) -> &'static dyn Method {
    match kind {
        ArchitectureKind::Standard => &standard::Standard,
        ArchitectureKind::TopK => &topk::TopK,
        ArchitectureKind::BatchTopK => &batchtopk::BatchTopK,
        ArchitectureKind::Matryoshka => &matryoshka::Matryoshka,
        ArchitectureKind::JumpRelu => &jumprelu::JumpRelu,
        ArchitectureKind::Gated => &gated::Gated,
        ArchitectureKind::MatchingPursuit => &matching_pursuit::MatchingPursuit,
        ArchitectureKind::Proximal => &proximal::Proximal,
    }
}

/// How an architecture is trained.
pub(crate) trait Method: Sync {
    /// Weights to start from: `b_dec` at the centre of the data, encoder and decoder as given. The
    /// encoder's bias starts at 0.
    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _recipe: &ResolvedRecipe,
    ) -> Weights {
        let b_enc = Tensor::<1>::zeros([w_dec.dims()[0]], &w_dec.device());
        Weights::new([
            ("w_enc", w_enc.into()),
            ("b_enc", b_enc.into()),
            ("w_dec", w_dec.into()),
            ("b_dec", b_dec.into()),
        ])
    }

    /// The codes of a layer, with what is needed to differentiate them, and its penalty.
    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded;

    /// Brings weights back to where they mean something, after each update.
    fn project(&self, _parameters: &mut Parameters) {}
}
