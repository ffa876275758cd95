//! The metrics of a dictionary, as `metrics.json` has them.

use lapidary_io::nan_if_null;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::codes::CodeSums;
use crate::cosines::DecoderCosines;
use crate::density::{DensityHistogram, firings_above, share_above};
use crate::latents::LatentFigures;
use crate::metric::{Metric, Number, metrics};
use crate::ordinary::Ordinary;
use crate::predictions::Predictions;
use crate::reconstruction::ReconstructionSums;

metrics! {
    /// The metrics of a dictionary: what [`crate::evaluate`] found.
    ///
    /// The fields are the keys of `metrics.json`. A quotient by 0 is written as `null`, which is
    /// read as NaN. Notation: x is an activation `[d]`, x̂ its reconstruction, f its latents, E the
    /// mean over all counted tokens.
    #[derive(Clone, Debug, PartialEq, Deserialize)]
    pub struct Metrics by Number::number => Option<f64> {
        in "Reconstruction" {
            /// Fraction of variance unexplained: Σ‖x − x̂‖² / Σ‖x − E x‖².
            #[serde(deserialize_with = "nan_if_null")]
            fvu: f64 {
                label: "fraction of variance unexplained",
                source: "sparsify's `fvu` is the mean over batches of an FVU that is computed with \
                         the mean activation of the batch (`fvu_sparsify`)",
            }
            /// 1 − E‖x − x̂‖² / (E‖x‖² − ‖E x‖²) = 1 − `fvu`.
            #[serde(deserialize_with = "nan_if_null")]
            explained_variance: f64 {
                label: "1 - fvu",
                report_label: Some("1 − residual variance over variance"),
                source: "SAELens from version 6.45. SAEBench's metric with this name differs \
                         (`explained_variance_saebench`)",
            }
            /// Mean over tokens of 1 − ‖x − x̂‖² / ‖x − (mean of the token's batch)‖².
            #[serde(deserialize_with = "nan_if_null")]
            explained_variance_legacy: f64 {
                label: "mean over tokens; as in SAEBench's paper and Neuronpedia",
                report_label: Some(
                    "explained variance as a mean over tokens, as in SAEBench's paper"
                ),
                source: "SAEBench, same name: the metric in its paper and on Neuronpedia",
            }
            /// `fvu` over the tokens that are not outliers. An outlier is a token whose activation
            /// has a norm of more than 10 times the median norm, such as an attention sink.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            fvu_without_outliers: f64 {
                label: "fvu without tokens of outsized norm",
                source: "none. The factor 10 is the default of `activations.exclude.norm_multiple`",
            }
            /// Share of the counted tokens that are outliers.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            frac_outliers: f64 {
                label: "share of tokens of outsized norm",
                source: "none",
            }
            /// Mean over batches of Σ‖x − x̂‖² / Σ‖x − (mean of the batch)‖².
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            fvu_sparsify: f64 {
                label: "with the mean of each batch, as in sparsify",
                source: "sparsify's `fvu`",
            }
            /// Mean over batches of 1 − Σ_d Var(x − x̂) / Σ_d Var(x). An error that is the same at
            /// every token does not lower the value.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            frac_variance_explained: f64 {
                label: "without the mean of the error, as in dictionary_learning",
                source: "dictionary_learning, same name",
            }
            /// 1 − E‖x − x̂‖² / (E‖x‖² − m²). Here m is the mean of x_d² over tokens, dimensions
            /// and batches. SAEBench's code has m² where ‖E x‖² would be correct. m already has
            /// the squares of the activations, so m² grows with their fourth power. So the value
            /// depends on the scale of the activations.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            explained_variance_saebench: f64 {
                label: "SAEBench's explained_variance as coded",
                source: "SAEBench's `explained_variance`, as its code computes it",
            }
            /// Squared error, summed over dimensions: E‖x − x̂‖².
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            mse: f64 {
                label: "squared error per token, summed over dimensions",
                unit: "squared activation",
                source: "the training log `metrics.jsonl` has a value of the same name, computed on the normalized activations of one training batch",
            }
            /// Mean over tokens of ‖x − x̂‖² / (number of counted tokens in the token's batch). The
            /// value is smaller for larger batches.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            mse_saebench: f64 {
                label: "SAEBench's mse as coded",
                unit: "squared activation",
                source: "SAEBench's `mse`, as its code computes it",
            }
            /// Mean over tokens of the cosine ⟨x, x̂⟩ / (‖x‖ ‖x̂‖).
            #[serde(deserialize_with = "nan_if_null")]
            cossim: f64 {
                label: "cosine of activation and reconstruction",
                report_label: Some("mean cosine between activation and reconstruction"),
                unit: "cosine",
                source: "SAEBench, same name",
            }
            /// Mean norm of the activations: E‖x‖.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            l2_norm_in: f64 {
                label: "mean norm of the activations",
                unit: "activation",
                source: "SAEBench, same name",
            }
            /// Mean norm of the reconstructions: E‖x̂‖.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            l2_norm_out: f64 {
                label: "mean norm of the reconstructions",
                unit: "activation",
                source: "SAEBench, same name",
            }
            /// Mean over tokens of ‖x̂‖ / ‖x‖.
            #[serde(deserialize_with = "nan_if_null")]
            l2_ratio: f64 {
                label: "mean norm of reconstruction over activation",
                report_label: Some("mean norm of the reconstruction over the activation's"),
                source: "SAEBench, same name",
            }
            /// Mean over batches of E‖x̂‖² / E⟨x, x̂⟩. A value below 1 means that the norms of the
            /// reconstructions are too small (shrinkage).
            #[serde(deserialize_with = "nan_if_null")]
            relative_reconstruction_bias: f64 {
                label: "below 1: shrinkage",
                source: "SAEBench, same name",
            }
        }
        in "The model with the reconstruction spliced in" {
            /// Share of the loss that the reconstruction recovers: (CE_ablation − CE_sae) /
            /// (CE_ablation − CE_model). The next rows define these terms.
            #[serde(deserialize_with = "nan_if_null")]
            ce_loss_score: f64 {
                label: "share of the loss recovered",
                report_label: Some(
                    "share of the model's next-token loss that the reconstruction recovers"
                ),
                source: "SAEBench, same name; dictionary_learning calls it `frac_recovered`",
            }
            /// Cross-entropy of the model (CE_model).
            #[serde(deserialize_with = "nan_if_null")]
            ce_loss_without_sae: f64 {
                label: "loss of the model, nats",
                unit: "nats",
                source: "SAEBench, same name",
            }
            /// Cross-entropy with x replaced by x̂ (CE_sae).
            #[serde(deserialize_with = "nan_if_null")]
            ce_loss_with_sae: f64 {
                label: "loss with the reconstruction, nats",
                report_label: Some("next-token loss with the reconstruction spliced in, nats"),
                unit: "nats",
                source: "SAEBench, same name",
            }
            /// Cross-entropy with x replaced by zeros at every token, special tokens included
            /// (CE_ablation).
            #[serde(deserialize_with = "nan_if_null")]
            ce_loss_with_ablation: f64 {
                label: "loss with zeros, nats",
                report_label: Some("next-token loss with zeros spliced in, nats"),
                unit: "nats",
                source: "SAEBench, same name",
            }
            /// Share of the KL divergence that the reconstruction avoids: (KL_ablation − KL_sae) /
            /// KL_ablation. The next rows define these terms.
            #[serde(deserialize_with = "nan_if_null")]
            kl_div_score: f64 {
                label: "share of the divergence avoided",
                report_label: Some("share of the KL divergence that the reconstruction avoids"),
                source: "SAEBench, same name",
            }
            /// KL_sae: mean over tokens of KL(model ‖ model with x̂) = Σ p (log p − log q), summed
            /// over the vocabulary. p is the model's prediction. q is its prediction with x
            /// replaced by x̂.
            #[serde(deserialize_with = "nan_if_null")]
            kl_div_with_sae: f64 {
                label: "divergence with the reconstruction, nats",
                unit: "nats",
                source: "SAEBench, same name",
            }
            /// KL_ablation: as KL_sae, but with x replaced by zeros.
            #[serde(deserialize_with = "nan_if_null")]
            kl_div_with_ablation: f64 {
                label: "divergence with zeros, nats",
                unit: "nats",
                source: "SAEBench, same name",
            }
        }
        in "Latents" {
            /// Active latents: mean over tokens of #{i : fᵢ ≠ 0}.
            #[serde(deserialize_with = "nan_if_null")]
            l0: f64 {
                label: "active latents per token",
                unit: "latents per token",
                source: "SAEBench, same name",
            }
            /// `l0` over the tokens that are not outliers.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            l0_without_outliers: f64 {
                label: "active latents without tokens of outsized norm",
                unit: "latents per token",
                source: "none",
            }
            /// Mean over tokens of Σᵢ fᵢ.
            #[serde(deserialize_with = "nan_if_null")]
            l1: f64 {
                label: "sum of activations per token",
                unit: "activation",
                source: "SAEBench, same name",
            }
            /// Share of latents with fᵢ ≠ 0 on at least one counted token.
            #[serde(deserialize_with = "nan_if_null")]
            frac_alive: f64 {
                label: "share of latents that fired",
                report_label: Some("share of latents that fire on the evaluation text"),
                source: "SAEBench, same name. SAEBench uses 4 million tokens. On fewer tokens, the \
                         value is lower",
            }
            /// Share of latents with fᵢ > 0 on more than 1 % of the tokens.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            freq_over_1_percent: f64 {
                label: "share of latents that fire on more than 1 % of the tokens",
                source: "SAEBench, same name",
            }
            /// Share of latents with fᵢ > 0 on more than 10 % of the tokens.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            freq_over_10_percent: f64 {
                label: "share of latents that fire on more than 10 % of the tokens",
                source: "SAEBench, same name",
            }
            /// Share of all firings (fᵢ > 0) that come from latents that fire on more than 1 % of
            /// the tokens.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            normalized_freq_over_1_percent: f64 {
                label: "share of all firings by latents over 1 %",
                source: "SAEBench, same name",
            }
            /// Share of all firings (fᵢ > 0) that come from latents that fire on more than 10 % of
            /// the tokens.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            normalized_freq_over_10_percent: f64 {
                label: "share of all firings by latents over 10 %",
                source: "SAEBench, same name",
            }
            /// Mean over latents of the largest cosine of the latent's encoder row with another
            /// encoder row.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            average_max_encoder_cosine_sim: f64 {
                label: "mean cosine with the most similar encoder row",
                unit: "cosine",
                source: "SAEBench, same name",
            }
            /// Mean over latents of the largest cosine of the latent's decoder row with another
            /// decoder row.
            #[serde(default = "nan", deserialize_with = "nan_if_null")]
            average_max_decoder_cosine_sim: f64 {
                label: "mean cosine with the most similar decoder row",
                unit: "cosine",
                source: "SAEBench, same name",
            }
        }
        also {
            /// Counted tokens.
            tokens: u64,
            /// Latents by how often they fire.
            #[serde(default)]
            feature_density_histogram: Option<DensityHistogram>,
            /// Directions of the decoder's rows among each other.
            #[serde(default)]
            decoder: Option<DecoderCosines>,
        }
    }
}

