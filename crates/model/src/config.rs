//! The shape of a decoder-only transformer, whatever family it comes from.

use crate::ModelError;
use crate::fields::Fields;
use crate::rotary::Rope;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

impl Activation {
    /// The activation that a `config.json` names in `field`.
    pub(crate) fn read(fields: &Fields, field: &str) -> Result<Self, ModelError> {
        let name = fields.get(field).and_then(Value::as_str);
        match name.ok_or_else(|| fields.wrong(field, "a name"))? {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "gelu" => Ok(Self::Gelu),
            "silu" | "swish" => Ok(Self::Silu),
            "relu" => Ok(Self::Relu),
            _ => Err(fields.wrong(field, "gelu_new, gelu_pytorch_tanh, gelu, silu or relu")),
        }
    }
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
}
