//! Phi-1, 1.5 and 2 (Gunasekar et al. 2023): attention and MLP side by side behind one norm, rotary
//! embedding of a part of each head, biases everywhere, the unembedding too. Layout: transformers,
//! `models/phi/`.

use super::layout::{Layout, PLAIN};
use super::{heads, plain, rotate_all};
use crate::ModelError;
use crate::config::{Activation, Family, ModelConfig};
use crate::fields::Fields;
use crate::rotary::Rope;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = heads(fields, "num_attention_heads", d_model)?;
    let n_layers = fields.layers("num_hidden_layers")?;
    fields.only("qk_layernorm", false)?;
    let d_head = fields
        .optional_size("head_dim")?
        .unwrap_or(d_model / n_heads);
    let mut c = ModelConfig {
        d_head,
        attn_scale: (d_head as f64).powf(-0.5),
        n_kv_heads: fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(n_heads),
        d_mlp: fields.size("intermediate_size")?,
        n_ctx: fields.size("max_position_embeddings")?,
        norm_eps: fields.number("layer_norm_eps")?,
        parallel: true,
        activation: Activation::read(fields, "hidden_act")?,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        ..plain(Family::Phi, fields, n_layers, d_model, n_heads)?
    };
    let base = fields.number_or("rope_theta", 10000.0)?;
    let fraction = fields.number_or("partial_rotary_factor", 0.5)?;
    let rope = Rope::with(fields, base, fraction, c.d_head)?;
    rotate_all(&mut c, &rope);
    Ok(c)
}

pub fn layout() -> Layout {
    Layout {
        prefix: "model.",
        ln2: PLAIN.ln1,
        o: "self_attn.dense",
        up: "mlp.fc1",
        down: "mlp.fc2",
        final_norm: "final_layernorm",
        unembed_bias: Some("lm_head.bias"),
        ..PLAIN
    }
}
