//! The lines of Neuronpedia's import files, one struct per table of its database.
//!
//! Names are those of the columns. What has no value here is nullable there.

use serde::Serialize;

/// A line of `release.jsonl`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Release<'a> {
    pub(super) name: &'a str,
    pub(super) visibility: &'a str,
    pub(super) description: &'a str,
    pub(super) description_short: &'a str,
    pub(super) urls: &'a [String],
    pub(super) creator_name: &'a str,
    pub(super) creator_name_short: &'a str,
    pub(super) creator_id: &'a str,
    pub(super) created_at: &'a str,
}

/// A line of `model.jsonl`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Model<'a> {
    pub(super) id: &'a str,
    pub(super) display_name_short: &'a str,
    pub(super) display_name: &'a str,
    pub(super) creator_id: &'a str,
    pub(super) visibility: &'a str,
    pub(super) layers: u32,
    pub(super) neurons_per_layer: u32,
    pub(super) owner: &'a str,
    pub(super) created_at: &'a str,
    pub(super) updated_at: &'a str,
}

/// A line of `sourceset.jsonl`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SourceSet<'a> {
    pub(super) model_id: &'a str,
    pub(super) name: &'a str,
    pub(super) visibility: &'a str,
    pub(super) description: &'a str,
    pub(super) creator_name: &'a str,
    pub(super) urls: &'a [String],
    pub(super) creator_id: &'a str,
    pub(super) release_name: &'a str,
    pub(super) created_at: &'a str,
}

/// A line of `source.jsonl`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Source<'a> {
    pub(super) id: &'a str,
    pub(super) model_id: &'a str,
    pub(super) set_name: &'a str,
    pub(super) creator_id: &'a str,
    pub(super) visibility: &'a str,
    pub(super) has_dashboards: bool,
    pub(super) inference_enabled: bool,
    pub(super) hf_repo_id: Option<&'a str>,
    pub(super) hf_folder_id: Option<&'a str>,
    #[serde(rename = "num_prompts")]
    pub(super) num_prompts: Option<u32>,
    #[serde(rename = "num_tokens_in_prompt")]
    pub(super) num_tokens_in_prompt: Option<u32>,
    pub(super) dataset: Option<&'a str>,
    pub(super) created_at: &'a str,
}

/// A line of `features/batch-N.jsonl.gz`.
#[derive(Serialize)]
pub(super) struct Feature<'a> {
    #[serde(rename = "modelId")]
    pub(super) model_id: &'a str,
    pub(super) layer: &'a str,
    pub(super) index: String,
    #[serde(rename = "sourceSetName")]
    pub(super) source_set_name: &'a str,
    #[serde(rename = "creatorId")]
    pub(super) creator_id: &'a str,
    #[serde(rename = "createdAt")]
    pub(super) created_at: &'a str,
    #[serde(rename = "maxActApprox")]
    pub(super) max_act_approx: Option<f32>,
    #[serde(rename = "hasVector")]
    pub(super) has_vector: bool,
    #[serde(rename = "hookName")]
    pub(super) hook_name: &'a str,
    #[serde(rename = "topkCosSimIndices")]
    pub(super) topk_cos_sim_indices: Vec<u32>,
    #[serde(rename = "topkCosSimValues")]
    pub(super) topk_cos_sim_values: Vec<f32>,
    pub(super) neg_str: Vec<&'a str>,
    pub(super) neg_values: Vec<f32>,
    pub(super) pos_str: Vec<&'a str>,
    pub(super) pos_values: Vec<f32>,
    pub(super) frac_nonzero: f64,
    pub(super) freq_hist_data_bar_heights: Vec<u64>,
    pub(super) freq_hist_data_bar_values: Vec<f32>,
}

/// A line of `activations/batch-N.jsonl.gz`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Activation<'a> {
    pub(super) id: String,
    pub(super) model_id: &'a str,
    pub(super) layer: &'a str,
    pub(super) index: String,
    pub(super) creator_id: &'a str,
    pub(super) created_at: &'a str,
    pub(super) tokens: Vec<&'a str>,
    pub(super) values: &'a [f32],
    pub(super) max_value: f32,
    pub(super) max_value_token_index: usize,
    pub(super) min_value: f32,
    pub(super) bin_min: Option<f32>,
    pub(super) bin_max: Option<f32>,
    pub(super) bin_contains: Option<f32>,
    pub(super) qualifying_token_index: u32,
    pub(super) data_index: String,
    pub(super) data_source: Option<&'a str>,
}

/// A line of `explanations/batch-N.jsonl.gz`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation<'a> {
    pub(super) id: String,
    pub(super) model_id: &'a str,
    pub(super) layer: &'a str,
    pub(super) index: String,
    pub(super) description: &'a str,
    pub(super) author_id: &'a str,
    pub(super) type_name: Option<&'a str>,
    pub(super) explanation_model_name: Option<&'a str>,
    pub(super) created_at: &'a str,
}
