//! Training of matching pursuit (Costa, Fel, Lubana, Tolooshams, Ba 2025, "From flat to
//! hierarchical: extracting sparse representations with matching pursuit"): the gradient goes back
//! through every step.

use burn::tensor::Tensor;
use lapidary_coder::{Architecture, ArchitectureKind, Coder, Pursuit, Weights, pursuit_codes};
use lapidary_kernels::pursue;

use super::{ArchitectureTables, Choices, Method, ResolvedTables, StepContext};
use crate::encoded::{Backward, Codes, Encoded, LayerInput};
use crate::keys::{Facts, table};

table! {
    /// `[coder.matching_pursuit]`: what only `matching_pursuit` has. `coder.k` is the number of
    /// steps, at most 65,536; `lapidary eval --k` uses another.
    PursuitConfig -> ResolvedPursuit, "coder.matching_pursuit";
    /// A token's pursuit stops when the norm of its residual is below this value. The value is in
    /// units of the normalized activations. 0: the norm never stops the pursuit.
    residual_threshold: f64 = fixed(0.0), "0 or more" => |v| *v >= 0.0;
    /// Whether a token's pursuit stops when a step chooses a latent that is already active.
    stop_on_duplicate_support: bool = fixed(false);
    /// Whether latents may also have negative values. Each step then chooses the latent whose value
    /// has the largest magnitude.
    signed: bool = fixed(false);
    /// Whether each step fits the values of all latents chosen so far again, by least squares
    /// (orthogonal matching pursuit). The fitted values are non-negative unless `signed` is set.
    refit: bool = fixed(false);
}

pub(crate) struct MatchingPursuit;

impl Method for MatchingPursuit {
    fn facts(&self) -> Facts {
        Facts {
            minimizes_fvu: true,
            frees_decoder_norm: true,
            has_aux_k: false,
            lr_factor: 0.7,
            can_be_resampled: true,
            free_initial_norm: 1.0,
            ..Facts::DEFAULT
        }
    }

    fn architecture(
        &self,
        _: ArchitectureKind,
        k: usize,
        tables: &ArchitectureTables,
    ) -> Architecture {
        let how = &tables.pursuit;
        Architecture::MatchingPursuit {
            steps: k,
            pursuit: Pursuit {
                residual_threshold: how.residual_threshold,
                stop_on_duplicate_support: how.stop_on_duplicate_support,
                signed: how.signed,
                refit: how.refit,
            },
        }
    }

    fn contradiction(&self, choices: &Choices<'_>) -> Option<String> {
        (!choices.coder.apply_b_dec_to_input).then(|| {
            "`coder.apply_b_dec_to_input` = false does not go with `coder.architecture` = \"matching_pursuit\", \
             which always subtracts `b_dec` from its input"
                .to_owned()
        })
    }

    fn init(
        &self,
        _w_enc: Tensor<2>,
        w_dec: Tensor<2>,
        b_dec: Tensor<1>,
        _tables: &ResolvedTables,
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
