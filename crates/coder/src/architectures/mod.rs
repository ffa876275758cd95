//! The architectures: each with its own parameters, and one file each for its weights, its encoder,
//! how it is finished, and its parameters in files.

mod batchtopk;
mod gated;
mod jumprelu;
mod matching_pursuit;
mod proximal;
mod standard;
mod topk;

use std::fmt;

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_io::settings::Named;
use lapidary_kernels::{Pursuit, SparseCodes};
use serde_json::Value;

use crate::error::CoderError;
use crate::fold::{Fold, Normalized, fold};
use crate::penalty::Penalty;
use crate::weights::Weights;

/// How a coder chooses which latents are active, with the parameters of that choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Architecture {
    /// Every latent with a positive pre-activation; an L1 penalty in training makes it sparse.
    Standard,
    /// The `k` largest pre-activations of each token, if positive.
    TopK {
        /// Active latents per token.
        k: usize,
    },
    /// The n·k largest positive pre-activations of a batch of n tokens. In training only: the
    /// finished coder is a [`Self::JumpRelu`].
    BatchTopK {
        /// Active latents per token, on average.
        k: usize,
    },
    /// BatchTopK whose prefixes of latents reconstruct by themselves. In training only.
    Matryoshka {
        /// Active latents per token, on average.
        k: usize,
    },
    /// Every latent whose pre-activation is above its threshold.
    JumpRelu,
    /// Every latent whose gate is open, with a value from a second affine map.
    Gated,
    /// Decoder rows subtracted one after the other.
    MatchingPursuit {
        /// Steps, each of which subtracts one row. It may differ from training.
        steps: usize,
        /// How it pursues.
        pursuit: Pursuit,
    },
    /// The proximal operator of a penalty, applied to pre-activations.
    Proximal(Penalty),
}

/// An architecture without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchitectureKind {
    /// [`Architecture::Standard`]
    Standard,
    /// [`Architecture::TopK`]
    TopK,
    /// [`Architecture::BatchTopK`]
    BatchTopK,
    /// [`Architecture::Matryoshka`]
    Matryoshka,
    /// [`Architecture::JumpRelu`]
    JumpRelu,
    /// [`Architecture::Gated`]
    Gated,
    /// [`Architecture::MatchingPursuit`]
    MatchingPursuit,
    /// [`Architecture::Proximal`]
    Proximal,
}

/// The names in recipes and in `cfg.json`.
impl Named for ArchitectureKind {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Standard, "standard"),
        (Self::TopK, "topk"),
        (Self::BatchTopK, "batchtopk"),
        (Self::Matryoshka, "matryoshka"),
        (Self::JumpRelu, "jumprelu"),
        (Self::Gated, "gated"),
        (Self::MatchingPursuit, "matching_pursuit"),
        (Self::Proximal, "proximal"),
    ];
}

impl ArchitectureKind {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.iter().map(|(kind, _)| *kind)
    }

    /// An architecture of this kind. `k` is the number of active latents or steps, where the kind
    /// has one; other parameters have the values that they have where nothing says otherwise.
    #[must_use]
    pub const fn with_k(self, k: usize) -> Architecture {
        match self {
            Self::Standard => Architecture::Standard,
            Self::TopK => Architecture::TopK { k },
            Self::BatchTopK => Architecture::BatchTopK { k },
            Self::Matryoshka => Architecture::Matryoshka { k },
            Self::JumpRelu => Architecture::JumpRelu,
            Self::Gated => Architecture::Gated,
            Self::MatchingPursuit => Architecture::MatchingPursuit {
                steps: k,
                pursuit: Pursuit::PLAIN,
            },
            Self::Proximal => Architecture::Proximal(Penalty::DEFAULT),
        }
    }

    /// How latents are chosen, in a few words.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Standard => {
                "ReLU, with a penalty on the activations (`training.sparsity_penalty`)"
            }
            Self::TopK => "the k largest pre-activations per token",
            Self::BatchTopK => {
                "the largest pre-activations of the whole batch, k per token on average"
            }
            Self::Matryoshka => {
                "as `batchtopk`, but the loss also has the error of the reconstruction from only the first w \
                 latents, for several w"
            }
            Self::JumpRelu => {
                "the pre-activations above a threshold that is trained for each latent"
            }
            Self::Gated => {
                "each latent has a gate, which decides whether it is active, and a magnitude, which is its value if it is active"
            }
            Self::MatchingPursuit => {
                "in each step, the latent whose decoder row fits the residual best"
            }
            Self::Proximal => "the proximal operator of a penalty (convex or not) instead of ReLU",
        }
    }

    fn rule(self) -> Box<dyn Rule> {
        self.with_k(1).rule()
    }

    /// Whether `k` means something to it.
    #[must_use]
    pub fn takes_k(self) -> bool {
        self.rule().takes_k()
    }

    /// Whether `k` counts steps, which may choose a latent again, and not latents.
    #[must_use]
    pub fn counts_steps(self) -> bool {
        self.rule().counts_steps()
    }

    /// The largest `k` of a coder with this number of latents.
    #[must_use]
    pub fn most_k(self, latents: usize) -> usize {
        self.rule().most_k(latents)
    }

    /// Whether its encoder can read other activations than its decoder reconstructs, as transcoders
    /// and crosscoders need.
    #[must_use]
    pub fn has_encoder(self) -> bool {
        self.rule().has_encoder()
    }

    /// Whether it can be the architecture of a cross-layer transcoder.
    #[must_use]
    pub fn crosses_layers(self) -> bool {
        self.rule().crosses_layers()
    }

    /// Why a coder of this kind is not stored as it is, if it is not.
    #[must_use]
    pub fn not_stored(self) -> Option<&'static str> {
        self.rule().not_stored()
    }

    /// Names and shapes of the weights, without those of a skip connection.
    #[must_use]
    pub fn shapes(
        self,
        d_in: usize,
        d_out: usize,
        d_sae: usize,
    ) -> Vec<(&'static str, Vec<usize>)> {
        self.rule().shapes(d_in, d_out, d_sae)
    }
}