/// The first keys of `metrics.json`, in their order: those of its first version, which every file
/// has. The later ones follow in the order of the registry.
const FIRST_KEYS: [&str; 16] = [
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

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = |name: &str| FIRST_KEYS.iter().position(|key| *key == name);
        let mut values: Vec<_> = self.values().collect();
        values.sort_by_key(|(metric, _)| place(metric.name).unwrap_or(FIRST_KEYS.len()));
        let mut map = serializer.serialize_map(None)?;
        for (metric, value) in values {
            map.serialize_entry(metric.name, &value)?;
        }
        map.serialize_entry("tokens", &self.tokens)?;
        if let Some(histogram) = &self.feature_density_histogram {
            map.serialize_entry("feature_density_histogram", histogram)?;
        }
        if let Some(decoder) = &self.decoder {
            map.serialize_entry("decoder", decoder)?;
        }
        map.end()
    }
}

/// The value of a metric that is newer than the file.
const fn nan() -> f64 {
    f64::NAN
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
}

impl Metrics {
    /// The metrics to show first where there is room for few.
    pub const HEADLINE: [&'static str; 6] = [
        "ce_loss_score",
        "kl_div_score",
        "explained_variance_legacy",
        "fvu",
        "l0",
        "frac_alive",
    ];

    /// The metrics that the report shows, the first ones largest.
    pub const REPORT: [&'static str; 14] = [
        "ce_loss_score",
        "explained_variance_legacy",
        "l0",
        "frac_alive",
        "kl_div_score",
        "fvu",
        "fvu_without_outliers",
        "frac_outliers",
        "l0_without_outliers",
        "cossim",
        "l2_ratio",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
        "ce_loss_with_ablation",
    ];

