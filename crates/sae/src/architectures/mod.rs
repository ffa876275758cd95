//! How each architecture is trained, one file each: which codes a batch gets, with what is needed
//! to differentiate them, and which penalty. [`crate::step`] does the rest.

mod batchtopk;
mod gated;
mod jumprelu;
mod matching_pursuit;
mod matryoshka;
mod proximal;
pub(crate) mod standard;
mod start;
mod topk;

use burn::tensor::{Int, Tensor};
use lapidary_coder::{Architecture, ArchitectureKind, SparseCoder, Weights};
use lapidary_io::settings::{Reader, SettingsError};

use crate::encoded::{Encoded, LayerInput};
use crate::keys::{
    AfterReading, CoderConfig, DeadLatents, Facts, Key, Loss, ResolvedCoder, ResolvedTraining,
    TrainingConfig, Values, Widths,
};
use crate::parameters::Parameters;
use crate::schedule::rise;

pub(crate) use batchtopk::ThresholdAverage;
pub use jumprelu::{JumpReluConfig, JumpReluPenalty, ResolvedJumpRelu};
pub use matching_pursuit::{PursuitConfig, ResolvedPursuit};
pub use matryoshka::{MatryoshkaConfig, ResolvedMatryoshka};
pub use proximal::{ProximalConfig, ResolvedProximal};

