//! A dictionary in the files that other viewers read: Neuronpedia's import folder and the batches
//! of SAEDashboard.
//!
//! Both writers take the same [`DictionaryExport`], check all of it before the first file, and give
//! each file whole to a function of the caller. The files hold no NaN and no infinity, and the same
//! input gives the same bytes.

mod activation_bins;
mod latents;
mod neuronpedia;
mod sae_dashboard;

pub use neuronpedia::write_neuronpedia;
pub use sae_dashboard::write_sae_dashboard;

use crate::FeaturesError;
use crate::statistics::HistogramBin;
use crate::tables::{ExampleRow, FeatureRow};

/// Number of latents in one batch file.
const FEATURES_PER_BATCH: usize = 1024;

/// A function of the caller that stores a file, given its relative path and its whole content.
pub type WriteFile<'a> = dyn FnMut(&str, &[u8]) -> Result<(), FeaturesError> + 'a;

/// Names of a set of features, and what its files say about its origin.
///
/// `model_id`, `source_set` and `suffix` become folder names and parts of URLs: ASCII letters,
/// digits, `-`, `_` and `.`; Neuronpedia's own are lower case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExportNames {
    /// Neuronpedia's id of the model, for example `gpt2-small`.
    pub model_id: String,
    /// Number of layers of the model; used if the instance does not know the model yet.
    pub model_layers: u32,
    /// MLP neurons per layer of the model; used if the instance does not know the model yet.
    pub neurons_per_layer: u32,
    /// Who made the model; used if the instance does not know the model yet.
    pub model_owner: String,
    /// Name of the source set, the dictionaries of all layers: for example `res-jb`. It must not
    /// contain `__`.
    pub source_set: String,
    /// What the source set is, in a few words, for example `Residual Stream - 16k`.
    pub source_set_description: String,
    /// Layer of this dictionary.
    pub layer: u32,
    /// What tells this dictionary from others of the same set and layer; put after `__`.
    pub suffix: Option<String>,
    /// Where the dictionary reads the model, in TransformerLens' words.
    pub hook_name: String,
    /// Id of the user to whom the rows belong; the instance must have that user.
    pub creator_id: String,
    /// Name of the authors.
    pub creator_name: String,
    /// Id of the release, for example `gemma-scope`.
    pub release: String,
    /// Title of the release.
    pub release_description: String,
    /// Pages about the release.
    pub urls: Vec<String>,
    /// Time of creation in seconds since 1970 (UTC).
    pub created_at: u64,
    /// The text on which the latents were counted, for example a name on Hugging Face.
    pub dataset: Option<String>,
    /// Number of sequences of that text.
    pub n_prompts: Option<u32>,
    /// Tokens of each.
    pub n_tokens_in_prompt: Option<u32>,
    /// Hugging Face repository of the weights.
    pub hf_repo: Option<String>,
    /// Folder of the weights in that repository.
    pub hf_folder: Option<String>,
}

/// What a latent is said to respond to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureExplanation {
    /// The latent.
    pub feature_id: u32,
    /// The explanation.
    pub text: String,
    /// Method that made it, by its name on the instance. Neuronpedia refuses a batch with a name
    /// that it does not know.
    pub type_name: Option<String>,
    /// Language model that wrote it, by its name on the instance; refused like `type_name`.
    pub model_name: Option<String>,
}

/// A dictionary, or some of its latents, to be written for another viewer.
#[derive(Debug, Clone, Copy)]
pub struct DictionaryExport<'a> {
    /// Names of the set.
    pub names: &'a ExportNames,
    /// The latents, ascending by id.
    pub features: &'a [FeatureRow],
    /// Their contexts, in any order. A context with an activation that is not finite is left out.
    pub examples: &'a [ExampleRow],
    /// Histogram of the activations of each latent; empty where that is not known.
    pub histograms: &'a [Vec<HistogramBin>], // [features]
    /// Explanations, in any order.
    pub explanations: &'a [FeatureExplanation],
}

impl ExportNames {
    /// Neuronpedia's id of this dictionary: layer, set and suffix.
    fn source_id(&self) -> String {
        let id = format!("{}-{}", self.layer, self.source_set);
        match &self.suffix {
            Some(suffix) => format!("{id}__{suffix}"),
            None => id,
        }
    }

    /// Checks the names, as both writers do before their first file.
    ///
    /// # Errors
    /// A name is empty that must not be, or has characters that are not allowed.
    pub fn check(&self) -> Result<(), FeaturesError> {
        for (field, name) in [
            ("names.model_id", Some(&self.model_id)),
            ("names.source_set", Some(&self.source_set)),
            ("names.suffix", self.suffix.as_ref()),
        ] {
            let Some(name) = name else { continue };
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
            // A name of dots only would lead out of the folder.
            let dots_only = name.bytes().all(|c| c == b'.');
            if dots_only || !name.bytes().all(allowed) {
                let expected = "ASCII letters, digits, `-`, `_` and `.`, not only dots";
                return Err(input(field, format!("`{name}`"), expected));
            }
        }
        // What follows the first `__` counts as a suffix, so the set would not be found again.
        if self.source_set.contains("__") {
            let found = format!("`{}`", self.source_set);
            return Err(input("names.source_set", found, "a name without `__`"));
        }
        for (field, name) in [
            ("names.creator_id", &self.creator_id),
            ("names.creator_name", &self.creator_name),
            ("names.release", &self.release),
            ("names.hook_name", &self.hook_name),
        ] {
            if name.trim().is_empty() {
                return Err(input(field, "nothing".into(), "a name"));
            }
        }
        Ok(())
    }
}

fn input(field: &'static str, found: String, expected: impl Into<String>) -> FeaturesError {
    FeaturesError::Input {
        field,
        found,
        expected: expected.into(),
    }
}

#[cfg(test)]
mod tests;
