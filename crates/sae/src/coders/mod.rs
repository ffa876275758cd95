//! What makes one architecture differ from another, one file each: its weights, how it encodes, what it minimizes, how
//! it is stored, and what it asks of a recipe. Trainer, checkpoint, evaluation and tables go through [`Method`].

mod batchtopk;
mod gated;
#[cfg(test)]
mod gradients;
mod jumprelu;
pub(crate) mod matching_pursuit;
mod matryoshka;
pub(crate) mod proximal;
pub(crate) mod standard;
mod topk;
#[cfg(test)]
mod transcoder_gradients;

use std::fmt;

use burn::tensor::{Int, Tensor};
use lapidary_kernels::{SparseCodes, SparseGradient};
use serde_json::Value;

use crate::coder::{SparseCoder, Weight, Weights};
use crate::config::{CoderConfig, RunConfig};
use crate::end_to_end::Loss;
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::fold::{Fold, fold};
use crate::formats::saelens::Cfg;
use crate::parameters::Parameters;
use crate::penalty::Penalty;
use lapidary_kernels::Pursuit;

pub(crate) use batchtopk::ThresholdAverage;
pub use jumprelu::JumpReluConfig;
pub use matryoshka::MatryoshkaConfig;

/// How a coder chooses which latents are active.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Architecture {
    /// Every latent with a positive pre-activation; sparse because of an L1 penalty in training.
    Standard,
    /// The k largest pre-activations of each token, if positive.
    TopK,
    /// The n·k largest positive pre-activations of a batch of n tokens: only in training. Finished, it is a [`Self::JumpRelu`].
    BatchTopK,
    /// As BatchTopK, but prefixes of the latents reconstruct by themselves: only in training.
    Matryoshka,
    /// Every latent whose pre-activation is above its threshold.
    JumpRelu,
    /// Every latent whose gate is open, with a value of its own.
    Gated,
    /// Decoder rows taken away one after the other, as the pursuit says.
    MatchingPursuit(Pursuit),
    /// What a penalty's proximal operator makes of pre-activations.
    Proximal(Penalty),
}

impl Architecture {
    /// All there are.
    pub(crate) const ALL: [Self; 8] = [
        Self::Standard,
        Self::TopK,
        Self::BatchTopK,
        Self::Matryoshka,
        Self::JumpRelu,
        Self::Gated,
        Self::MatchingPursuit(Pursuit::PLAIN),
        Self::Proximal(proximal::DEFAULT),
    ];

    /// What makes it: the one place that asks which it is.
    pub(crate) fn method(self) -> &'static dyn Method {
        match self {
            Self::Standard => &standard::Standard,
            Self::TopK => &topk::TopK,
            Self::BatchTopK => &batchtopk::BatchTopK,
            Self::Matryoshka => &matryoshka::Matryoshka,
            Self::JumpRelu => &jumprelu::JumpRelu,
            Self::Gated => &gated::Gated,
            Self::MatchingPursuit(_) => &matching_pursuit::MatchingPursuit,
            Self::Proximal(_) => &proximal::Proximal,
        }
    }

    /// The name in recipes and in `cfg.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.method().name()
    }

    /// Why a coder of this kind is not stored as it is, if it is not.
    #[must_use]
    pub fn not_stored(self) -> Option<&'static str> {
        self.method().not_stored()
    }

    /// Whether a recipe's `k` means something to it.
    #[must_use]
    pub fn takes_k(self) -> bool {
        self.method().takes_k()
    }

    /// That of a recipe, with what the recipe says of it.
    pub(crate) fn of(coder: &CoderConfig) -> Self {
        let found = Self::named(&coder.architecture);
        match found.expect("recipes are checked when they are read") {
            Self::MatchingPursuit(usual) => {
                Self::MatchingPursuit(coder.matching_pursuit.unwrap_or(usual))
            }
            Self::Proximal(usual) => Self::Proximal(coder.proximal.unwrap_or(usual)),
            found => found,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An architecture.
pub(crate) trait Method: Sync {
    /// The name in recipes and in `cfg.json`.
    fn name(&self) -> &'static str;

    /// Whether `coder.k` means something to it.
    fn takes_k(&self) -> bool {
        true
    }

    /// Whether `coder.k` counts steps, which may take a latent again, and not latents.
    fn repeats(&self) -> bool {
        false
    }

    /// The largest `k` of a coder with this number of latents.
    fn most_k(&self, latents: usize) -> usize {
        latents
    }

    /// Whether decoder rows may have any norm in training, and then do unless the recipe says otherwise.
    fn frees_decoder_norm(&self) -> bool {
        false
    }

    /// Whether it chooses by the number of latents alone. As a transcoder its decoder may then start at 0, free.
    fn counts_latents(&self) -> bool {
        false
    }

    /// Whether it has an encoder apart from its decoder, which transcoders and crosscoders need.
    fn has_encoder(&self) -> bool {
        true
    }

    /// Whether its dead latents can make an auxiliary loss by AuxK.
    fn has_aux_k(&self) -> bool {
        self.counts_latents()
    }

    /// Whether they can have ghost gradients or be resampled: latents that compete for places would not fire with the small weights they
    /// then have.
    fn has_ghosts(&self) -> bool {
        false
    }

    /// Whether its gradients can come from a loss through the model.
    fn learns_end_to_end(&self) -> bool {
        false
    }

    /// Whether it can choose the latents of a cross-layer transcoder, layer by layer.
    fn crosses_layers(&self) -> bool {
        false
    }

    /// Norm of decoder rows at the start, where they may have any and the recipe has none.
    fn free_initial_norm(&self) -> f64 {
        0.1
    }

    /// What in a recipe cannot be with `d_sae` latents of this kind, if anything.
    fn contradiction(&self, _config: &RunConfig, _d_sae: usize) -> Option<String> {
        None
    }

    /// Peak learning rate where the recipe has none.
    fn default_lr(&self, d_sae: usize) -> f64 {
        2e-4 / (d_sae as f64 / 16_384.0).sqrt()
    }

    /// Names and shapes of the weights, as they are inside: `[d_sae, d_in]` and `[d_sae, d_out]` for encoder and decoder. A
    /// skip connection comes on top.
    fn shapes(&self, d_in: usize, d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_enc", vec![d_sae]),
            ("w_dec", vec![d_sae, d_out]),
            ("b_dec", vec![d_out]),
        ]
    }

    /// Weights to start from: `b_dec` at the centre of the data, encoder and decoder as given. The encoder's bias starts at 0.
    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _config: &RunConfig,
    ) -> Weights {
        let b_enc = Tensor::<1>::zeros([w_dec.dims()[0]], &w_dec.device());
        Weights::new([
            ("w_enc", w_enc.into()),
            ("b_enc", b_enc.into()),
            ("w_dec", w_dec.into()),
            ("b_dec", b_dec.into()),
        ])
    }

    /// Codes of `x` `[n, d_in]`, from which `b_dec` is already subtracted where it must be.
    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes;

    /// Loss and gradients of the batch; nothing tracks gradients.
    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned;

    /// Brings weights back to where they mean something, after each update.
    fn project(&self, _parameters: &mut Parameters) {}

    /// The coder that does to raw activations what `coder` does to normalized ones, `scaling` apart; `threshold` is the moving average of what
    /// [`Terms::threshold`] said.
    fn finish(
        &self,
        coder: &SparseCoder,
        _threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        fold(coder, scaling, Fold::default())
    }

    /// Why a coder of this kind is not stored as it is, if it is not.
    fn not_stored(&self) -> Option<&'static str> {
        None
    }

    /// What `cfg.json` says of such a coder beyond what it says of every one.
    fn cfg(&self, _coder: &SparseCoder) -> Vec<(&'static str, Value)> {
        vec![]
    }

    /// Names besides its own under which `cfg.json` may have it.
    fn other_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads back what [`Method::cfg`] wrote into `coder`, whose weights are as they stand in the file.
    fn read_cfg(&self, _cfg: &Cfg, coder: SparseCoder) -> Result<SparseCoder, SaeError> {
        Ok(coder)
    }
}

