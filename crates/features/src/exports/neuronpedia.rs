//! The folder that Neuronpedia imports: `{model}/{layer}-{set}/` with four small files and gzipped
//! batches of features, activations and explanations.
//!
//! The importer reads the columns of a batch from its first line, so all lines of a file have the
//! same keys. It fails on an empty file, so a batch without activations has none. Keys that are not
//! written get the database's default, an empty list.

mod encode;
mod rows;

use self::encode::{add_line, gzip, one_line, row_id, timestamp};
use self::rows::{Activation, Explanation, Feature, Model, Release, Source, SourceSet};
use super::latents::{Example, Latent, logits};
use super::{DictionaryExport, ExportNames, FEATURES_PER_BATCH, FeatureExplanation, WriteFile};
use crate::FeaturesError;

/// Writes a dictionary as the folder that Neuronpedia imports, 1024 latents per batch.
///
/// `write` is given the path of each file relative to the folder of exports, with `/` between its
/// parts, and the content. Rows of an earlier import with the same names keep their ids, and the
/// importer keeps the earlier rows.
///
/// # Errors
/// If the input does not fit together (nothing is written then), or what `write` returns.
pub fn write_neuronpedia(
    export: &DictionaryExport<'_>,
    write: &mut WriteFile<'_>,
) -> Result<(), FeaturesError> {
    let latents = export.latents()?;
    let set = Set {
        names: export.names,
        source: export.names.source_id(),
        created_at: timestamp(export.names.created_at)?,
    };
    let folder = format!("{}/{}", export.names.model_id, set.source);
    write(&format!("{folder}/release.jsonl"), &set.release()?)?;
    write(&format!("{folder}/model.jsonl"), &set.model()?)?;
    write(&format!("{folder}/sourceset.jsonl"), &set.source_set()?)?;
    write(&format!("{folder}/source.jsonl"), &set.source()?)?;
    for (batch, latents) in latents.chunks(FEATURES_PER_BATCH).enumerate() {
        let mut lines = [
            ("features", vec![]),
            ("activations", vec![]),
            ("explanations", vec![]),
        ];
        for latent in latents {
            add_line(&mut lines[0].1, &set.feature(latent))?;
            for example in &latent.examples {
                add_line(&mut lines[1].1, &set.activation(latent, example))?;
            }
            for (number, explanation) in latent.explanations.iter().enumerate() {
                add_line(&mut lines[2].1, &set.explanation(number, explanation))?;
            }
        }
        for (kind, lines) in lines.iter().filter(|(_, lines)| !lines.is_empty()) {
            write(
                &format!("{folder}/{kind}/batch-{batch}.jsonl.gz"),
                &gzip(lines)?,
            )?;
        }
    }
    Ok(())
}

/// What all lines of one export share.
struct Set<'a> {
    names: &'a ExportNames,
    source: String,
    created_at: String,
}

