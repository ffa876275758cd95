//! Metrics of each latent by itself, under SAEBench's names.

use burn::tensor::Tensor;
use lapidary_coder::{Coder, host};

use crate::codes::CodeSums;
use crate::cosines::{Pairs, unit};
use crate::error::EvaluationError;
use crate::metric::metrics;

metrics! {
    /// Metrics of each latent; every list has one entry per latent.
    #[derive(Clone, Debug, PartialEq)]
    pub struct LatentFigures by LatentColumn::from => LatentColumn<'_> {
        in "" {
            /// Share of counted tokens on which the latent is positive.
            feature_density: Vec<f64> { source: "SAEBench, same name" }
            /// Number of tokens on which the latent is positive, divided by the number of blocks in
            /// which it is positive at least once. Not defined if the latent is never positive.
            consistent_activation_heuristic: Vec<f64> {
                unit: "tokens per block",
                source: "SAEBench, same name",
            }
            /// The latent's entry of `b_enc`. For a gated coder: its entry of `b_mag`. For a coder
            /// without an encoder: 0.
            encoder_bias: Vec<f32> { unit: "activation", source: "SAEBench, same name" }
            /// Norm of the latent's encoder row.
            encoder_norm: Vec<f32> { source: "SAEBench, same name" }
            /// Cosine of the latent's encoder row and decoder row. Not defined if their widths
            /// differ.
            encoder_decoder_cosine_sim: Vec<f32> {
                unit: "cosine",
                source: "SAEBench, same name",
            }
            /// Largest cosine of the latent's encoder row with another encoder row. In a
            /// cross-layer transcoder, the other row may be of any layer.
            max_encoder_cosine_sim: Vec<f32> { unit: "cosine", source: "SAEBench, same name" }
            /// Largest cosine of the latent's decoder row with another decoder row. In a
            /// cross-layer transcoder, a decoder row is the concatenation of the latent's rows for
            /// every layer.
            max_decoder_cosine_sim: Vec<f32> { unit: "cosine", source: "SAEBench, same name" }
        }
        also {}
    }
}

/// The values of one metric, one per latent. NaN is undefined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatentColumn<'a> {
    /// In single precision.
    F32(&'a [f32]),
    /// In double precision.
    F64(&'a [f64]),
}

impl<'a> From<&'a Vec<f32>> for LatentColumn<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a Vec<f64>> for LatentColumn<'a> {
    fn from(values: &'a Vec<f64>) -> Self {
        Self::F64(values)
    }
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
