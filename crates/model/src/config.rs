//! The shape of a decoder-only transformer, whatever family it comes from.

use crate::ModelError;
use crate::family::{self, Class};
use crate::rotary::Rope;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Which family a checkpoint's names and defaults follow. Only loading asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The files of `family/` say what each is.
pub enum Family {
    Gpt2,
    NeoX,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Opt,
    Phi,
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

/// What may differ from one layer to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// How many positions a query sees, its own among them; `None`: all before it.
    pub window: Option<usize>,
    /// Rotary embedding; `None` where there is none.
    pub rope: Option<Rope>,
}

/// Sizes and choices of a decoder-only transformer. Names are TransformerLens's.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family whose checkpoint layout this follows.
    pub family: Family,
    /// Width of the residual stream.
    pub d_model: usize,
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
    /// Whether attention and MLP both read the stream that enters the layer (GPT-NeoX, Phi). There
    /// is no `hook_resid_mid` then.
    pub parallel: bool,
    /// Whether what attention and MLP write is normalized once more (Gemma).
    pub post_norms: bool,
    /// Whether queries and keys are normalized head by head, before rotary embedding (Qwen 3, Gemma
    /// 3).
    pub qk_norm: bool,
    /// Whether the MLP is gated: `act(x W_gate) * (x W_in)`.
    pub gated: bool,
    /// Whether positions are learned vectors, added to the embeddings.
    pub learned_positions: bool,
    /// Multiplies the embeddings; 1 except in Gemma.
    pub embed_scale: f64,
    /// Multiplies products of queries and keys: 1 / √d_head except in Gemma.
    pub attn_scale: f64,
    /// `c · tanh(score / c)` instead of attention's score (Gemma 2).
    pub attn_softcap: Option<f64>,
    /// `c · tanh(logit / c)` instead of the logit (Gemma 2).
    pub logit_softcap: Option<f64>,
    /// What differs between layers; one entry a layer.
    pub layers: Vec<LayerConfig>,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether queries, keys and values carry biases.
    pub qkv_bias: bool,
    /// Whether attention's output matrix carries a bias.
    pub o_bias: bool,
    /// Whether the MLP's matrices carry biases.
    pub mlp_bias: bool,
    /// Whether the unembedding is the embedding's transpose.
    pub tied: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end a sequence; the first separates documents.
    pub eos: Vec<u32>,
    /// The token that fills sequences up elsewhere.
    pub pad: Option<u32>,
}

impl ModelConfig {
    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of weights, biases of matrices left out.
    pub fn n_params(&self) -> u64 {
        let [d_model, d_head, d_mlp] = [self.d_model, self.d_head, self.d_mlp].map(|n| n as f64);
        let heads = self.n_heads as f64 + self.n_kv_heads as f64;
        let attention = d_model * d_head * 2.0 * heads;
        let matrices = if self.gated { 3.0 } else { 2.0 };
        let norms = if self.post_norms { 4.0 } else { 2.0 };
        let layer = attention + matrices * d_model * d_mlp + norms * d_model;
        let embeddings = self.d_vocab as f64 * if self.tied { 1.0 } else { 2.0 };
        let positions = if self.learned_positions {
            self.n_ctx as f64
        } else {
            0.0
        };
        (self.n_layers() as f64 * layer + (embeddings + positions + 1.0) * d_model) as u64
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When the file is not JSON, names an unknown architecture, or holds a size that cannot be.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        Self::of_value(path, lapidary_io::read_json(path)?)
    }

    /// Reads the value of a `config.json`; `path` is the file that errors name.
    pub(crate) fn of_value(path: &Path, value: Value) -> Result<Self, ModelError> {
        let fields = Fields::new(path, value)?;
        let config = family::config(&fields)?;
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
            ("number of layers", self.n_layers()),
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
        for layer in &self.layers {
            if layer.window == Some(0) {
                return Err(wrong("sliding_window", 0, "at least 1"));
            }
            if let Some(rope) = &layer.rope
                && (rope.dims == 0 || !rope.dims.is_multiple_of(2) || rope.dims > self.d_head)
            {
                return Err(wrong(
                    "rotary dimensions",
                    rope.dims,
                    &format!("an even size up to the head size {}", self.d_head),
                ));
            }
        }
        for (field, value) in [
            ("norm epsilon", Some(self.norm_eps)),
            ("attention scale", Some(self.attn_scale)),
            ("embedding scale", Some(self.embed_scale)),
            ("attn_logit_softcapping", self.attn_softcap),
            ("final_logit_softcapping", self.logit_softcap),
        ] {
            if value.is_some_and(|v| !v.is_finite() || v <= 0.0) {
                return Err(ModelError::Field {
                    path: fields.path.clone(),
                    field: field.into(),
                    found: value.map_or("nothing".into(), |v| v.to_string()),
                    expected: "a positive number".into(),
                });
            }
        }
        Ok(())
    }
}