    /// The metrics with these names, in the order of `names`.
    pub fn named(&self, names: &[&str]) -> impl Iterator<Item = (&'static Metric, Option<f64>)> {
        let find = |name: &&str| self.values().find(|(metric, _)| metric.name == *name);
        names.iter().filter_map(find)
    }

    /// The metrics of these sums.
    pub(crate) fn new(
        (r, ordinary): (&ReconstructionSums, &Ordinary),
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
            fvu_without_outliers: ordinary.reconstruction.fvu(),
            frac_outliers: 1.0 - ordinary.reconstruction.tokens() as f64 / r.tokens() as f64,
            fvu_sparsify: r.fvu_sparsify(),
            frac_variance_explained: r.frac_variance_explained(),
            explained_variance_saebench: r.explained_variance_saebench(),
            mse: r.mse(),
            mse_saebench: r.mse_saebench(),
            cossim: r.cossim(),
            l2_norm_in: r.l2_norm_in(),
            l2_norm_out: r.l2_norm_out(),
            l2_ratio: r.l2_ratio(),
            relative_reconstruction_bias: r.relative_reconstruction_bias(),
            ce_loss_score: (with_ablation - with_sae) / (with_ablation - without),
            ce_loss_without_sae: without,
            ce_loss_with_sae: with_sae,
            ce_loss_with_ablation: with_ablation,
            kl_div_score: (kl_ablation - kl_sae) / kl_ablation,
            kl_div_with_sae: kl_sae,
            kl_div_with_ablation: kl_ablation,
            l0: c.l0(),
            l0_without_outliers: ordinary.l0(),
            l1: c.l1(),
            frac_alive: c.frac_alive(),
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
    fn a_file_of_the_first_version_with_nulls_is_read() {
        let mut object: serde_json::Map<_, _> = FIRST_KEYS
            .iter()
            .map(|key| ((*key).to_owned(), serde_json::Value::Null))
            .collect();
        object.insert("tokens".into(), 0.into());
        let metrics: Metrics = serde_json::from_value(object.clone().into()).unwrap();
        assert!(metrics.ce_loss_score.is_nan());
        assert!(metrics.fvu_sparsify.is_nan() && metrics.decoder.is_none());
        object.remove("fvu");
        assert!(serde_json::from_value::<Metrics>(object.into()).is_err());
    }

    #[test]
    fn every_listed_metric_exists() {
        let exists = |name: &&str| Metrics::METRICS.iter().any(|m| m.name == *name);
        for list in [&FIRST_KEYS[..], &Metrics::HEADLINE, &Metrics::REPORT] {
            assert!(list.iter().all(exists), "{list:?}");
        }
    }
}
