//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU. Layout: transformers,
//! `models/gpt2/{configuration,modeling}_gpt2.py`; its `Conv1D` keeps matrices as `[in, out]` and
//! queries, keys and values in one matrix.

use super::layout::{Layout, PLAIN, QkvNames};
use super::{heads, plain};
use crate::ModelError;
use crate::config::{Activation, Family, ModelConfig};
use crate::fields::Fields;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("n_embd")?;
    let n_heads = heads(fields, "n_head", d_model)?;
    fields.only("scale_attn_by_inverse_layer_idx", false)?;
    fields.only("scale_attn_weights", true)?;
    fields.only("add_cross_attention", false)?;
    let n_layers = fields.layers("n_layer")?;
    Ok(ModelConfig {
        d_mlp: fields.optional_size("n_inner")?.unwrap_or(4 * d_model),
        n_ctx: fields.size("n_positions")?,
        norm_eps: fields.number("layer_norm_epsilon")?,
        learned_positions: true,
        activation: Activation::read(fields, "activation_function")?,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        ..plain(Family::Gpt2, fields, n_layers, d_model, n_heads)?
    })
}

pub fn layout() -> Layout {
    Layout {
        prefix: "transformer.",
        turned: false,
        embed: "wte",
        positions: Some(("wpe", 0)),
        layers: "h",
        ln1: "ln_1",
        ln2: "ln_2",
        qkv: QkvNames::Together("attn.c_attn"),
        o: "attn.c_proj",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        final_norm: "ln_f",
        ..PLAIN
    }
}