pub(crate) use batchtopk::encode_batch;

impl fmt::Display for ArchitectureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Architecture {
    /// Which one it is.
    #[must_use]
    pub const fn kind(self) -> ArchitectureKind {
        match self {
            Self::Standard => ArchitectureKind::Standard,
            Self::TopK { .. } => ArchitectureKind::TopK,
            Self::BatchTopK { .. } => ArchitectureKind::BatchTopK,
            Self::Matryoshka { .. } => ArchitectureKind::Matryoshka,
            Self::JumpRelu => ArchitectureKind::JumpRelu,
            Self::Gated => ArchitectureKind::Gated,
            Self::MatchingPursuit { .. } => ArchitectureKind::MatchingPursuit,
            Self::Proximal(_) => ArchitectureKind::Proximal,
        }
    }

    /// The name in recipes and in `cfg.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.kind().name()
    }

    /// What makes it: the one place that chooses an implementation.
    pub(crate) fn rule(self) -> Box<dyn Rule> {
        match self {
            Self::Standard => Box::new(standard::Standard),
            Self::TopK { k } => Box::new(topk::TopK { k }),
            Self::BatchTopK { k } => Box::new(batchtopk::BatchTopK {
                architecture: self,
                k,
                not_stored: "a BatchTopK coder is stored as the JumpReLU that it becomes when training finishes",
            }),
            Self::Matryoshka { k } => Box::new(batchtopk::BatchTopK {
                architecture: self,
                k,
                not_stored: "a Matryoshka coder is stored as the JumpReLU that it becomes when training finishes",
            }),
            Self::JumpRelu => Box::new(jumprelu::JumpRelu),
            Self::Gated => Box::new(gated::Gated),
            Self::MatchingPursuit { steps, pursuit } => {
                Box::new(matching_pursuit::MatchingPursuit { steps, pursuit })
            }
            Self::Proximal(penalty) => Box::new(proximal::Proximal { penalty }),
        }
    }

    /// Active latents per token, or steps, of those that have such a number.
    #[must_use]
    pub const fn k(self) -> Option<usize> {
        match self {
            Self::TopK { k } | Self::BatchTopK { k } | Self::Matryoshka { k } => Some(k),
            Self::MatchingPursuit { steps, .. } => Some(steps),
            Self::Standard | Self::JumpRelu | Self::Gated | Self::Proximal(_) => None,
        }
    }

    /// The same with another `k`; unchanged where it has none.
    #[must_use]
    pub const fn at_k(self, k: usize) -> Self {
        match self {
            Self::MatchingPursuit { pursuit, .. } => Self::MatchingPursuit { steps: k, pursuit },
            Self::Proximal(penalty) => Self::Proximal(penalty),
            other => other.kind().with_k(k),
        }
    }

    /// The same with the weight of a penalty that is part of encoding multiplied by `factor`.
    #[must_use]
    pub const fn with_penalty_times(self, factor: f64) -> Self {
        match self {
            Self::Proximal(mut penalty) => {
                penalty.weight *= factor;
                Self::Proximal(penalty)
            }
            other => other,
        }
    }

    /// The parameters as `cfg.json` keeps them, by name.
    #[must_use]
    pub fn parameters(self) -> Vec<(&'static str, Value)> {
        self.rule().parameters()
    }

    /// Reads back what [`Architecture::parameters`] gave, for a coder with these widths and this
    /// number of latents.
    ///
    /// # Errors
    /// A field holds something that cannot be.
    pub fn read_parameters(
        kind: ArchitectureKind,
        fields: &Fields,
        sizes: [usize; 3],
    ) -> Result<Self, CoderError> {
        kind.rule().read_parameters(fields, sizes)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A finished coder's architecture and weights.
pub(crate) type Finished = (Architecture, Weights);

/// What an architecture is, with its parameters.
pub(crate) trait Rule {
    /// Codes of `x` `[n, d_in]`, from which `b_dec` is already subtracted where it must be.
    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes;

    /// The architecture that this is.
    fn architecture(&self) -> Architecture;

    /// Names and shapes of the weights: `[d_sae, d_in]` and `[d_sae, d_out]` for encoder and
    /// decoder. A skip connection comes on top.
    fn shapes(&self, d_in: usize, d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_enc", vec![d_sae]),
            ("w_dec", vec![d_sae, d_out]),
            ("b_dec", vec![d_out]),
        ]
    }

    /// Architecture and weights of the coder for raw activations that does what these weights do
    /// for normalized ones. `threshold` is the running average of the smallest value that a
    /// training batch kept, for an architecture that has one.
    fn finish(&self, normalized: &Normalized<'_>, _threshold: f64) -> Result<Finished, CoderError> {
        let weights = fold(normalized, Fold::default())?;
        Ok((self.architecture(), weights))
    }

    fn takes_k(&self) -> bool {
        false
    }

    fn counts_steps(&self) -> bool {
        false
    }

    fn most_k(&self, latents: usize) -> usize {
        latents
    }

    fn has_encoder(&self) -> bool {
        true
    }

    fn crosses_layers(&self) -> bool {
        false
    }

    fn not_stored(&self) -> Option<&'static str> {
        None
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        vec![]
    }

    /// `sizes` are `d_in`, `d_out` and `d_sae`.
    fn read_parameters(
        &self,
        fields: &Fields,
        sizes: [usize; 3],
    ) -> Result<Architecture, CoderError>;
}
