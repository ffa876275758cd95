//! GPT-NeoX (Black et al. 2022), of which Pythia is one: attention and MLP side by side, rotary
//! embedding of a part of each head. Layout: transformers,
//! `models/gpt_neox/{configuration,modeling}_gpt_neox.py`; queries, keys and values are in one
//! matrix, head by head.

use super::layout::{Layout, PLAIN, QkvNames};
use super::{heads, plain, rotate_all};
use crate::ModelError;
use crate::config::{Activation, Family, ModelConfig};
use crate::fields::Fields;
use crate::rotary::Rope;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = heads(fields, "num_attention_heads", d_model)?;
    let n_layers = fields.layers("num_hidden_layers")?;
    let bias = fields.flag("attention_bias")?;
    let mut c = ModelConfig {
        d_mlp: fields.size("intermediate_size")?,
        n_ctx: fields.size("max_position_embeddings")?,
        norm_eps: fields.number("layer_norm_eps")?,
        parallel: fields.flag("use_parallel_residual")?,
        activation: Activation::read(fields, "hidden_act")?,
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: true,
        ..plain(Family::NeoX, fields, n_layers, d_model, n_heads)?
    };
    let base = fields.number_or("rotary_emb_base", 10000.0)?;
    let fraction = fields.number_or("rotary_pct", 0.25)?;
    let rope = Rope::with(fields, base, fraction, c.d_head)?;
    rotate_all(&mut c, &rope);
    Ok(c)
}

pub fn layout() -> Layout {
    Layout {
        prefix: "gpt_neox.",
        embed: "embed_in",
        qkv: QkvNames::ByHead("attention.query_key_value"),
        o: "attention.dense",
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        final_norm: "final_layer_norm",
        // The old name is that of Pythia's files, the new one that of transformers 5.
        unembed: &["embed_out.weight", "lm_head.weight"],
        ..PLAIN
    }
}
