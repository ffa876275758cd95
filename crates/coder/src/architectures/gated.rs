//! Gated: two affine maps that share directions decide whether a latent is active and how strongly
//! (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders",
//! arXiv 2404.16014). With h = ⟨w_enc, x⟩ a latent is active where the gate h + b_gate is positive;
//! its value is then ReLU(exp(r_mag) h + b_mag).

use burn::tensor::Tensor;
use lapidary_io::Fields;
use lapidary_kernels::{SparseCodes, encode_threshold};

use crate::architectures::{Architecture, Finished, Rule};
use crate::error::CoderError;
use crate::fold::{Fold, Normalized, fold};
use crate::host::vector;
use crate::weights::Weights;

pub(crate) struct Gated;

impl Rule for Gated {
    fn architecture(&self) -> Architecture {
        Architecture::Gated
    }

    fn shapes(&self, d_in: usize, d_out: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        vec![
            ("w_enc", vec![d_sae, d_in]),
            ("b_gate", vec![d_sae]),
            ("b_mag", vec![d_sae]),
            ("r_mag", vec![d_sae]),
            ("w_dec", vec![d_sae, d_out]),
            ("b_dec", vec![d_out]),
        ]
    }

    /// A JumpReLU: the gate is positive where the value exceeds b_mag − exp(r_mag) b_gate.
    fn encode(&self, weights: &Weights, x: Tensor<2>) -> SparseCodes {
        let factor = weights.the_vector("r_mag").exp();
        let b_mag = weights.the_vector("b_mag");
        let threshold = b_mag.clone() - factor.clone() * weights.the_vector("b_gate");
        let w_mag = weights.encoder() * factor.unsqueeze_dim::<2>(1);
        encode_threshold(x, w_mag, b_mag, threshold)
    }

    fn finish(&self, normalized: &Normalized<'_>, _threshold: f64) -> Result<Finished, CoderError> {
        let how = Fold {
            factors: &["r_mag"],
            ..Fold::default()
        };
        let mut folded = fold(normalized, how)?;
        if !normalized.apply_b_dec_to_input {
            // Both maps read x without its mean.
            let mean = normalized.scaling.mean_read();
            let mean = vector(mean, &normalized.weights.device()).unsqueeze_dim::<2>(1);
            let shift = folded.encoder().matmul(mean).squeeze_dim::<1>(1); // [d_sae]
            let b_gate = folded.the_vector("b_gate") - shift.clone();
            let b_mag = folded.the_vector("b_mag") - shift * folded.the_vector("r_mag").exp();
            folded = folded.with("b_gate", b_gate).with("b_mag", b_mag);
        }
        Ok((self.architecture(), folded))
    }

    fn read_parameters(&self, _: &Fields, _: [usize; 3]) -> Result<Architecture, CoderError> {
        Ok(Architecture::Gated)
    }
}