/// Declares the tables of a recipe that belong to one architecture each.
macro_rules! tables {
    ($( $(#[doc = $doc:literal])+ $kind:ident, $field:ident: $written:ty => $resolved:ty; )+) => {
        /// The tables of a recipe that belong to one architecture each, as read.
        #[derive(Clone, Debug, PartialEq)]
        pub struct ArchitectureTables { $( $(#[doc = $doc])+ pub $field: $written, )+ }

        /// The tables of a recipe that belong to one architecture each, every value filled in.
        #[derive(Clone, Debug, PartialEq)]
        pub struct ResolvedTables { $( $(#[doc = $doc])+ pub $field: $resolved, )+ }

        impl ArchitectureTables {
            /// All of them, so that a mistake in one shows whichever architecture is chosen.
            pub(crate) fn read(r: &mut Reader, after: &AfterReading) -> Result<Self, SettingsError> {
                Ok(Self { $( $field: <$written>::read(r, after)?, )+ })
            }

            pub(crate) fn resolve(&self, widths: &Widths) -> ResolvedTables {
                ResolvedTables { $( $field: self.$field.resolve(widths), )+ }
            }

            /// The same, the table of `kind` with every value filled in.
            pub(crate) fn filled(&self, kind: ArchitectureKind, resolved: &ResolvedTables) -> Self {
                let mut filled = self.clone();
                match kind {
                    $( ArchitectureKind::$kind => filled.$field = (&resolved.$field).into(), )+
                    _ => {}
                }
                filled
            }

            /// The keys of `kind`'s table with their values.
            pub(crate) fn values(&self, kind: ArchitectureKind) -> Values {
                match kind {
                    $( ArchitectureKind::$kind => self.$field.values(), )+
                    _ => vec![],
                }
            }

            /// The keys of each table.
            pub(crate) fn keys() -> Vec<Vec<Key>> {
                vec![ $( <$written>::keys(), )+ ]
            }
        }
    };
}

tables! {
    /// What only "jumprelu" has.
    JumpRelu, jumprelu: JumpReluConfig => ResolvedJumpRelu;
    /// What only "matryoshka" has.
    Matryoshka, matryoshka: MatryoshkaConfig => ResolvedMatryoshka;
    /// What only "matching_pursuit" has.
    MatchingPursuit, pursuit: PursuitConfig => ResolvedPursuit;
    /// What only "proximal" has.
    Proximal, proximal: ProximalConfig => ResolvedProximal;
}

/// What a recipe says of the weights that the first batch decides.
pub(crate) struct StartContext<'a> {
    pub(crate) tables: &'a ResolvedTables,
    /// Latents that should be active per token, if a controller sees to it.
    pub(crate) target_l0: Option<f64>,
}

/// Where training stands when a batch comes.
#[derive(Clone, Copy)]
pub(crate) struct StepContext<'a> {
    pub(crate) coder: &'a ResolvedCoder,
    pub(crate) training: &'a ResolvedTraining,
    pub(crate) tables: &'a ResolvedTables,
    /// Steps done.
    pub(crate) step: u64,
    /// The dead latents of each layer, ascending and counted within it, if there are any.
    pub(crate) dead: &'a [Option<Tensor<1, Int>>],
    /// What `coder.target_l0` multiplies the weight of a sparsity penalty by.
    pub(crate) l0_factor: f64,
}

impl StepContext<'_> {
    /// Whether dead latents have an auxiliary loss of any weight.
    pub(crate) fn has_aux_k(&self) -> bool {
        let training = self.training;
        training.revival == DeadLatents::AuxK
            && training.aux_k > 0
            && training.aux_k_coefficient > 0.0
    }

    /// The weight of the coder's own loss: 1, or what the recipe gives it beside a loss through the
    /// model.
    pub(crate) const fn local_weight(&self) -> f64 {
        match self.training.loss {
            Loss::Local => 1.0,
            Loss::Kl | Loss::Ce => self.training.local_coefficient,
        }
    }

    /// How far the weight of a sparsity penalty has risen, up to 1.
    pub(crate) fn penalty_rise(&self) -> f64 {
        rise(self.step, self.training.sparsity_warmup_steps)
    }

    /// What the recipe's weight of a sparsity penalty is multiplied by.
    pub(crate) fn penalty_factor(&self) -> f64 {
        self.penalty_rise() * self.l0_factor
    }
}

/// A value that contradicts others of the same table.
pub(crate) struct Wrong {
    pub(crate) key: &'static str,
    pub(crate) found: String,
    pub(crate) expected: &'static str,
}

/// What an architecture may contradict in a recipe.
pub(crate) struct Choices<'a> {
    pub(crate) coder: &'a CoderConfig,
    pub(crate) training: &'a TrainingConfig,
    pub(crate) tables: &'a ArchitectureTables,
    pub(crate) d_sae: usize,
    /// Training steps.
    pub(crate) steps: u64,
}

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

/// What recipes must know of an architecture.
pub(crate) fn facts(kind: ArchitectureKind) -> Facts {
    method(kind).facts()
}

/// How an architecture is trained.
pub(crate) trait Method: Sync {
    /// What it combines with, and its defaults.
    fn facts(&self) -> Facts {
        Facts::DEFAULT
    }

    /// The architecture with the parameters that a recipe gives it.
    fn architecture(
        &self,
        kind: ArchitectureKind,
        k: usize,
        _tables: &ArchitectureTables,
    ) -> Architecture {
        kind.with_k(k)
    }

    /// What cannot be in its own table, whichever architecture is chosen.
    fn wrong(&self, _tables: &ArchitectureTables) -> Option<Wrong> {
        None
    }

    /// What in a recipe with this architecture cannot be.
    fn contradiction(&self, _choices: &Choices<'_>) -> Option<String> {
        None
    }

    /// Weights to start from: `b_dec` at the centre of the data, encoder and decoder as given. The
    /// encoder's bias starts at 0.
    fn init(
        &self,
        w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _tables: &ResolvedTables,
    ) -> Weights {
        let b_enc = Tensor::<1>::zeros([w_dec.dims()[0]], &w_dec.device());
        Weights::new([
            ("w_enc", w_enc.into()),
            ("b_enc", b_enc.into()),
            ("w_dec", w_dec.into()),
            ("b_dec", b_dec.into()),
        ])
    }

    /// A layer ready to train, where the start depends on the activations `x` `[n, d]` of the first
    /// batch.
    fn start(&self, coder: SparseCoder, _x: Tensor<2>, _given: &StartContext<'_>) -> SparseCoder {
        coder
    }

    /// The codes of a layer, with what is needed to differentiate them, and its penalty.
    fn encode(&self, layer: &LayerInput<'_>, context: &StepContext<'_>) -> Encoded;

    /// Brings weights back to where they mean something, after each update.
    fn project(&self, _parameters: &mut Parameters) {}

    /// In a run with `coder.target_l0`, after each step: `change` is above 0 if too many latents
    /// are active. For coders whose weights have thresholds of their own, the logarithm of which
    /// moves by it.
    fn steer(&self, _parameters: &mut Parameters, _change: f64) {}
}