/// Where training stands when a batch comes.
pub(crate) struct Now<'a> {
    /// The resolved recipe.
    pub(crate) config: &'a RunConfig,
    /// Steps done.
    pub(crate) step: u64,
    /// Of each layer the dead latents, ascending and counted within it, if there are any; most coders are of one layer.
    pub(crate) dead: &'a [Option<Tensor<1, Int>>],
}

impl Now<'_> {
    /// Weight of the coder's own loss: 1, or what the recipe gives it beside a loss through the model.
    pub(crate) fn local_weight(&self) -> f64 {
        let training = &self.config.training;
        match Loss::named(&training.loss) {
            Loss::Local => 1.0,
            Loss::Kl | Loss::Ce => training.local_coefficient,
        }
    }

    /// The dead latents of a layer, if there are any.
    pub(crate) fn dead_of_layer(&self, layer: usize) -> Option<Tensor<1, Int>> {
        self.dead.get(layer).cloned().flatten()
    }
}

/// What came of a batch.
pub(crate) struct Learned {
    pub(crate) terms: Terms,
    pub(crate) gradients: Vec<(&'static str, Gradient)>,
}

/// The loss and its parts, each `[1]`.
pub(crate) struct Terms {
    /// What is minimized.
    pub(crate) total: Tensor<1>,
    /// Squared error of a token.
    pub(crate) mse: Tensor<1>,
    /// The same over the batch's variance.
    pub(crate) fvu: Tensor<1>,
    /// Sparsity penalty before its coefficient.
    pub(crate) penalty: Option<Tensor<1>>,
    /// Auxiliary loss before its coefficient.
    pub(crate) aux: Option<Tensor<1>>,
    /// What fired.
    pub(crate) codes: Codes,
    /// The smallest value kept in this batch, 0 if none, where that is averaged.
    pub(crate) threshold: Option<f32>,
}

/// The gradient of one weight.
#[allow(clippy::large_enum_variant)] // as with codes
pub(crate) enum Gradient {
    Matrix(Tensor<2>),
    /// Sparse by latent.
    Rows(SparseGradient),
    Vector(Tensor<1>),
}

/// Activations of latents, in the form in which an architecture has them.
#[allow(clippy::large_enum_variant)] // one lives at a time, and both are handles to a device's memory
pub(crate) enum Codes {
    /// `[n, k]` values and indices.
    Sparse(SparseCodes),
    /// `[n, d_sae]`
    Dense(Tensor<2>),
}

/// The gradients of `loss` in the tracked weights of `coder`, zeros where it does not touch them.
pub(crate) fn differentiate(
    coder: &SparseCoder,
    loss: &Tensor<1>,
) -> Vec<(&'static str, Gradient)> {
    let mut gradients = loss.backward();
    let weights = coder.weights.iter();
    weights
        .map(|(name, weight)| {
            let gradient = match weight {
                Weight::Matrix(t) => Gradient::Matrix(
                    t.grad_remove(&mut gradients)
                        .unwrap_or_else(|| t.clone().inner().zeros_like()),
                ),
                Weight::Vector(t) => Gradient::Vector(
                    t.grad_remove(&mut gradients)
                        .unwrap_or_else(|| t.clone().inner().zeros_like()),
                ),
            };
            (name, gradient)
        })
        .collect()
}
