//! The figures of merit under their names, as `metrics.json` keeps them.

use lapidary_sae::nan_if_null;
use serde::{Deserialize, Serialize};

use crate::codes::CodeSums;
use crate::predictions::Predictions;
use crate::reconstruction::ReconstructionSums;

/// What [`evaluate`] found; the fields are the keys of `metrics.json`. A quotient by 0 is written as `null`,
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
    /// Tokens evaluated, special ones excluded.
    pub tokens: u64,
}

impl Metrics {
    /// The figures of these sums.
    pub(crate) fn new(r: &ReconstructionSums, c: &CodeSums, p: &Predictions) -> Self {
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
            tokens: r.tokens(),
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
    }
}
