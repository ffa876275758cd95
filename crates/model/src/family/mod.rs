//! One file a model family: how its `config.json` and its tensors' names map to the one transformer underneath.

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
use crate::config::{Activation, Family, Fields, LayerConfig, ModelConfig, Norm};
use crate::rotary::Rope;
use crate::tensor_file::TensorFile;
use crate::weights::Weights;
use burn::tensor::Device;
use serde_json::Value;

/// What a `config.json` says, by its `model_type`.
pub(crate) fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    match fields.value.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => gpt2::config(fields),
        Some("gpt_neox") => neox::config(fields),
        Some("llama") => llama::config(fields),
        Some("mistral") => mistral::config(fields),
        Some("qwen2") => qwen2::config(fields),
        Some("qwen3") => qwen3::config(fields),
        Some("gemma2") => gemma2::config(fields),
        Some("gemma3_text") => gemma3::config(fields),
        Some("opt") => opt::config(fields),
        Some("phi") => phi::config(fields),
        found => Err(ModelError::Architecture {
            path: fields.path.clone(),
            found: found.map_or("absent".into(), |s| format!("\"{s}\"")),
            known: "gpt2, gpt_neox, llama, mistral, qwen2, qwen3, gemma2, gemma3_text, opt and phi"
                .into(),
        }),
    }
}

/// The weights of a checkpoint in the family's layout.
pub(crate) fn weights(
    c: &ModelConfig,
    from: &TensorFile,
    device: &Device,
) -> Result<Weights, ModelError> {
    let layout = match c.family {
        Family::Gpt2 => gpt2::layout(from),
        Family::NeoX => neox::layout(),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama::layout(),
        Family::Gemma2 | Family::Gemma3 => gemma2::layout(),
        Family::Opt => opt::layout(from),
        Family::Phi => phi::layout(),
    };
    layout::weights(&layout, c, from, device)
}

/// A GPT-like decoder with nothing special about it, from which a family states its differences: LayerNorm, GELU, no
/// biases, no positions, plain attention of heads that share `d_model`.
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
        tied: fields.flag("tie_word_embeddings", true)?,
        bos: fields.token("bos_token_id")?,
        eos: fields.token("eos_token_id")?,
    })
}

/// The number of heads, which has to divide the width.
fn heads(fields: &Fields, field: &str, d_model: usize) -> Result<usize, ModelError> {
    match fields.size(field)? {
        n if n > 0 && d_model.is_multiple_of(n) => Ok(n),
        _ => Err(fields.wrong(field, &format!("a divisor of the hidden size {d_model}"))),
    }
}

/// A rotary embedding of a part of each head, scaled as the configuration says under the name of transformers 5 or, without it,
/// under the older one.
fn scaled_rope(
    fields: &Fields,
    base: f64,
    fraction: f64,
    d_head: usize,
) -> Result<Rope, ModelError> {
    let field = match fields.get("rope_parameters") {
        Some(_) => "rope_parameters",
        None => "rope_scaling",
    };
    Rope::of(fields, field, fields.get(field), base, fraction, d_head)
}

/// Gives every layer this rotary embedding.
fn rotate_all(c: &mut ModelConfig, rope: &Rope) {
    for layer in &mut c.layers {
        layer.rope = Some(rope.clone());
    }
}

/// Which layers see a window only: `layer_types`, or, where that is absent, what `default` says of a layer.
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
