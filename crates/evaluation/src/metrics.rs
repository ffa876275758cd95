//! The figures of merit under their names, as `metrics.json` keeps them.

use lapidary_io::nan_if_null;
use serde::{Deserialize, Serialize};

use crate::codes::CodeSums;
use crate::cosines::DecoderCosines;
use crate::density::{DensityHistogram, firings_above, share_above};
use crate::latents::LatentFigures;
use crate::predictions::Predictions;
use crate::reconstruction::ReconstructionSums;

/// What [`crate::evaluate`] found; the fields are the keys of `metrics.json`. A quotient by 0 is written as `null`,
/// which is read as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Fraction of variance unexplained: sum of |x - x̂|² over sum of |x - mean|², the mean over all evaluated tokens.
    /// sparsify takes the mean of each batch.
    #[serde(deserialize_with = "nan_if_null")]
    pub fvu: f64,
    /// 1 - E|x - x̂|² / (E|x|² - |E x|²), over all evaluated tokens: 1 - `fvu`. As in SAELens since 6.45.
    #[serde(deserialize_with = "nan_if_null")]
    pub explained_variance: f64,
    /// Mean over tokens of 1 - |x - x̂|² / |x - mean of the token's batch|²: the figure in the SAEBench paper and on
    /// Neuronpedia.
    #[serde(deserialize_with = "nan_if_null")]
    pub explained_variance_legacy: f64,
    /// Active latents a token.
    #[serde(deserialize_with = "nan_if_null")]
    pub l0: f64,
    /// (CE_ablated - CE_sae) / (CE_ablated - CE_model): share of the loss that zero ablation costs which the
    /// reconstruction recovers.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_score: f64,
    /// (KL_ablated - KL_sae) / KL_ablated, with KL(model ‖ changed model) of the next-token distributions.
    #[serde(deserialize_with = "nan_if_null")]
    pub kl_div_score: f64,
    /// Share of latents that fire at least once on the evaluated tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub frac_alive: f64,
    /// Next-token cross-entropy with the reconstruction spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_with_sae: f64,
    /// Next-token cross-entropy of the model, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_without_sae: f64,
    /// Next-token cross-entropy with zeros spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_with_ablation: f64,
    /// KL divergence with the reconstruction spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub kl_div_with_sae: f64,
    /// KL divergence with zeros spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub kl_div_with_ablation: f64,
    /// Sum of a token's activations, mean over tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub l1: f64,
    /// Cosine of x and x̂, mean over tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub cossim: f64,
    /// |x̂| / |x|, mean over tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub l2_ratio: f64,
    /// E|x̂|² / E⟨x, x̂⟩ of a batch, mean over batches: below 1 is shrinkage.
    #[serde(deserialize_with = "nan_if_null")]
    pub relative_reconstruction_bias: f64,
    /// sparsify's `fvu`: with the mean of each batch, mean over batches.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub fvu_sparsify: f64,
    /// dictionary_learning's: 1 - Σ_d Var(x - x̂) / Σ_d Var(x) of a batch, mean over batches.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub frac_variance_explained: f64,
    /// SAEBench's `explained_variance` as it is coded, with the square of E(x_d²), mean over dimensions, for |E x|².
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub explained_variance_saebench: f64,
    /// Squared error of a token, summed over dimensions, mean over tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub mse: f64,
    /// SAEBench's `mse` as it is coded: each token's squared error over the tokens of its batch, mean over tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub mse_saebench: f64,
    /// |x|, mean over tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub l2_norm_in: f64,
    /// |x̂|, mean over tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub l2_norm_out: f64,
    /// Share of latents that fire on more than 1 % of the tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub freq_over_1_percent: f64,
    /// Share of latents that fire on more than 10 % of the tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub freq_over_10_percent: f64,
    /// Of all firings the share by latents that fire on more than 1 % of the tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub normalized_freq_over_1_percent: f64,
    /// Of all firings the share by latents that fire on more than 10 % of the tokens.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub normalized_freq_over_10_percent: f64,
    /// Mean over latents of the largest cosine of an encoder row with another.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub average_max_encoder_cosine_sim: f64,
    /// Mean over latents of the largest cosine of a decoder row with another.
    #[serde(default = "nan", deserialize_with = "nan_if_null")]
    pub average_max_decoder_cosine_sim: f64,
    /// Tokens evaluated, special ones excluded.
    pub tokens: u64,
    /// Latents by how often they fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_density_histogram: Option<DensityHistogram>,
    /// Directions of the decoder's rows among each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderCosines>,
}

