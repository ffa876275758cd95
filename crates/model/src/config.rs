//! The shape of a decoder-only transformer, whatever family it comes from.

use crate::ModelError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Which family a checkpoint's names and defaults follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// GPT-2: learned positions, LayerNorm, one fused QKV matrix, GELU.
    Gpt2,
    /// Llama: rotary positions, RMSNorm, grouped-query attention, gated MLP.
    Llama,
}

/// How a layer's input is normalized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Mean and variance removed, then weight and bias (GPT-2).
    Layer,
    /// Root mean square removed, then weight (Llama).
    Rms,
}

/// The MLP's nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// GELU in its tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU through the error function.
    Gelu,
    /// x · sigmoid(x).
    Silu,
    /// max(x, 0).
    Relu,
}

/// Sizes and choices of a decoder-only transformer. Names are TransformerLens's.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family whose checkpoint layout this follows.
    pub family: Family,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads a layer.
    pub n_heads: usize,
    /// Key and value heads a layer; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the MLP's hidden layer.
    pub d_mlp: usize,
    /// Number of tokens in the vocabulary.
    pub d_vocab: usize,
    /// Longest sequence.
    pub n_ctx: usize,
    /// Kind of normalization.
    pub norm: Norm,
    /// Added to the variance or mean square.
    pub norm_eps: f64,
    /// Rotary base; `None` means learned positions.
    pub rope_theta: Option<f64>,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether q, k, v and o carry biases.
    pub attention_bias: bool,
    /// Whether the MLP's matrices carry biases.
    pub mlp_bias: bool,
    /// Whether the unembedding is the embedding's transpose.
    pub tied: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence token.
    pub eos: Option<u32>,
}

impl ModelConfig {
    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        let [d_model, d_head, d_mlp] = [self.d_model, self.d_head, self.d_mlp].map(|n| n as f64);
        let heads = self.n_heads as f64 + self.n_kv_heads as f64;
        let attention = d_model * d_head * 2.0 * heads;
        let matrices = if self.family == Family::Llama {
            3.0
        } else {
            2.0
        };
        let layer = attention + matrices * d_model * d_mlp + 2.0 * d_model;
        let embeddings = self.d_vocab as f64 * if self.tied { 1.0 } else { 2.0 };
        let positions = if self.rope_theta.is_none() {
            self.n_ctx as f64
        } else {
            0.0
        };
        (self.n_layers as f64 * layer + (embeddings + positions + 1.0) * d_model) as u64
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When the file is not JSON, names an unknown architecture, or holds a size that cannot be.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(ModelError::read(path))?;
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ModelError> {
        let value = serde_json::from_str(text).map_err(|source| ModelError::Json {
            path: path.into(),
            source,
        })?;
        let fields = Fields {
            path: path.into(),
            value,
        };
        let config = match fields.value.get("model_type").and_then(Value::as_str) {
            Some("gpt2") => crate::family::gpt2::config(&fields)?,
            Some("llama") => crate::family::llama::config(&fields)?,
            found => {
                return Err(ModelError::Architecture {
                    path: path.into(),
                    found: found.map_or("absent".into(), |s| format!("\"{s}\"")),
                    known: "\"gpt2\" and \"llama\"".into(),
                });
            }
        };
        config.check(&fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<(), ModelError> {
        let wrong = |field: &str, found: usize, expected: &str| ModelError::Field {
            path: fields.path.clone(),
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        };
        for (field, size) in [
            ("hidden size", self.d_model),
            ("number of layers", self.n_layers),
            ("number of heads", self.n_heads),
            ("number of key-value heads", self.n_kv_heads),
            ("head size", self.d_head),
            ("MLP size", self.d_mlp),
            ("vocab_size", self.d_vocab),
            ("context length", self.n_ctx),
        ] {
            if size == 0 || size > 1 << 24 {
                return Err(wrong(field, size, "a size from 1 to 16777216"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(wrong(
                "num_key_value_heads",
                self.n_kv_heads,
                &format!("a divisor of {}", self.n_heads),
            ));
        }
        if self.rope_theta.is_some() && !self.d_head.is_multiple_of(2) {
            return Err(wrong(
                "head_dim",
                self.d_head,
                "an even size (rotary embedding)",
            ));
        }
        Ok(())
    }
}

/// A `config.json` whose fields are read one by one, with errors that name file and field.
pub(crate) struct Fields {
    pub path: PathBuf,
    pub value: Value,
}

impl Fields {
    pub fn wrong(&self, field: &str, expected: &str) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            field: field.into(),
            found: self
                .value
                .get(field)
                .map_or("nothing".into(), Value::to_string),
            expected: expected.into(),
        }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    pub fn size(&self, field: &str) -> Result<usize, ModelError> {
        self.optional_size(field)?
            .ok_or_else(|| self.wrong(field, "a whole number"))
    }

    pub fn optional_size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(field, "a whole number")),
        }
    }

    pub fn number(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        value.as_f64().ok_or_else(|| self.wrong(field, "a number"))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        value
            .as_bool()
            .ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A token id; some configurations hold a list, whose first entry counts.
    pub fn token(&self, field: &str) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let first = value.as_array().map_or(Some(value), |list| list.first());
        match first
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
        {
            Some(id) => Ok(Some(id)),
            None => Err(self.wrong(field, "a token id")),
        }
    }

    pub fn activation(&self, field: &str, default: &str) -> Result<Activation, ModelError> {
        let name = match self.get(field) {
            None => default,
            Some(value) => value.as_str().ok_or_else(|| self.wrong(field, "a name"))?,
        };
        match name {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::Gelu),
            "silu" | "swish" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            _ => Err(self.wrong(field, "gelu_new, gelu_pytorch_tanh, gelu, silu or relu")),
        }
    }
}
