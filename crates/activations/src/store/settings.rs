//! What decides a store's rows.

use super::StoreDtype;
use crate::{Exclusion, TEXT_FIELD};
use serde::{Deserialize, Serialize};

/// All that decides a store's rows. A store never mixes two of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// The model's name.
    pub model: String,
    /// XXH64 of a sample of the weights that the hook points depend on
    /// ([`lapidary_model::LanguageModel::sample_weights`]).
    pub model_digest: String,
    /// XXH64 of its tokenizer's JSON.
    pub tokenizer_digest: String,
    /// The corpus, as it was named.
    pub corpus: String,
    /// The field of the corpus that holds the text.
    #[serde(default = "text")]
    pub text_field: String,
    /// Tokens per block, including BOS.
    pub context: usize,
    /// Whether each sequence begins with BOS.
    pub prepend_bos: bool,
    /// That token, if it does.
    pub bos_token: Option<u32>,
    /// Whether a block was one sequence; otherwise each document in it was.
    #[serde(default = "yes")]
    pub attend_across_documents: bool,
    /// Blocks that went through the model together.
    pub batch_blocks: usize,
    /// Where activations were taken.
    pub hook_points: Vec<StoredHook>,
    /// How numbers are stored.
    pub dtype: StoreDtype,
    /// Rows a shard; the last of a harvest may have fewer.
    pub shard_tokens: u64,
    /// Which tokens are left out.
    pub exclude: Exclusion,
}

// What stores say that were written before these settings existed.
fn text() -> String {
    TEXT_FIELD.into()
}

fn yes() -> bool {
    true
}

/// A hook point in a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredHook {
    /// TransformerLens's spelling.
    pub name: String,
    /// Width of an activation.
    pub d_in: usize,
}