/// A `config.json` whose fields are read one by one, with errors that name file and field.
///
/// As in transformers a key that is absent has the default of the family's class, and `null` is a
/// value: none.
pub(crate) struct Fields {
    pub path: PathBuf,
    pub value: Value,
    class: Class,
}

impl Fields {
    pub fn new(path: &Path, value: Value) -> Result<Self, ModelError> {
        let kind = value.get("model_type").and_then(Value::as_str);
        let Some(class) = kind.and_then(family::class) else {
            return Err(ModelError::Architecture {
                path: path.into(),
                found: kind.map_or("absent".into(), |s| format!("{s:?}")),
                known: family::known(),
            });
        };
        let fields = Self {
            path: path.into(),
            value,
            class,
        };
        let null = |field: &&String| fields.value.get(*field).is_some_and(Value::is_null);
        let keys = fields.class.defaults.keys();
        let mut wrong = keys.filter(|key| !fields.class.nullable.contains(key));
        match wrong.find(null) {
            Some(field) => Err(fields.wrong(field, "a value")),
            None => Ok(fields),
        }
    }

    pub fn wrong(&self, field: &str, expected: &str) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            field: field.into(),
            found: self.raw(field).map_or("nothing".into(), Value::to_string),
            expected: expected.into(),
        }
    }

    /// The file's value, `null` included, or the class's default.
    fn raw(&self, field: &str) -> Option<&Value> {
        let own = |(_, own): &(&String, &Value)| own.as_str() == Some(field);
        let alias = self.class.aliases.iter().find(own);
        let alias = alias.and_then(|(other, _)| self.value.get(other));
        let found = alias.or_else(|| self.value.get(field));
        found.or_else(|| self.class.defaults.get(field))
    }

    pub fn get(&self, field: &str) -> Option<&Value> {
        self.raw(field).filter(|value| !value.is_null())
    }

    /// A size that has to be there.
    pub fn size(&self, field: &str) -> Result<usize, ModelError> {
        self.optional_size(field)?
            .ok_or_else(|| self.wrong(field, "a whole number"))
    }

    /// A size that may be none.
    pub fn optional_size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(field, "a whole number")),
        }
    }

    /// A number that has to be there.
    pub fn number(&self, field: &str) -> Result<f64, ModelError> {
        self.optional_number(field)?
            .ok_or_else(|| self.wrong(field, "a number"))
    }

    /// A number that may be absent, but not `null`: of a key that is no default of the class.
    pub fn number_or(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.raw(field) {
            None => Ok(default),
            Some(_) => self.number(field),
        }
    }

    /// A number that may be none.
    pub fn optional_number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(field, "a number")),
            },
        }
    }

    /// The number of layers: bounded here, since a list of that length is made of it.
    pub fn layers(&self, field: &str) -> Result<usize, ModelError> {
        match self.size(field)? {
            n @ 1..=4096 => Ok(n),
            _ => Err(self.wrong(field, "a number of layers from 1 to 4096")),
        }
    }

    /// Refuses a switch that is not at the setting that is implemented.
    pub fn only(&self, field: &str, implemented: bool) -> Result<(), ModelError> {
        let value = self.get(field);
        let as_it_is = value.map_or(Some(false), Value::as_bool);
        match as_it_is == Some(implemented) {
            true => Ok(()),
            false => Err(self.wrong(field, &implemented.to_string())),
        }
    }

    /// A switch; off where the family's class does not have it, whatever the file says.
    pub fn flag(&self, field: &str) -> Result<bool, ModelError> {
        if !self.class.defaults.contains_key(field) {
            return Ok(false);
        }
        let value = self.get(field).and_then(Value::as_bool);
        value.ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A token id. A negative one is no token's.
    pub fn token(&self, field: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.tokens(field)?.first().copied())
    }

    /// A token id or a list of them.
    pub fn tokens(&self, field: &str) -> Result<Vec<u32>, ModelError> {
        tokens(self.get(field)).ok_or_else(|| self.wrong(field, "a token id or a list of them"))
    }

    pub fn activation(&self, field: &str) -> Result<Activation, ModelError> {
        let name = self.get(field).and_then(Value::as_str);
        match name.ok_or_else(|| self.wrong(field, "a name"))? {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::Gelu),
            "silu" | "swish" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            _ => Err(self.wrong(field, "gelu_new, gelu_pytorch_tanh, gelu, silu or relu")),
        }
    }
}

/// Token ids of a number or a list of numbers, negative ones left out; `None` where it is something
/// else.
pub(crate) fn tokens(value: Option<&Value>) -> Option<Vec<u32>> {
    let list = match value {
        None | Some(Value::Null) => return Some(vec![]),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let id = |value: &Value| match value.as_i64()? {
        n if n < 0 => Some(None),
        n => u32::try_from(n).ok().map(Some),
    };
    let ids: Option<Vec<Option<u32>>> = list.iter().map(id).collect();
    Some(ids?.into_iter().flatten().collect())
}