/// What a file says that was written before a figure existed.
const fn nan() -> f64 {
    f64::NAN
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
}

impl Metrics {
    /// The figures of these sums.
    pub(crate) fn new(
        r: &ReconstructionSums,
        c: &CodeSums,
        p: &Predictions,
        latents: &LatentFigures,
        decoder: DecoderCosines,
    ) -> Self {
        let densities = &latents.feature_density;
        let [without, with_sae, with_ablation] =
            p.cross_entropy.map(|s| s / p.cross_entropy_tokens as f64);
        let [kl_sae, kl_ablation] = p.divergence.map(|s| s / p.divergence_tokens as f64);
        Self {
            fvu: r.fvu(),
            explained_variance: 1.0 - r.fvu(),
            explained_variance_legacy: r.explained_variance_legacy(),
            l0: c.l0(),
            ce_loss_score: (with_ablation - with_sae) / (with_ablation - without),
            kl_div_score: (kl_ablation - kl_sae) / kl_ablation,
            frac_alive: c.frac_alive(),
            ce_loss_with_sae: with_sae,
            ce_loss_without_sae: without,
            ce_loss_with_ablation: with_ablation,
            kl_div_with_sae: kl_sae,
            kl_div_with_ablation: kl_ablation,
            l1: c.l1(),
            cossim: r.cossim(),
            l2_ratio: r.l2_ratio(),
            relative_reconstruction_bias: r.relative_reconstruction_bias(),
            fvu_sparsify: r.fvu_sparsify(),
            frac_variance_explained: r.frac_variance_explained(),
            explained_variance_saebench: r.explained_variance_saebench(),
            mse: r.mse(),
            mse_saebench: r.mse_saebench(),
            l2_norm_in: r.l2_norm_in(),
            l2_norm_out: r.l2_norm_out(),
            freq_over_1_percent: share_above(densities, 0.01),
            freq_over_10_percent: share_above(densities, 0.1),
            normalized_freq_over_1_percent: firings_above(densities, 0.01),
            normalized_freq_over_10_percent: firings_above(densities, 0.1),
            average_max_encoder_cosine_sim: mean(&latents.max_encoder_cosine_sim),
            average_max_decoder_cosine_sim: mean(&latents.max_decoder_cosine_sim),
            tokens: r.tokens(),
            feature_density_histogram: Some(DensityHistogram::new(densities)),
            decoder: Some(decoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_written_with_nan_are_read_again() {
        let fields = [
            "fvu",
            "explained_variance",
            "explained_variance_legacy",
            "l0",
            "ce_loss_score",
            "kl_div_score",
            "frac_alive",
            "ce_loss_with_sae",
            "ce_loss_without_sae",
            "ce_loss_with_ablation",
            "kl_div_with_sae",
            "kl_div_with_ablation",
            "l1",
            "cossim",
            "l2_ratio",
            "relative_reconstruction_bias",
        ];
        let mut object: serde_json::Map<_, _> = fields
            .iter()
            .map(|f| ((*f).to_owned(), serde_json::Value::Null))
            .collect();
        object.insert("tokens".into(), 0.into());
        let metrics: Metrics = serde_json::from_value(object.into()).unwrap();
        assert!(metrics.ce_loss_score.is_nan());
        // This file was written before there were these.
        assert!(metrics.fvu_sparsify.is_nan() && metrics.decoder.is_none());
    }
}
