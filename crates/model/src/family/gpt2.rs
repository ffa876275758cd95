//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU. Layout: transformers,
//! `models/gpt2/{configuration,modeling}_gpt2.py`; its `Conv1D` keeps matrices as `[in, out]` and queries, keys and
//! values in one matrix.

use super::{Loader, heads, plain};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Linear, Weights};
use burn::tensor::Device;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("n_embd")?;
    let n_heads = heads(fields, "n_head", d_model)?;
    fields.only("scale_attn_by_inverse_layer_idx", false)?;
    fields.only("scale_attn_weights", true)?;
    let n_layers = fields.layers("n_layer")?;
    Ok(ModelConfig {
        d_mlp: fields.optional_size("n_inner")?.unwrap_or(4 * d_model),
        n_ctx: match fields.optional_size("n_positions")? {
            Some(n) => n,
            None => fields.size("n_ctx")?,
        },
        norm_eps: fields.number("layer_norm_epsilon", 1e-5)?,
        learned_positions: true,
        activation: fields.activation("activation_function", "gelu_new")?,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        ..plain(Family::Gpt2, fields, n_layers, d_model, n_heads)?
    })
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    // Checkpoints saved from the bare model have no prefix, those of the language model have one.
    let prefix = match from.contains("wte.weight") {
        true => "",
        false => "transformer.",
    };
    let load = Loader {
        from,
        device,
        prefix: prefix.into(),
        turned: false,
        norm_bias: true,
        norm_offset: 0.0,
    };
    let d = c.d_model;
    let layers = (0..c.n_layers()).map(|l| {
        let qkv = load.linear(&format!("h.{l}.attn.c_attn"), [d, 3 * d], true)?;
        let part = |i: usize| Linear {
            weight: qkv.weight.clone().narrow(1, i * d, d),
            bias: qkv.bias.clone().map(|b| b.narrow(0, i * d, d)),
        };
        Ok(Layer {
            ln1: load.norm(&format!("h.{l}.ln_1"), d)?,
            q: part(0),
            k: part(1),
            v: part(2),
            q_norm: None,
            k_norm: None,
            o: load.linear(&format!("h.{l}.attn.c_proj"), [d, d], true)?,
            ln1_post: None,
            ln2: load.norm(&format!("h.{l}.ln_2"), d)?,
            gate: None,
            up: load.linear(&format!("h.{l}.mlp.c_fc"), [d, c.d_mlp], true)?,
            down: load.linear(&format!("h.{l}.mlp.c_proj"), [c.d_mlp, d], true)?,
            ln2_post: None,
        })
    });
    Ok(Weights {
        embed: from.matrix(&format!("{prefix}wte.weight"), [c.d_vocab, d], device)?,
        positions: Some(from.matrix(&format!("{prefix}wpe.weight"), [c.n_ctx, d], device)?),
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: load.norm("ln_f", d)?,
        unembed: match c.tied {
            true => None,
            false => Some(from.matrix("lm_head.weight", [c.d_vocab, d], device)?),
        },
        unembed_bias: None,
    })
}
