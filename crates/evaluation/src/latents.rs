//! Figures of each latent by itself, under SAEBench's names.

use burn::tensor::Tensor;
use lapidary_coder::{Coder, host};

use crate::codes::CodeSums;
use crate::cosines::{Pairs, unit};
use crate::error::EvaluationError;

/// Figures of each latent; every list has one entry a latent.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentFigures {
    /// Share of counted tokens on which the latent is positive.
    pub feature_density: Vec<f64>,
    /// Tokens on which it is positive a block in which it is so at least once; NaN if it never is.
    pub consistent_activation_heuristic: Vec<f64>,
    /// The encoder's bias (of a gated coder, that of its magnitudes); 0 for a coder without.
    pub encoder_bias: Vec<f32>,
    /// Norm of its encoder row.
    pub encoder_norm: Vec<f32>,
    /// Cosine of its encoder and decoder rows; NaN where they are of different widths.
    pub encoder_decoder_cosine_sim: Vec<f32>,
    /// Largest cosine of its encoder row with another latent's, in a cross-layer transcoder of whatever layer.
    pub max_encoder_cosine_sim: Vec<f32>,
    /// Largest cosine of its decoder row with another latent's, in a cross-layer transcoder of what they write at all layers.
    pub max_decoder_cosine_sim: Vec<f32>,
}

impl LatentFigures {
    pub(crate) fn new(
        coder: &dyn Coder,
        codes: &CodeSums,
        encoder: &Pairs,
        decoder: &Pairs,
    ) -> Result<Self, EvaluationError> {
        let (w_enc, w_dec): (Tensor<2>, Tensor<2>) = (coder.w_enc(), coder.w_dec());
        let d_sae = coder.d_sae();
        let bias = ["b_mag", "b_enc"].map(|name| coder.latent_vector(name));
        Ok(Self {
            feature_density: codes.densities(),
            consistent_activation_heuristic: codes.firings_a_block(),
            encoder_bias: match bias.into_iter().flatten().next() {
                Some(bias) => host(&bias)?,
                None => vec![0.0; d_sae],
            },
            encoder_norm: host(&w_enc.clone().square().sum_dim(1).sqrt())?,
            encoder_decoder_cosine_sim: if w_enc.dims() == w_dec.dims() {
                host(&(unit(w_enc) * unit(w_dec)).sum_dim(1))?
            } else {
                vec![f32::NAN; d_sae]
            },
            max_encoder_cosine_sim: encoder.max_cosine.clone(),
            max_decoder_cosine_sim: decoder.max_cosine.clone(),
        })
    }
}
