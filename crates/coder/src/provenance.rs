//! Where a dictionary comes from.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model_loading::ModelLoading;
use crate::sites::Sites;

/// What a dictionary was trained on. What a foreign file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model's name.
    pub model_name: Option<String>,
    /// What it reads and what it reconstructs.
    #[serde(flatten)]
    pub sites: Sites,
    /// Tokens of context in training.
    pub context: Option<usize>,
    /// Whether blocks began with the beginning-of-sequence token.
    pub prepend_bos: Option<bool>,
    /// The training text.
    pub corpus: Option<String>,
    /// The architecture in training, if it differs from that at inference ("batchtopk").
    pub training_architecture: Option<String>,
    /// Training steps.
    pub steps: Option<u64>,
    /// Activations trained on.
    pub tokens: Option<u64>,
    /// The normalization that was folded into the weights.
    pub normalization: Option<String>,
    /// How the model was loaded, and which part of the hook point's value is read.
    #[serde(default, skip_serializing_if = "ModelLoading::is_plain")]
    pub loading: ModelLoading,
    /// The whole resolved recipe, seed included, as `lapidary_sae::ResolvedRecipe` writes and reads
    /// it.
    pub recipe: Option<Value>,
}

impl Provenance {
    /// What was serialized, or nothing if it is something else.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok()
    }
}
