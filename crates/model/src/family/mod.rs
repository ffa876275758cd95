//! One file a model family: how its `config.json` and its tensors' names map to the one transformer
//! underneath.

mod gemma2;
mod gemma3;
mod gpt2;
mod layout;
pub(crate) mod llama;
mod mistral;
mod neox;
mod opt;
mod phi;
mod qwen2;
mod qwen3;

use crate::ModelError;
use crate::config::{Activation, Family, LayerConfig, ModelConfig, Norm};
use crate::fields::Fields;
use crate::rotary::Rope;
use crate::tensor_file::TensorFile;
use crate::weights::Weights;
use burn::tensor::Device;
use serde_json::Value;

/// Reads a family's configuration.
type ReadConfig = fn(&Fields) -> Result<ModelConfig, ModelError>;

/// The families by `model_type`.
const KINDS: [(&str, ReadConfig); 10] = [
    ("gpt2", gpt2::config),
    ("gpt_neox", neox::config),
    ("llama", llama::config),
    ("mistral", mistral::config),
    ("qwen2", qwen2::config),
    ("qwen3", qwen3::config),
    ("gemma2", gemma2::config),
    ("gemma3_text", gemma3::config),
    ("opt", opt::config),
    ("phi", phi::config),
];

/// The names of all, for an error.
pub(crate) fn known() -> String {
    let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
    let [first @ .., last] = names.as_slice() else {
        return String::new();
    };
    format!("{} and {last}", first.join(", "))
}

/// What a `config.json` says, by its `model_type`.
pub(crate) fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let kind = fields.value.get("model_type").and_then(Value::as_str);
    let found = KINDS.iter().find(|(name, _)| Some(*name) == kind);
    let (_, config) = found.ok_or_else(|| fields.wrong("model_type", &known()))?;
    config(fields)
}

/// The weights of a checkpoint in the family's layout. The configuration is told what the file says
/// of the unembedding; returned beside the weights is what a user should know.
pub(crate) fn weights(
    c: &mut ModelConfig,
    from: &TensorFile,
    device: &Device,
) -> Result<(Weights, Vec<String>), ModelError> {
    let layout = match c.family {
        Family::Gpt2 => gpt2::layout(),
        Family::NeoX => neox::layout(),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama::layout(),
        Family::Gemma2 | Family::Gemma3 => gemma2::layout(),
        Family::Opt => opt::layout(),
        Family::Phi => phi::layout(),
    };
    layout::weights(&layout, c, from, device)
}

/// A GPT-like decoder with nothing special about it, from which a family states its differences:
/// LayerNorm, GELU, no biases, no positions, plain attention of heads that share `d_model`.
fn plain(
    family: Family,
    fields: &Fields,
    n_layers: usize,
    d_model: usize,
    n_heads: usize,
) -> Result<ModelConfig, ModelError> {
    let layer = LayerConfig {
        window: None,
        rope: None,
    };
    let d_head = d_model / n_heads.max(1);
    Ok(ModelConfig {
        family,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        d_head,
        d_mlp: 4 * d_model,
        d_vocab: fields.size("vocab_size")?,
        n_ctx: 2048,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        parallel: false,
        post_norms: false,
        qk_norm: false,
        gated: false,
        learned_positions: false,
        embed_scale: 1.0,
        attn_scale: (d_head as f64).powf(-0.5),
        attn_softcap: None,
        logit_softcap: None,
        layers: vec![layer; n_layers],
        activation: Activation::Gelu,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        tied: fields.flag("tie_word_embeddings")?,
        bos: fields.token("bos_token_id")?,
        eos: fields.tokens("eos_token_id")?,
        pad: fields.token("pad_token_id")?,
    })
}

/// The number of heads, which has to divide the width.
fn heads(fields: &Fields, field: &str, d_model: usize) -> Result<usize, ModelError> {
    match fields.size(field)? {
        n if n > 0 && d_model.is_multiple_of(n) => Ok(n),
        _ => Err(fields.wrong(field, &format!("a divisor of the hidden size {d_model}"))),
    }
}

/// Gives every layer this rotary embedding.
fn rotate_all(c: &mut ModelConfig, rope: &Rope) {
    for layer in &mut c.layers {
        layer.rope = Some(rope.clone());
    }
}

/// Which layers see a window only: `layer_types`, or, where that is absent, what `default` says of
/// a layer.
fn slide(
    c: &mut ModelConfig,
    fields: &Fields,
    default: &dyn Fn(usize) -> bool,
) -> Result<(), ModelError> {
    let window = fields.optional_size("sliding_window")?;
    let types = fields.get("layer_types").map(Value::as_array);
    for (l, layer) in c.layers.iter_mut().enumerate() {
        let slides = match types {
            None => default(l),
            Some(list) => match list.and_then(|list| list.get(l)).and_then(Value::as_str) {
                Some("sliding_attention") => true,
                Some("full_attention") => false,
                _ => {
                    let expected = "\"full_attention\" or \"sliding_attention\" for every layer";
                    return Err(fields.wrong("layer_types", expected));
                }
            },
        };
        if slides {
            layer.window = Some(window.ok_or_else(|| {
                fields.wrong("sliding_window", "a whole number, since layers slide")
            })?);
        }
    }
    Ok(())
}
