//! The files that SAEDashboard's Neuronpedia runner writes: `batch-N.json`, and `run_settings.json`
//! beside them.
//!
//! Figures that are not known (alignment with neurons, logit histograms) are empty lists, as in a
//! run without them. Similar latents and explanations have no place in these files.

use serde::Serialize;

use super::latents::{Example, Latent, logits};
use super::{DictionaryExport, ExportNames, FEATURES_PER_BATCH, WriteFile, input};
use crate::FeaturesError;

#[derive(Serialize)]
struct Batch<'a> {
    model_id: &'a str,
    layer: u32,
    sae_set: &'a str,
    sae_id_suffix: Option<&'a str>,
    features: Vec<Feature<'a>>,
}

#[derive(Serialize)]
struct Feature<'a> {
    feature_index: u32,
    neuron_alignment_indices: [u32; 0],
    neuron_alignment_values: [f32; 0],
    neuron_alignment_l1: [f32; 0],
    correlated_neurons_indices: [u32; 0],
    correlated_neurons_l1: [f32; 0],
    correlated_neurons_pearson: [f32; 0],
    correlated_features_indices: [u32; 0],
    correlated_features_l1: [f32; 0],
    correlated_features_pearson: [f32; 0],
    neg_str: Vec<&'a str>,
    neg_values: Vec<f32>,
    pos_str: Vec<&'a str>,
    pos_values: Vec<f32>,
    frac_nonzero: f64,
    freq_hist_data_bar_values: Vec<f32>,
    freq_hist_data_bar_heights: Vec<u64>,
    logits_hist_data_bar_heights: [u64; 0],
    logits_hist_data_bar_values: [f32; 0],
    n_prompts_total: u32,
    n_tokens_in_prompt: u32,
    dataset: &'a str,
    decoder_weights_dist: [f32; 0],
    activations: Vec<Activation<'a>>,
    vector: [f32; 0],
}

#[derive(Serialize)]
struct Activation<'a> {
    bin_min: f32,
    bin_max: f32,
    bin_contains: f32,
    tokens: Vec<&'a str>,
    values: &'a [f32],
    qualifying_token_index: u32,
}

/// The settings of a run that mean something for a dictionary that was made elsewhere.
#[derive(Serialize)]
struct RunSettings<'a> {
    sae_set: &'a str,
    sae_path: &'a str,
    np_set_name: &'a str,
    np_sae_id_suffix: Option<&'a str>,
    huggingface_dataset_path: &'a str,
    n_prompts_total: u32,
    n_tokens_in_prompt: u32,
    n_features_at_a_time: usize,
    model_id: &'a str,
    layer: u32,
}

/// Writes a dictionary as SAEDashboard's Neuronpedia runner does, 1024 latents per file.
///
/// `write` is given the name of each file and its content. An empty dictionary has no batches.
///
/// # Errors
/// If the input does not fit together (nothing is written then), or what `write` returns.
pub fn write_sae_dashboard(
    export: &DictionaryExport<'_>,
    write: &mut WriteFile<'_>,
) -> Result<(), FeaturesError> {
    let latents = export.latents()?;
    let names = export.names;
    write("run_settings.json", &json(&run_settings(names))?)?;
    for (n, latents) in latents.chunks(FEATURES_PER_BATCH).enumerate() {
        let batch = Batch {
            model_id: &names.model_id,
            layer: names.layer,
            sae_set: &names.source_set,
            sae_id_suffix: names.suffix.as_deref(),
            features: latents.iter().map(|l| feature(l, names)).collect(),
        };
        write(&format!("batch-{n}.json"), &json(&batch)?)?;
    }
    Ok(())
}

fn feature<'a>(latent: &'a Latent<'_>, names: &'a ExportNames) -> Feature<'a> {
    let (neg_str, neg_values) = logits(&latent.row.suppressed);
    let (pos_str, pos_values) = logits(&latent.row.promoted);
    let (freq_hist_data_bar_values, freq_hist_data_bar_heights) = latent.distribution.bars();
    Feature {
        feature_index: latent.row.feature_id,
        neuron_alignment_indices: [],
        neuron_alignment_values: [],
        neuron_alignment_l1: [],
        correlated_neurons_indices: [],
        correlated_neurons_l1: [],
        correlated_neurons_pearson: [],
        correlated_features_indices: [],
        correlated_features_l1: [],
        correlated_features_pearson: [],
        neg_str,
        neg_values,
        pos_str,
        pos_values,
        frac_nonzero: latent.row.firing_density,
        freq_hist_data_bar_values,
        freq_hist_data_bar_heights,
        logits_hist_data_bar_heights: [],
        logits_hist_data_bar_values: [],
        n_prompts_total: names.n_prompts.unwrap_or(0),
        n_tokens_in_prompt: names.n_tokens_in_prompt.unwrap_or(0),
        dataset: names.dataset.as_deref().unwrap_or(""),
        decoder_weights_dist: [],
        activations: latent.examples.iter().map(activation).collect(),
        vector: [],
    }
}

fn activation<'a>(example: &Example<'a>) -> Activation<'a> {
    // 0, 0, 0 is what the runner writes for a group of contexts without bounds.
    let bounds = example.bin.map(|bin| (bin.min, bin.max, bin.contains));
    let (bin_min, bin_max, bin_contains) = bounds.unwrap_or((0.0, 0.0, 0.0));
    Activation {
        bin_min,
        bin_max,
        bin_contains,
        tokens: example.row.tokens.iter().map(|text| &**text).collect(),
        values: &example.row.activations,
        qualifying_token_index: example.row.peak_index,
    }
}

fn run_settings(names: &ExportNames) -> RunSettings<'_> {
    RunSettings {
        sae_set: &names.source_set,
        sae_path: &names.hook_name,
        np_set_name: &names.source_set,
        np_sae_id_suffix: names.suffix.as_deref(),
        huggingface_dataset_path: names.dataset.as_deref().unwrap_or(""),
        n_prompts_total: names.n_prompts.unwrap_or(0),
        n_tokens_in_prompt: names.n_tokens_in_prompt.unwrap_or(0),
        n_features_at_a_time: FEATURES_PER_BATCH,
        model_id: &names.model_id,
        layer: names.layer,
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, FeaturesError> {
    serde_json::to_vec(value)
        .map_err(|error| input("batch", error.to_string(), "values that JSON can hold"))
}

#[cfg(test)]
mod tests;
