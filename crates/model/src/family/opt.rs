//! OPT (Zhang et al. 2022): GPT-2 with ReLU, and positions that count from 2. Layout: transformers,
//! `models/opt/`.

use super::layout::{Layout, PLAIN};
use super::{heads, plain};
use crate::ModelError;
use crate::config::{Activation, Family, ModelConfig};
use crate::fields::Fields;

/// Rows of the position table before the first position.
const OFFSET: usize = 2;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = heads(fields, "num_attention_heads", d_model)?;
    let n_layers = fields.layers("num_hidden_layers")?;
    fields.only("do_layer_norm_before", true)?;
    fields.only("_remove_final_layer_norm", false)?;
    fields.only("layer_norm_elementwise_affine", true)?;
    if fields
        .optional_size("word_embed_proj_dim")?
        .is_some_and(|d| d != d_model)
    {
        return Err(fields.wrong(
            "word_embed_proj_dim",
            &format!("{d_model}, the hidden size"),
        ));
    }
    let bias = fields.flag("enable_bias")?;
    Ok(ModelConfig {
        d_mlp: fields.size("ffn_dim")?,
        n_ctx: fields.size("max_position_embeddings")?,
        learned_positions: true,
        activation: Activation::read(fields, "activation_function")?,
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        ..plain(Family::Opt, fields, n_layers, d_model, n_heads)?
    })
}

pub fn layout() -> Layout {
    Layout {
        prefix: "model.decoder.",
        positions: Some(("embed_positions", OFFSET)),
        ln1: "self_attn_layer_norm",
        ln2: "final_layer_norm",
        o: "self_attn.out_proj",
        up: "fc1",
        down: "fc2",
        final_norm: "final_layer_norm",
        ..PLAIN
    }
}
