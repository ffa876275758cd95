//! GPT-2 (Radford et al. 2019). Layout: transformers, `models/gpt2/{configuration,modeling}_gpt2.py`; its `Conv1D`
//! keeps matrices as `[in, out]` and queries, keys and values in one matrix.

use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig, Norm};
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Linear, NormWeights, Weights};
use burn::tensor::Device;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("n_embd")?;
    let n_heads = fields.size("n_head")?;
    if n_heads == 0 || !d_model.is_multiple_of(n_heads) {
        return Err(fields.wrong("n_head", &format!("a divisor of n_embd = {d_model}")));
    }
    for (field, expected) in [
        ("scale_attn_by_inverse_layer_idx", false),
        ("scale_attn_weights", true),
    ] {
        if fields.flag(field, expected)? != expected {
            return Err(fields.wrong(field, &expected.to_string()));
        }
    }
    Ok(ModelConfig {
        family: Family::Gpt2,
        d_model,
        n_layers: fields.size("n_layer")?,
        n_heads,
        n_kv_heads: n_heads,
        d_head: d_model / n_heads,
        d_mlp: fields.optional_size("n_inner")?.unwrap_or(4 * d_model),
        d_vocab: fields.size("vocab_size")?,
        n_ctx: match fields.optional_size("n_positions")? {
            Some(n) => n,
            None => fields.size("n_ctx")?,
        },
        norm: Norm::Layer,
        norm_eps: fields.number("layer_norm_epsilon", 1e-5)?,
        rope_theta: None,
        activation: fields.activation("activation_function", "gelu_new")?,
        attention_bias: true,
        mlp_bias: true,
        tied: fields.flag("tie_word_embeddings", true)?,
        bos: fields.token("bos_token_id")?,
        eos: fields.token("eos_token_id")?,
    })
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    // Checkpoints saved from the bare model have no prefix, those of the language model have one.
    let prefix = if from.contains("wte.weight") {
        ""
    } else {
        "transformer."
    };
    let norm = |name: String| {
        Ok::<_, ModelError>(NormWeights {
            weight: from.vector(&format!("{prefix}{name}.weight"), c.d_model, device)?,
            bias: Some(from.vector(&format!("{prefix}{name}.bias"), c.d_model, device)?),
        })
    };
    let linear = |name: String, shape: [usize; 2]| {
        Ok::<_, ModelError>(Linear {
            weight: from.matrix(&format!("{prefix}{name}.weight"), shape, device)?,
            bias: Some(from.vector(&format!("{prefix}{name}.bias"), shape[1], device)?),
        })
    };
    let d = c.d_model;
    let layers = (0..c.n_layers).map(|l| {
        let qkv = linear(format!("h.{l}.attn.c_attn"), [d, 3 * d])?;
        let part = |i: usize| Linear {
            weight: qkv.weight.clone().narrow(1, i * d, d),
            bias: qkv.bias.clone().map(|b| b.narrow(0, i * d, d)),
        };
        Ok(Layer {
            ln1: norm(format!("h.{l}.ln_1"))?,
            q: part(0),
            k: part(1),
            v: part(2),
            o: linear(format!("h.{l}.attn.c_proj"), [d, d])?,
            ln2: norm(format!("h.{l}.ln_2"))?,
            gate: None,
            up: linear(format!("h.{l}.mlp.c_fc"), [d, c.d_mlp])?,
            down: linear(format!("h.{l}.mlp.c_proj"), [c.d_mlp, d])?,
        })
    });
    Ok(Weights {
        embed: from.matrix(&format!("{prefix}wte.weight"), [c.d_vocab, d], device)?,
        positions: Some(from.matrix(&format!("{prefix}wpe.weight"), [c.n_ctx, d], device)?),
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: norm("ln_f".into())?,
        unembed: if c.tied {
            None
        } else {
            Some(from.matrix("lm_head.weight", [c.d_vocab, d], device)?)
        },
    })
}
