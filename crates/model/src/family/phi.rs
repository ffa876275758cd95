//! Phi-1, 1.5 and 2 (Gunasekar et al. 2023): attention and MLP side by side behind one norm, rotary embedding of a part
//! of each head, biases everywhere, the unembedding too. Layout: transformers, `models/phi/`.

use super::{Loader, heads, plain, rotate_all};
use crate::ModelError;
use crate::config::{Family, Fields, ModelConfig};
use crate::rotary::Rope;
use crate::tensor_file::TensorFile;
use crate::weights::{Layer, Weights};
use burn::tensor::Device;

pub fn config(fields: &Fields) -> Result<ModelConfig, ModelError> {
    let d_model = fields.size("hidden_size")?;
    let n_heads = heads(fields, "num_attention_heads", d_model)?;
    let n_layers = fields.layers("num_hidden_layers")?;
    fields.only("qk_layernorm", false)?;
    let mut c = ModelConfig {
        n_kv_heads: fields
            .optional_size("num_key_value_heads")?
            .unwrap_or(n_heads),
        d_mlp: fields.size("intermediate_size")?,
        n_ctx: fields
            .optional_size("max_position_embeddings")?
            .unwrap_or(2048),
        norm_eps: fields.number("layer_norm_eps", 1e-5)?,
        parallel: true,
        activation: fields.activation("hidden_act", "gelu_new")?,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        tied: fields.flag("tie_word_embeddings", false)?,
        ..plain(Family::Phi, fields, n_layers, d_model, n_heads)?
    };
    let field = match fields.get("rope_parameters") {
        Some(_) => "rope_parameters",
        None => "rope_scaling",
    };
    let rope = Rope::of(
        fields,
        field,
        fields.get(field),
        fields.number("rope_theta", 10000.0)?,
        fields.number("partial_rotary_factor", 0.5)?,
        c.d_head,
    )?;
    rotate_all(&mut c, &rope);
    Ok(c)
}

pub fn weights(c: &ModelConfig, from: &TensorFile, device: &Device) -> Result<Weights, ModelError> {
    let load = Loader {
        from,
        device,
        prefix: "model.".into(),
        turned: true,
        norm_bias: true,
        norm_offset: 0.0,
    };
    let (d, kv) = (c.d_model, c.n_kv_heads * c.d_head);
    let layers = (0..c.n_layers()).map(|l| {
        let at = |name: &str| format!("layers.{l}.{name}");
        let norm = load.norm(&at("input_layernorm"), d)?;
        Ok(Layer {
            ln1: norm.clone(),
            q: load.linear(&at("self_attn.q_proj"), [d, d], true)?,
            k: load.linear(&at("self_attn.k_proj"), [d, kv], true)?,
            v: load.linear(&at("self_attn.v_proj"), [d, kv], true)?,
            q_norm: None,
            k_norm: None,
            o: load.linear(&at("self_attn.dense"), [d, d], true)?,
            ln1_post: None,
            ln2: norm,
            gate: None,
            up: load.linear(&at("mlp.fc1"), [d, c.d_mlp], true)?,
            down: load.linear(&at("mlp.fc2"), [c.d_mlp, d], true)?,
            ln2_post: None,
        })
    });
    Ok(Weights {
        embed: from.matrix("model.embed_tokens.weight", [c.d_vocab, d], device)?,
        positions: None,
        layers: layers.collect::<Result<_, ModelError>>()?,
        final_norm: load.norm("final_layernorm", d)?,
        unembed: match c.tied {
            true => None,
            false => Some(from.matrix("lm_head.weight", [c.d_vocab, d], device)?),
        },
        unembed_bias: Some(from.vector("lm_head.bias", c.d_vocab, device)?),
    })
}
