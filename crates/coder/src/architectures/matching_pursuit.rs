//! Matching pursuit: the encoder subtracts, one after the other, the decoder rows that fit best
//! what is left (Costa, Fel, Lubana, Tolooshams, Ba 2025, "From flat to hierarchical: extracting
//! sparse representations with matching pursuit"). There is no other encoder, and the number of
//! steps may change after training.

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{Pursuit, SparseCodes, pursue};
use serde_json::{Value, json};

use crate::architectures::{Architecture, Finished, Rule};
use crate::error::CoderError;
use crate::fold::{Fold, Normalized, fold};
use crate::pursuit_codes::codes;
use crate::weights::Weights;

/// Steps that a file or a recipe may ask for: each takes time, and room in the codes.
const MOST_STEPS: usize = 1 << 16;

pub(crate) struct MatchingPursuit {
    pub(crate) steps: usize,
    pub(crate) pursuit: Pursuit,
}

impl Rule for MatchingPursuit {
    fn architecture(&self) -> Architecture {
        Architecture::MatchingPursuit {
            steps: self.steps,
            pursuit: self.pursuit,
        }
    }

    fn shapes(&self, d_in: usize, _d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![("w_dec", vec![d_sae, d_in]), ("b_dec", vec![d_in])]
    }

    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        let state = weights.encoder_state();
        let pursued = pursue(x, weights.decoder(), self.steps, &self.pursuit, state);
        codes(&pursued, weights.latents())
    }

    /// Atoms get norm 1; the threshold is one of raw activations then.
    fn finish(&self, normalized: &Normalized<'_>, _threshold: f64) -> Result<Finished, CoderError> {
        let folded = fold(normalized, Fold::default())?;
        let mut pursuit = self.pursuit;
        pursuit.residual_threshold /= normalized.scaling.unit();
        let weights = [
            ("w_dec", folded.decoder().into()),
            ("b_dec", folded.the_vector("b_dec").into()),
        ];
        let steps = self.steps;
        let architecture = Architecture::MatchingPursuit { steps, pursuit };
        Ok((architecture, Weights::new(weights)))
    }

    fn takes_k(&self) -> bool {
        true
    }

    fn counts_steps(&self) -> bool {
        true
    }

    fn most_k(&self, _latents: usize) -> usize {
        MOST_STEPS
    }

    fn has_encoder(&self) -> bool {
        false
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        let how = &self.pursuit;
        let mut parameters = vec![
            ("residual_threshold", json!(how.residual_threshold)),
            ("max_iterations", json!(self.steps)),
            (
                "stop_on_duplicate_support",
                json!(how.stop_on_duplicate_support),
            ),
        ];
        if how.signed || how.refit {
            parameters.extend([("signed", json!(how.signed)), ("refit", json!(how.refit))]);
        }
        parameters
    }

    fn read_parameters(
        &self,
        fields: &Fields,
        [d_in, ..]: [usize; 3],
    ) -> Result<Architecture, CoderError> {
        if !fields.flag("apply_b_dec_to_input", true)? {
            return Err(fields.wrong("apply_b_dec_to_input", "true").into());
        }
        Ok(Architecture::MatchingPursuit {
            steps: match fields.has("max_iterations") {
                true => fields.size_up_to("max_iterations", MOST_STEPS, "steps")?,
                false => d_in, // SAELens's default
            },
            pursuit: Pursuit {
                residual_threshold: fields.number("residual_threshold", 1e-2)?,
                stop_on_duplicate_support: fields.flag("stop_on_duplicate_support", true)?,
                signed: fields.flag("signed", false)?,
                refit: fields.flag("refit", false)?,
            },
        })
    }
}
