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

use burn::tensor::{Int, Tensor};
use lapidary_coder::{ArchitectureKind, SparseCoder, Weights};

use crate::parameters::Parameters;
use crate::recipe::{Recipe, ResolvedRecipe};
use crate::step::{Encoded, StepContext};

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

/// One layer of a coder and what it sees of a batch.
pub(crate) struct LayerInput<'a> {
    /// The layer; nothing in it tracks gradients.
    pub(crate) coder: &'a SparseCoder,
    /// What it reads, `[n, d_in]`, before `b_dec` is subtracted.
    pub(crate) x: &'a Tensor<2>,
    /// What the coder is to reconstruct, `[n, d_out]`.
    pub(crate) y: &'a Tensor<2>,
    /// The widths of the hook points in the decoder's rows, by each of which a penalty takes their
    /// norm. A layer of a cross-layer transcoder has none: its rows have one norm.
    pub(crate) widths: &'a [usize],
    /// The dead latents of the layer, ascending, if there are any.
    pub(crate) dead: Option<Tensor<1, Int>>,
}

/// How an architecture is trained.
pub(crate) trait Method: Sync {
    /// Whether it chooses by the number of latents alone: its loss is the fraction of variance
    /// unexplained, dead latents can make an auxiliary loss by AuxK, and as a transcoder its
    /// decoder may start at 0, free.
    fn is_topk_like(&self) -> bool {
        false
    }

    /// Whether the loss is the fraction of variance unexplained, and not the squared error.
    fn minimizes_fvu(&self) -> bool {
        self.is_topk_like()
    }

    /// Whether decoder rows may have any norm in training, and then do unless the recipe says
    /// otherwise.
    fn frees_decoder_norm(&self) -> bool {
        false
    }

    /// Whether dead latents can have ghost gradients or be resampled. Latents that compete for
    /// places would not fire with the small weights that they then have.
    fn has_ghost_gradients(&self) -> bool {
        false
    }

    /// Whether its gradients can come from a loss through the model.
    fn trains_end_to_end(&self) -> bool {
        false
    }

    /// The norm of decoder rows at the start, where they may have any and the recipe has none.
    fn free_initial_norm(&self) -> f64 {
        0.1
    }

    /// What in a recipe cannot be with `d_sae` latents of this kind, if anything.
    fn validation_error(&self, _recipe: &Recipe, _d_sae: usize) -> Option<String> {
        None
    }

    /// The highest learning rate where the recipe has none.
    fn default_lr(&self, d_sae: usize) -> f64 {
        2e-4 / (d_sae as f64 / 16_384.0).sqrt()
    }

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
