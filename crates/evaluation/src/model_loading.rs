//! The model whose activations a dictionary reads, changed as the dictionary's metadata say.

use lapidary_coder::Dictionary;
use lapidary_model::{LanguageModel, Norm, Simplify};

use crate::error::EvaluationError;

/// A model as a dictionary's metadata ask for it.
pub struct PreparedModel {
    /// The model, its weights changed where they must be.
    pub model: LanguageModel,
    /// What was done to it, and what of the metadata has no effect here, one sentence each.
    pub notes: Vec<String>,
}

impl PreparedModel {
    /// `model` with the changes that the metadata of `dictionary` name
    /// ([`lapidary_coder::ModelLoading`]). `replaced`: the user chose the model in place of the
    /// metadata.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use burn::tensor::Device;
    /// # use lapidary_evaluation::PreparedModel;
    /// # use lapidary_model::LanguageModel;
    /// # fn of(dictionary: lapidary_coder::Dictionary) -> Result<(), Box<dyn std::error::Error>> {
    /// let model = LanguageModel::load("openai-community/gpt2", &Device::flex())?;
    /// let prepared = PreparedModel::of(&dictionary, model, true)?;
    /// for note in &prepared.notes {
    ///     println!("{note}");
    /// }
    /// # Ok(())
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The metadata ask for something that changes activations and is not done here.
    pub fn of(
        dictionary: &Dictionary,
        mut model: LanguageModel,
        replaced: bool,
    ) -> Result<Self, EvaluationError> {
        let mut plan = dictionary.provenance.loading.plan(replaced)?;
        let config = model.config().clone();
        // Both are left undone by TransformerLens too.
        if plan.center_writing && config.norm != Norm::Layer {
            plan.center_writing = false;
            plan.notes.push(
                "center_writing_weights has no effect: the model's norms do not centre".to_owned(),
            );
        }
        if plan.center_unembedding && config.logit_softcap.is_some() {
            plan.center_unembedding = false;
            plan.notes
                .push("center_unembed has no effect: the model's logits are capped".to_owned());
        }
        if let Some(n) = plan.first_layers
            && n < config.n_layers()
        {
            model = model.first_layers(n);
            plan.notes.push(format!(
                "the model has its first {n} of {} layers (first_n_layers in the dictionary's metadata)",
                config.n_layers()
            ));
        }
        let s = Simplify {
            fold_norms: plan.fold_norms,
            center_writing: plan.center_writing,
            center_unembedding: plan.center_unembedding,
            fold_value_biases: plan.fold_value_biases,
        };
        let done: Vec<&str> = [
            ("center_writing_weights", s.center_writing),
            ("fold_ln", s.fold_norms),
            ("center_unembed", s.center_unembedding),
            ("fold_value_biases", s.fold_value_biases),
        ]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect();
        if !done.is_empty() {
            model = model.simplified(s)?;
            plan.notes.push(format!(
                "the model's weights are changed as the dictionary's metadata say: {}",
                done.join(", ")
            ));
        }
        Ok(Self {
            model,
            notes: plan.notes,
        })
    }
}

/// The name on the Hugging Face hub of a model that TransformerLens calls otherwise, as SAELens's
/// metadata do.
#[must_use]
pub fn hub_name(name: &str) -> Option<String> {
    if name.contains(['/', '\\']) {
        return None;
    }
    let owner = [
        ("pythia-", "EleutherAI"),
        ("gemma-", "google"),
        ("opt-", "facebook"),
        ("gpt2-", "openai-community"),
    ]
    .into_iter()
    .find_map(|(prefix, owner)| name.starts_with(prefix).then_some(owner));
    match (name, owner) {
        ("gpt2" | "gpt2-small", _) => Some("openai-community/gpt2".to_owned()),
        ("mistral-7b", _) => Some("mistralai/Mistral-7B-v0.1".to_owned()),
        (_, Some(owner)) => Some(format!("{owner}/{name}")),
        _ => name
            .strip_prefix("qwen3-")
            .map(|size| format!("Qwen/Qwen3-{}", size.to_uppercase())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_transformer_lens_have_names_on_the_hub() {
        let of = |name| hub_name(name).unwrap();
        assert_eq!(of("gpt2-small"), "openai-community/gpt2");
        assert_eq!(of("gpt2-medium"), "openai-community/gpt2-medium");
        assert_eq!(of("pythia-70m-deduped"), "EleutherAI/pythia-70m-deduped");
        assert_eq!(of("gemma-2-2b"), "google/gemma-2-2b");
        assert_eq!(of("qwen3-4b"), "Qwen/Qwen3-4B");
        assert_eq!(hub_name("meta-llama/Llama-3.1-8B"), None);
        assert_eq!(hub_name("embedded"), None);
    }
}