impl Set<'_> {
    fn release(&self) -> Result<Vec<u8>, FeaturesError> {
        one_line(&Release {
            name: &self.names.release,
            visibility: "PUBLIC",
            description: &self.names.release_description,
            description_short: &self.names.release_description,
            urls: &self.names.urls,
            creator_name: &self.names.creator_name,
            creator_name_short: &self.names.creator_name,
            creator_id: &self.names.creator_id,
            created_at: &self.created_at,
        })
    }

    fn model(&self) -> Result<Vec<u8>, FeaturesError> {
        one_line(&Model {
            id: &self.names.model_id,
            display_name_short: &self.names.model_id,
            display_name: &self.names.model_id,
            creator_id: &self.names.creator_id,
            visibility: "PUBLIC",
            layers: self.names.model_layers,
            neurons_per_layer: self.names.neurons_per_layer,
            owner: &self.names.model_owner,
            created_at: &self.created_at,
            updated_at: &self.created_at,
        })
    }

    fn source_set(&self) -> Result<Vec<u8>, FeaturesError> {
        one_line(&SourceSet {
            model_id: &self.names.model_id,
            name: &self.names.source_set,
            visibility: "PUBLIC",
            description: &self.names.source_set_description,
            creator_name: &self.names.creator_name,
            urls: &self.names.urls,
            creator_id: &self.names.creator_id,
            release_name: &self.names.release,
            created_at: &self.created_at,
        })
    }

    fn source(&self) -> Result<Vec<u8>, FeaturesError> {
        one_line(&Source {
            id: &self.source,
            model_id: &self.names.model_id,
            set_name: &self.names.source_set,
            creator_id: &self.names.creator_id,
            visibility: "PUBLIC",
            has_dashboards: true,
            inference_enabled: false,
            hf_repo_id: self.names.hf_repo.as_deref(),
            hf_folder_id: self.names.hf_folder.as_deref(),
            num_prompts: self.names.n_prompts,
            num_tokens_in_prompt: self.names.n_tokens_in_prompt,
            dataset: self.names.dataset.as_deref(),
            created_at: &self.created_at,
        })
    }

    fn feature<'a>(&'a self, latent: &Latent<'a>) -> Feature<'a> {
        let (neg_str, neg_values) = logits(&latent.row.suppressed);
        let (pos_str, pos_values) = logits(&latent.row.promoted);
        let (freq_hist_data_bar_values, freq_hist_data_bar_heights) = latent.distribution.bars();
        let id = latent.row.feature_id;
        let mut similar: Vec<(u32, f32)> = latent.similar.clone();
        similar.retain(|(other, _)| *other != id);
        if !similar.is_empty() {
            // The viewer hides the latent itself and takes the others' values from the second on.
            similar.insert(0, (id, 1.0));
        }
        let (topk_cos_sim_indices, topk_cos_sim_values) = similar.into_iter().unzip();
        Feature {
            model_id: &self.names.model_id,
            layer: &self.source,
            index: id.to_string(),
            source_set_name: &self.names.source_set,
            creator_id: &self.names.creator_id,
            created_at: &self.created_at,
            max_act_approx: latent.max_activation(),
            has_vector: false,
            hook_name: &self.names.hook_name,
            topk_cos_sim_indices,
            topk_cos_sim_values,
            neg_str,
            neg_values,
            pos_str,
            pos_values,
            frac_nonzero: latent.row.firing_density,
            freq_hist_data_bar_heights,
            freq_hist_data_bar_values,
        }
    }

    fn activation<'a>(&'a self, latent: &Latent<'a>, example: &Example<'a>) -> Activation<'a> {
        let (max_value_token_index, max_value) = example.highest();
        let row = example.row;
        Activation {
            id: self.id("activation", latent.row.feature_id, example.number),
            model_id: &self.names.model_id,
            layer: &self.source,
            index: latent.row.feature_id.to_string(),
            creator_id: &self.names.creator_id,
            created_at: &self.created_at,
            tokens: row.tokens.iter().map(|text| &**text).collect(),
            values: &row.activations,
            max_value,
            max_value_token_index,
            min_value: example.lowest(),
            bin_min: example.bin.map(|bin| bin.min),
            bin_max: example.bin.map(|bin| bin.max),
            bin_contains: example.bin.map(|bin| bin.contains),
            qualifying_token_index: row.peak_index,
            data_index: format!("{}:{}", row.document, row.position),
            data_source: self.names.dataset.as_deref(),
        }
    }

    fn explanation<'a>(
        &'a self,
        number: usize,
        explanation: &'a FeatureExplanation,
    ) -> Explanation<'a> {
        Explanation {
            id: self.id("explanation", explanation.feature_id, number),
            model_id: &self.names.model_id,
            layer: &self.source,
            index: explanation.feature_id.to_string(),
            description: &explanation.text,
            author_id: &self.names.creator_id,
            type_name: explanation.type_name.as_deref(),
            explanation_model_name: explanation.model_name.as_deref(),
            created_at: &self.created_at,
        }
    }

    fn id(&self, kind: &str, latent: u32, number: usize) -> String {
        let (model, source) = (&self.names.model_id, &self.source);
        let row = format!("{kind}\0{model}\0{source}\0{latent}\0{number}");
        row_id(row.as_bytes())
    }
}

#[cfg(test)]
mod tests;
